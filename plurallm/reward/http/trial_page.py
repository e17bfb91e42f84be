"""The server's pages: each one file without a reference to any other, and what it may do."""

import base64
import hashlib
from functools import cache
from importlib.resources import files

_POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@cache
def page(name: str) -> tuple[str, str]:
    """Put a page together.

    Parameters
    ----------
    name : str
        ``"try"`` or ``"docs"``: its HTML and script in ``pages/``.

    Returns
    -------
    html, policy : str
        The page, and its Content-Security-Policy: only its own style and script, by their digests,
        and requests to the server that it came from.
    """
    folder = files("plurallm.reward.http") / "pages"
    style = (folder / "style.css").read_text(encoding="utf-8")
    script = (folder / f"{name}.js").read_text(encoding="utf-8")
    html = (folder / f"{name}.html").read_text(encoding="utf-8")
    html = html.replace("<style></style>", f"<style>{style}</style>")
    html = html.replace("<script></script>", f"<script>{script}</script>")
    return html, _POLICY.format(script=_digest(script), style=_digest(style))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
