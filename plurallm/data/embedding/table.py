"""Vectors of "question + option" texts: one table a process, cached on disk.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from plurallm.config.device import choose_device
from plurallm.config.directories import writing
from plurallm.config.learning import EmbeddingConfig
from plurallm.data.embedding.fingerprint import embedder_fingerprint
from plurallm.data.embedding.models import release_models
from plurallm.data.embedding.pairs import Pair

# Part of the cache key: raise it when an embedder's vectors change for the same configuration.
_VERSION = 2

PROBE: Pair = ("How much do you trust doctors and hospitals?", "A great deal")
"""A text whose vector tells whether two embedders are the same."""

logger = logging.getLogger("plurallm")


def embed_pairs(
    pairs: Sequence[Pair], config: EmbeddingConfig, device: str = "auto"
) -> npt.NDArray[np.float32]:
    """Embed texts now, without the cache; a model that was loaded stays in memory.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Questions and options.
    config : EmbeddingConfig
        Which embedder.
    device : str
        Where to compute, unless ``embedding.device`` says it.

    Returns
    -------
    ndarray of shape (R, D), float32
        A row each, mean square about 1. Which other texts there are changes a row by rounding
        alone.

    Raises
    ------
    ValueError
        When the embedder's package, its model or the device is missing.
    """
    return _embed(pairs, config, device, None)


def embedding_table(
    pairs: Sequence[Pair], config: EmbeddingConfig, cache_dir: Path, device: str = "auto"
) -> Tensor:
    """Embed texts, or take the table from the cache.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Questions and options, one row each.
    config : EmbeddingConfig
        Which embedder.
    cache_dir : Path
        Tables lie in its folder ``embeddings``, named by a digest of all that they depend on.
    device : str
        Where to compute, unless ``embedding.device`` says it.

    Returns
    -------
    Tensor of shape (R, D), float32, on the CPU
        Bitwise the same whether it was computed or read.

    Raises
    ------
    ValueError
        When a cached file is not the table that its name promises, or as in `embed_pairs`.
    """
    path = table_path(pairs, config, cache_dir)
    if not path.exists():
        _make(path, pairs, config, device)
        probe_vector(config, cache_dir, device)  # while the model is in memory
        release_models()
    return _read(path, len(pairs))


def table_path(pairs: Sequence[Pair], config: EmbeddingConfig, cache_dir: Path) -> Path:
    """Where the cache keeps a table.

    Its name holds a digest of the texts, of the configuration and of the content of the embedder's
    files. Where these lie, and where the table was computed, is no part of it.
    """
    places = ("device", "model", "path")
    settings = {key: value for key, value in asdict(config).items() if key not in places}
    settings["embedder"] = embedder_fingerprint(config, cache_dir)
    digest = hashlib.sha256(json.dumps([_VERSION, settings], sort_keys=True).encode())
    for pair in pairs:
        digest.update(json.dumps(pair).encode())
    return cache_dir / "embeddings" / f"{config.name}-{digest.hexdigest()[:32]}.npy"


def probe_vector(config: EmbeddingConfig, cache_dir: Path, device: str = "auto") -> list[float]:
    """Vector of ``PROBE``, from the cache where it is there.

    Returns
    -------
    list of float, length D
        Mean square about 1; empty for an embedder that knows its own texts alone.
    """
    if not config.any_text:
        return []
    table = table_path([PROBE], config, cache_dir)
    path = table.parent / "probes" / table.name
    if not path.exists():
        _make(path, [PROBE], config, device)
    vector_D: list[float] = _read(path, 1)[0].tolist()
    return vector_D


def _make(path: Path, pairs: Sequence[Pair], config: EmbeddingConfig, device: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The clients of a simulation start together: one embeds, the others wait and read.
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            if len(pairs) > 1:
                logger.info("embedding %d texts with %s", len(pairs), config.name)
            parts = path.with_suffix(".parts")
            _write(path, _embed(pairs, config, device, parts))
            shutil.rmtree(parts, ignore_errors=True)


def _embed(
    pairs: Sequence[Pair], config: EmbeddingConfig, device: str, parts: Path | None
) -> npt.NDArray[np.float32]:
    where = str(choose_device(getattr(config, "device", None) or device))
    table_RD = config.embed(pairs, where, parts)
    broken = np.flatnonzero(~np.isfinite(table_RD).all(1))
    if len(broken):
        raise ValueError(
            f"embedding={config.name} gives no finite vector for {pairs[broken[0]]!r} "
            f"({len(broken)} of {len(pairs)} texts); float16 overflows where float32 does not"
        )
    return table_RD


def _write(path: Path, table_RD: npt.NDArray[np.float32]) -> None:
    with (
        writing(path),
        tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file,
    ):
        try:
            np.save(file, table_RD)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _read(path: Path, rows: int) -> Tensor:
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is not a readable embedding table: delete it") from error
    if stored.dtype != np.float32 or stored.ndim != 2 or len(stored) != rows:
        raise ValueError(f"{path} holds {stored.dtype} {stored.shape}, not {rows} rows: delete it")
    # Memory of torch's own is aligned alike in every process, which bitwise equality needs.
    table_RD = torch.empty(stored.shape)
    table_RD.numpy()[:] = stored
    return table_RD
