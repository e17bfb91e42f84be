"""Folders that keep what outlives a process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plurallm.config.error import ConfigError
from plurallm.config.schema import Config


def cache_directory(config: Config) -> Path:
    """Make the folder that keeps embedding tables: ``cache_dir``, or the user's cache.

    Raises
    ------
    ConfigError
        When it cannot be made.
    """
    if config.cache_dir is not None:
        directory = Path(config.cache_dir)
    else:
        directory = _own("XDG_CACHE_HOME", ".cache", "cache_dir") / "plurallm"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"no cache can be kept in {directory}: give cache_dir=... ({error})"
        ) from error
    return directory


def state_directory(config: Config) -> Path:
    """Folder of what a node must not lose: ``state_dir``, or the user's state folder."""
    if config.state_dir is not None:
        return Path(config.state_dir)
    return _own("XDG_STATE_HOME", ".local/state", "state_dir") / "plurallm"


def home_directory(key: str) -> Path:
    """The user's home folder.

    Parameters
    ----------
    key : str
        What a user can give instead, for the message.

    Raises
    ------
    ConfigError
        Where there is none: in a container without HOME, for a user whom the system does not know.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise ConfigError(
            f"no home folder: HOME is not set, and the system does not know user {os.getuid()}: "
            f"give {key}=..., or set HOME"
        ) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a file in whatever keeps it from being written: a full disk does not say which it is.

    Raises
    ------
    OSError
        Naming the file.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"{path} cannot be written: {reason}") from error


def _own(variable: str, usual: str, key: str) -> Path:
    given = os.environ.get(variable)
    return Path(given) if given else home_directory(key) / usual
