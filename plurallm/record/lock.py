"""The lock of a run's folder: one writer, and one submission, at a time.

The system lets go of a lock however its holder ends: that the file is there blocks nobody.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

WRITING = ".lock"
"""Held by the process that runs the ServerApp."""

SUBMITTED = ".submitted.lock"
"""Held by the process that submitted the run, until it has seen its end."""


@contextmanager
def lock_run(path: Path, name: str = WRITING) -> Iterator[None]:
    """Keep a run's folder to this process; beside the lock stands who holds it.

    Parameters
    ----------
    path : Path
        The run's folder; made when missing.
    name : str
        `WRITING` or `SUBMITTED`.

    Raises
    ------
    FileExistsError
        When another process holds it; the message names process, machine and since when.
    """
    path.mkdir(parents=True, exist_ok=True)
    holder = path / f"{name}.json"
    # The descriptor is not inherited, so that no process left behind holds the lock.
    try:
        lock = FileLock(path / name).acquire(timeout=0)
    except Timeout:
        raise FileExistsError(
            f"the run in {path} still goes on ({_told(holder)}): wait for it, or stop it"
        ) from None
    with lock:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        part = holder.with_name(f"{holder.name}.part")
        part.write_text(json.dumps(own), encoding="utf-8")
        os.replace(part, holder)
        yield


def check_unlocked(path: Path) -> None:
    """Refuse a folder that a run writes to now; its holder is named as by `lock_run`."""
    if path.exists():
        with lock_run(path):
            pass


def _told(holder: Path) -> str:
    try:
        own = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {own['pid']} on {own['host']}, since {own['since']}"
    except (OSError, ValueError, KeyError):  # it has only just begun
        return "its holder has not said yet who it is"
