"""A run's folder, Weights & Biases, and progress: what a run leaves behind and shows."""

from plurallm.tracking.folder import RunFolder
from plurallm.tracking.lock import SUBMITTED, WRITING, check_unlocked, lock_run
from plurallm.tracking.progress import ProgressTracker, progress_text
from plurallm.tracking.trackers import Tracker, Trackers, open_trackers, versions
from plurallm.tracking.wandb import WandbTracker, log_tables

__all__ = [
    "SUBMITTED",
    "WRITING",
    "ProgressTracker",
    "RunFolder",
    "Tracker",
    "Trackers",
    "WandbTracker",
    "check_unlocked",
    "lock_run",
    "log_tables",
    "open_trackers",
    "progress_text",
    "versions",
]
