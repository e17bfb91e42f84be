"""How many processes all nodes of a user may run at a time on a machine."""

import fcntl
import os
import tempfile
from pathlib import Path


def slots_folder() -> Path:
    """Folder of the files that count this user's processes on this machine.

    Raises
    ------
    PermissionError
        When it is another user's, who could hold every slot.
    """
    folder = Path(tempfile.gettempdir()) / f"plurallm-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to another user: remove it, or set TMPDIR")
    return folder


class Slots:
    """A number of processes that all nodes of a user may run at a time on a machine.

    A process holds the lock of a file for as long as it lives, however it ends.

    Parameters
    ----------
    folder : Path
        With a file for each slot.
    count : int
        Number of slots, at least 1.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [folder / f"slot-{number}" for number in range(count)]

    def take(self) -> int | None:
        """Give the descriptor that holds a free slot; None when all are taken."""
        for file in self._files:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                os.close(descriptor)
        return None
