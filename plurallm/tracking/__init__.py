"""A run's folder, Weights & Biases, and progress: what a run leaves behind and shows."""

from plurallm.tracking.folder import RunFolder
from plurallm.tracking.progress import ProgressTracker, progress_text
from plurallm.tracking.trackers import Tracker, Trackers, open_trackers, versions
from plurallm.tracking.wandb import WandbTracker, log_tables

__all__ = [
    "ProgressTracker",
    "RunFolder",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "log_tables",
    "open_trackers",
    "progress_text",
    "versions",
]
