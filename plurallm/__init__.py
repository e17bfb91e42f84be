"""PluralLLM: federated preference prediction for many groups, as a Flower app.

Everything that a notebook needs is here; what is not asked for is not imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plurallm.config.compose import load_config
    from plurallm.data.survey import Survey
    from plurallm.results.results import Results, compare
    from plurallm.results.run import Run, train
    from plurallm.reward.model import PreferenceRewardModel
    from plurallm.reward.scorer import Scorer
    from plurallm.study import Study

__version__ = "0.1.0"

__all__ = [
    "PreferenceRewardModel",
    "Results",
    "Run",
    "Scorer",
    "Study",
    "Survey",
    "compare",
    "load_config",
    "train",
]

_PLACES = {
    "PreferenceRewardModel": "plurallm.reward.model",
    "Results": "plurallm.results.results",
    "Run": "plurallm.results.run",
    "Scorer": "plurallm.reward.scorer",
    "Study": "plurallm.study",
    "Survey": "plurallm.data.survey",
    "compare": "plurallm.results.results",
    "load_config": "plurallm.config.compose",
    "train": "plurallm.results.run",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'plurallm' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
