"""Everything that is told of a run, together."""

import importlib.metadata
import platform
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from plurallm import __version__
from plurallm.config.schema import Config, WandbTracking
from plurallm.record.progress import ProgressTracker
from plurallm.record.run_folder import RunFolder
from plurallm.record.wandb_tracker import WandbTracker


class Tracker(Protocol):
    """Receives what a run reports."""

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Take one round's lines."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the summary of a finished run."""

    def close(self) -> None:
        """Let go of what is open, also after a failure."""


class Trackers:
    """Several trackers as one, closed together.

    Parameters
    ----------
    *trackers : Tracker
        In the order in which they are told.
    """

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            tracker.close()

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.log_round(metrics, timings)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.finish(summary)


def open_trackers(config: Config, folder: RunFolder, first_round: int) -> Trackers:
    """Make the trackers that the configuration asks for."""
    trackers: list[Tracker] = [folder, ProgressTracker(config.federation.rounds, first_round)]
    if isinstance(config.tracking, WandbTracking):
        trackers.append(WandbTracker(config, folder.path))
    return Trackers(*trackers)


def versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    names = ("flwr", "torch", "numpy", "scikit-learn", "hydra-core")
    return {"plurallm": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }
