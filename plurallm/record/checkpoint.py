"""State of a federation on disk: weights, round, and what else the next round depends on.

A checkpoint is one safetensors file, written aside and renamed, with a digest of all it holds.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from plurallm.config.directories import writing

Arrays = dict[str, npt.NDArray[Any]]
"""A model's weights by name."""

_KEEP = 2

_STRATEGY = "strategy/"
"""Before the names of a strategy's arrays: no weight's name has a slash."""

logger = logging.getLogger("plurallm")


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on.

    Attributes
    ----------
    round_number : int
        Last finished round.
    arrays : dict of str to ndarray
        Global weights after it.
    state : dict
        Anything else, as JSON can hold it.
    strategy_arrays : dict of str to ndarray
        The strategy's own state in arrays.
    """

    round_number: int
    arrays: Arrays
    state: dict[str, Any]
    strategy_arrays: Arrays = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; the one before stays until this one is complete.

    Parameters
    ----------
    folder : Path
        Made when missing.
    checkpoint : Checkpoint
        What to write.

    Returns
    -------
    Path
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"round-{checkpoint.round_number:06d}.safetensors"
    state = json.dumps({"round": checkpoint.round_number, **checkpoint.state})
    arrays = checkpoint.arrays | {
        _STRATEGY + name: array for name, array in checkpoint.strategy_arrays.items()
    }
    save_arrays(path, arrays, {"state": state, "digest": _digest(arrays, state)})
    for old in sorted(folder.glob("round-*.safetensors"))[:-_KEEP]:
        old.unlink()
    return path


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read the newest checkpoint that is complete.

    Parameters
    ----------
    folder : Path
        A run's ``checkpoint`` folder.

    Returns
    -------
    Checkpoint
        The newest whose digest is right; a damaged one is named in the log.

    Raises
    ------
    FileNotFoundError
        When there is none.
    """
    for path in sorted(folder.glob("round-*.safetensors"), reverse=True):
        try:
            return _read(path)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            logger.warning("%s is damaged (%s): taking the one before", path, error)
    raise FileNotFoundError(f"{folder} holds no complete checkpoint")


def save_arrays(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as safetensors so that the file is there whole or not at all."""
    part = path.with_suffix(".part")
    # safetensors writes the memory of a view as it lies, not as it reads.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with writing(path):
        try:
            save_file(contiguous, part, metadata=dict(metadata or {}))
        except SafetensorError as error:
            raise OSError(str(error)) from error
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)


def _read(path: Path) -> Checkpoint:
    with safe_open(path, framework="np") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["digest"] != _digest(arrays, metadata["state"]):
        raise ValueError("its digest does not fit")
    state = json.loads(metadata["state"])
    own = {name.removeprefix(_STRATEGY) for name in arrays if name.startswith(_STRATEGY)}
    strategy_arrays = {name: arrays.pop(_STRATEGY + name) for name in sorted(own)}
    return Checkpoint(state.pop("round"), arrays, state, strategy_arrays)


def _digest(arrays: Arrays, state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
