"""The columns of a file of persons, as codes.

Dimension letters: ``P`` persons.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label
from plurallm.data.respondents.codes import Variable, in_order


@dataclass(frozen=True)
class Column:
    """The cells of one column.

    Attributes
    ----------
    codes : tuple of str
        Distinct cells in order; a whole number is the same with and without a decimal point.
    code_P : ndarray of shape (P,), int32
        Position in `codes` for each person; -1 for an empty cell.
    """

    codes: tuple[str, ...]
    code_P: npt.NDArray[np.int32]

    def texts(self) -> list[str]:
        """The cell of each person; empty ones as empty texts."""
        known = (*self.codes, "")
        return [known[code] for code in self.code_P]


@dataclass(frozen=True)
class Sheet:
    """A file of persons.

    Attributes
    ----------
    path : Path
        The file.
    told : str
        What kind of file it is, with what was found out about it.
    columns : dict of str to Column
        In the order of the file.
    variables : dict of str to Variable
        What the file itself says of its columns.
    first_row : int
        Number of the first person's row: 2 where a header stands above it.
    """

    path: Path
    told: str
    columns: dict[str, Column]
    variables: dict[str, Variable] = field(default_factory=dict)
    first_row: int = 1

    @property
    def persons(self) -> int:
        """Number of persons."""
        return len(next(iter(self.columns.values())).code_P)


def column_of(cells: Any, pa: Any) -> Column:
    """Cells as codes; `cells` is an Arrow column, an array or a list."""
    try:
        column = cells if isinstance(cells, pa.ChunkedArray) else pa.array(cells, from_pandas=True)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        # Numbers and texts in one column.
        texts = [
            label(cell) for cell in (cells.to_pylist() if hasattr(cells, "to_pylist") else cells)
        ]
        encoded = pa.array(texts).dictionary_encode()
    raw = [label(cell) for cell in encoded.dictionary.to_pylist()]
    return recoded(raw, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False))


def recoded(raw: Sequence[str], raw_P: npt.NDArray[Any]) -> Column:
    """Give equal codes one place, all in order; an empty one is -1."""
    codes = in_order({code for code in raw if code})
    place = {code: number for number, code in enumerate(codes)} | {"": -1}
    new = np.array([*(place[code] for code in raw), -1], np.int32)
    return Column(codes, new[raw_P])


def import_for(name: str, path: Path) -> Any:
    """Import a library of the extra, or say how to install it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SurveyError(
            f"{path}: reading it needs {name}: pip install 'plurallm[respondents]'"
        ) from error


def one_line(error: Exception) -> str:
    """The text of an error, in one line."""
    return " ".join(str(error).split())[:200]
