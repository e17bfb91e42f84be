"""What a data holder's node remembers of its own survey, so that a run keeps to one.

Nothing of it leaves the node: not even a digest, from which few answers could be guessed. The
server learns that a group refuses to go on with other answers than it began with.
"""

import hashlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from plurallm.federate.node.permission import RefusalError

RUNS_KEPT = 1000
"""Runs that are remembered; the oldest are forgotten first."""


def check_run_name(run: str) -> None:
    """Refuse a run's name that could be anything but one folder's.

    Raises
    ------
    ValueError
        When it is not 16 hexadecimal digits.
    """
    if not re.fullmatch("[0-9a-f]{16}", run):
        raise ValueError(f"the run's name {run!r} is not 16 hexadecimal digits")


def check_unchanged(state: Path, run: str, survey: Mapping[str, str]) -> None:
    """Remember the survey that a run began with, and refuse another one.

    Parameters
    ----------
    state : Path
        The node's state folder.
    run : str
        The server's name for the run, which a resumed run keeps.
    survey : mapping of str to str
        Fingerprint of each group that is asked for.

    Raises
    ------
    RefusalError
        Naming the group whose answers or questions have changed since the run first asked for it;
        or when nothing can be remembered.
    """
    check_run_name(run)
    runs = state / "surveys"
    try:
        if not (runs / run).is_dir():
            (runs / run).mkdir(parents=True, exist_ok=True)
            _forget_oldest(runs)
        for group, fingerprint in survey.items():
            file = runs / run / hashlib.sha256(group.encode()).hexdigest()[:32]
            if not file.exists():
                file.write_text(fingerprint, encoding="ascii")
            elif file.read_text(encoding="ascii", errors="replace") != fingerprint:
                raise RefusalError(
                    f"the survey of group {group!r} has changed since the run began: a run keeps "
                    "to one survey; restore the node's file, or start another run"
                )
    except OSError as error:
        raise RefusalError(
            f"the node can remember nothing in {state} ({error.strerror}): its data holder must "
            "give --state-dir"
        ) from error


def _forget_oldest(runs: Path) -> None:
    known = sorted((path for path in runs.iterdir()), key=lambda path: path.stat().st_mtime_ns)
    for old in known[:-RUNS_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
