"""Vectors out of a file: made elsewhere, or converted from a published one.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``F`` rows of the file;
``D`` embedding width.
"""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plurallm.config.learning import TableEmbedding
from plurallm.data.embedding.pairs import Pair
from plurallm.data.embedding.scale import unit_mean_square


def write_vectors(path: Path, pairs: Sequence[Pair], vector_RD: npt.NDArray[np.float32]) -> None:
    """Write the file that ``embedding=table`` reads.

    Parameters
    ----------
    path : Path
        Ends in ``.npz``.
    pairs : sequence of (str, str)
        Questions and options.
    vector_RD : ndarray of shape (R, D), float32
        One vector each.
    """
    np.savez(
        path,
        question=np.array([question for question, _ in pairs], dtype=np.str_),
        option=np.array([option for _, option in pairs], dtype=np.str_),
        vector=vector_RD,
    )


def write_texts(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the texts that ``embedding=table`` needs vectors of.

    Parameters
    ----------
    path : Path
        A CSV file with the columns ``question`` and ``option``, in UTF-8.
    pairs : sequence of (str, str)
        Questions and options.

    Raises
    ------
    FileExistsError
        When it is there already.
    """
    try:
        with path.open("x", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("question", "option"), *pairs])
    except FileExistsError as error:
        raise FileExistsError(
            f"{path} is there already: remove it, or choose another name"
        ) from error


def look_up(pairs: Sequence[Pair], config: TableEmbedding) -> npt.NDArray[np.float32]:
    """Take vectors from a file.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Questions and options.
    config : TableEmbedding
        Path of an npz file with the arrays ``question`` and ``option``, texts of shape (F,), and
        ``vector`` of shape (F, D).

    Returns
    -------
    ndarray of shape (R, D), float32
        Mean square 1 in each row.

    Raises
    ------
    ValueError
        When the file is not such a file, lacks a text, or has two vectors for one.
    """
    try:
        with np.load(config.path, allow_pickle=False) as file:
            question_F, option_F, vector_FD = (
                file[name] for name in ("question", "option", "vector")
            )
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{config.path} is no npz file with question, option and vector: {error}"
        ) from error
    if vector_FD.ndim != 2 or not len(vector_FD) == len(question_F) == len(option_F):
        raise ValueError(
            f"{config.path}: question {question_F.shape}, option {option_F.shape} and vector "
            f"{vector_FD.shape} do not fit together"
        )
    rows = zip(question_F.tolist(), option_F.tolist(), strict=True)
    row: dict[Pair, int] = {}
    for number, pair in enumerate(rows):
        first = row.setdefault(pair, number)
        if not np.array_equal(vector_FD[first], vector_FD[number], equal_nan=True):
            raise ValueError(
                f"{config.path}: rows {first} and {number} have different vectors for question "
                f"{pair[0]!r} with option {pair[1]!r}: remove one of them"
            )
    missing = [pair for pair in pairs if pair not in row]
    if missing:
        raise ValueError(
            f"{config.path} lacks {len(missing)} of {len(pairs)} texts, first: "
            f"question {missing[0][0]!r} with option {missing[0][1]!r} (plurallm texts OUT.csv "
            "writes all texts to embed; embedding.list_options says whether options are listed)"
        )
    return unit_mean_square(vector_FD[[row[pair] for pair in pairs]].astype(np.float32))
