"""Vectors of "question + option" texts: one table a process, cached on disk.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from plurallm.config import EmbeddingConfig
from plurallm.embedding.hashing import Pair, hash_texts
from plurallm.survey import Survey

# Part of the cache key: raise it when an embedder's vectors change for the same configuration.
_VERSION = 1

logger = logging.getLogger("plurallm")


def distinct_pairs(survey: Survey) -> dict[Pair, int]:
    """Row of the table for every distinct (question, option), in the survey's order."""
    pairs = ((q.text, option) for q in survey.questions for option in q.options)
    return {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}


def embedding_table(pairs: Sequence[Pair], config: EmbeddingConfig, cache_dir: Path) -> Tensor:
    """Embed texts, or take the table from the cache.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Questions and options, one row each.
    config : EmbeddingConfig
        Which embedder.
    cache_dir : Path
        Tables lie in its folder ``embeddings``, named by a digest of all that they depend on.

    Returns
    -------
    Tensor of shape (R, D), float32
        Bitwise the same whether it was computed or read.

    Raises
    ------
    ValueError
        When a cached file is not the table that its name promises.
    """
    key = _key(pairs, config)
    path = cache_dir / "embeddings" / f"{config.name}-{key}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # The clients of a simulation start together: one embeds, the others wait and read.
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                logger.info("embedding %d texts with %s", len(pairs), config.name)
                _write(path, _EMBEDDERS[config.name](pairs, config))
    return _read(path, len(pairs))


_EMBEDDERS: dict[str, Callable[[Sequence[Pair], Any], npt.NDArray[np.float32]]] = {
    "hashing": hash_texts,
}


def _key(pairs: Sequence[Pair], config: EmbeddingConfig) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, asdict(config)], sort_keys=True).encode())
    for pair in pairs:
        digest.update(json.dumps(pair).encode())
    return digest.hexdigest()[:32]


def _write(path: Path, table_RD: npt.NDArray[np.float32]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
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
