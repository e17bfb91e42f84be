"""Folders that keep what outlives a process."""

import os
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
        directory = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "plurallm"
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
    state = os.environ.get("XDG_STATE_HOME", "~/.local/state")
    return Path(state).expanduser() / "plurallm"
