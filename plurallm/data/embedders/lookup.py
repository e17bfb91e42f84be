"""Vectors out of a file: made elsewhere, or converted from a published one.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``F`` rows of the file;
``D`` embedding width.
"""

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.learning import EmbeddingConfig
from plurallm.config.ranges import SECTION, Text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from plurallm.data.embedding.pairs import Pair


def write_vectors(
    path: Path, pairs: "Sequence[Pair]", vector_RD: "npt.NDArray[np.float32]"
) -> None:
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
    import numpy as np

    np.savez(
        path,
        question=np.array([question for question, _ in pairs], dtype=np.str_),
        option=np.array([option for _, option in pairs], dtype=np.str_),
        vector=vector_RD,
    )


def write_texts(path: Path, pairs: "Sequence[Pair]") -> None:
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


@dataclass(frozen=True, config=SECTION)
class TableEmbedding(EmbeddingConfig):
    """Vectors out of an npz file.

    It has the arrays ``question`` and ``option``, texts of shape (F,), and ``vector`` of shape
    (F, D).
    """

    name: Literal["table"]
    path: Text
    list_options: bool

    any_text = False

    def place(self) -> Path:
        """The file."""
        place = Path(self.path)
        if not place.is_file():
            raise ValueError(f"embedding.path={place}: no such file")
        return place

    def embed(
        self, pairs: "Sequence[Pair]", device: str, keep: Path | None
    ) -> "npt.NDArray[np.float32]":
        """Take the vectors of some texts.

        Raises
        ------
        ValueError
            When the file is not such a file, lacks a text, or has two vectors for one.
        """
        import numpy as np

        from plurallm.data.embedding.scale import unit_mean_square

        try:
            with np.load(self.path, allow_pickle=False) as file:
                question_F, option_F, vector_FD = (
                    file[name] for name in ("question", "option", "vector")
                )
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{self.path} is no npz file with question, option and vector: {error}"
            ) from error
        if vector_FD.ndim != 2 or not len(vector_FD) == len(question_F) == len(option_F):
            raise ValueError(
                f"{self.path}: question {question_F.shape}, option {option_F.shape} and vector "
                f"{vector_FD.shape} do not fit together"
            )
        rows = zip(question_F.tolist(), option_F.tolist(), strict=True)
        row: dict[Pair, int] = {}
        for number, pair in enumerate(rows):
            first = row.setdefault(pair, number)
            if not np.array_equal(vector_FD[first], vector_FD[number], equal_nan=True):
                raise ValueError(
                    f"{self.path}: rows {first} and {number} have different vectors for question "
                    f"{pair[0]!r} with option {pair[1]!r}: remove one of them"
                )
        missing = [pair for pair in pairs if pair not in row]
        if missing:
            raise ValueError(
                f"{self.path} lacks {len(missing)} of {len(pairs)} texts, first: "
                f"question {missing[0][0]!r} with option {missing[0][1]!r} (plurallm texts "
                "OUT.csv writes all texts to embed; embedding.list_options says whether options "
                "are listed)"
            )
        return unit_mean_square(vector_FD[[row[pair] for pair in pairs]].astype(np.float32))
