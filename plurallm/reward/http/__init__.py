"""The reward model behind HTTP: OpenRLHF's protocol, one of our own, and a page to try it."""

try:
    import fastapi  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:  # pragma: no cover
    raise ImportError("the server needs FastAPI: pip install 'plurallm[serve]'") from error

from plurallm.reward.http.app import make_app
from plurallm.reward.http.server import run_server

__all__ = ["make_app", "run_server"]
