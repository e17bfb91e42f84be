"""Files that hold tables: CSV and TSV, compressed or not, and parquet."""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plurallm.config.surveys import DELIMITERS
from plurallm.data.formats.dialect import (
    damaged_place,
    find_encoding,
    open_text,
    other_delimiter,
)

_Row = tuple[int, dict[str, Any]]


class SurveyError(ValueError):
    """A survey file that cannot be used; the message names file, row and reason."""


def file_state(path: Path) -> tuple[int, int, int, int, int]:
    """Device, inode, size, and times of change in ns: another one where a file may have changed.

    The time of the last change of the inode cannot be set back, so that a file which was rewritten
    under its name, size and time of change shows all the same.
    """
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
"""Of files that can be read, in small letters or capital ones."""


def table_rows(
    path: Path, delimiter: str | None = None, encoding: str | None = None
) -> Iterator[_Row]:
    """Read a table row by row.

    Parameters
    ----------
    path : Path
        Its name ends in one of ``ENDINGS``.
    delimiter : str, optional
        Of a text, a key of ``DELIMITERS``; by default the comma, or the tab in ``.tsv``.
    encoding : str, optional
        Of a text; UTF-8 by default.

    Yields
    ------
    number, cells
        Number of the row's last line in a text file, of the row in a parquet file; cells by column.

    Raises
    ------
    SurveyError
        When the file cannot be read, its delimiter or encoding seems to be another, a column's name
        stands twice in the header, or a row has not as many cells as the header.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        yield from _parquet_rows(path)
        return
    if not name.endswith(ENDINGS):
        raise SurveyError(
            f"{path}: a survey file ends in {', '.join(ENDINGS)}; a file "
            "of persons (SPSS, Stata, Excel, ...) needs data=respondents"
        )
    usual = "tab" if name.endswith((".tsv", ".tsv.gz")) else "comma"
    sign = DELIMITERS[delimiter or usual]
    # One cell of GlobalOpinionQA holds the answers of all countries.
    csv.field_size_limit(2**24)
    try:
        with open_text(path, encoding or "utf-8-sig") as file:
            reader = csv.DictReader(file, delimiter=sign)
            header = reader.fieldnames or ()
            refuse_doubles(path, header)
            _refuse_other_shape(path, header, sign)
            for row in reader:
                if None in row or None in row.values():
                    raise SurveyError(
                        f"{path}, row {reader.line_num}: it has not as many cells as the header"
                    )
                yield reader.line_num, row
    except UnicodeError as error:
        raise SurveyError(f"{path}: {_other_encoding(path, encoding)}") from error
    except (csv.Error, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise SurveyError(f"{path}: not a readable CSV file: {error}") from error


def _refuse_other_shape(path: Path, header: Sequence[str], sign: str) -> None:
    """Refuse a text whose header shows another delimiter, or UTF-16 without its mark."""
    if any("\0" in name for name in header):
        raise SurveyError(f"{path}: {_other_encoding(path, None)}")
    found = other_delimiter(header, sign)
    if found:
        used = next(name for name, own in DELIMITERS.items() if own == sign)
        raise SurveyError(
            f"{path}: its cells seem to be separated by {found}, not by {used}: give "
            f"data.delimiter={found}, or save it with {used}s"
        )


def _other_encoding(path: Path, encoding: str | None) -> str:
    """What to say of a text that is not in the encoding it was read in."""
    if encoding is not None:
        return f"it is not in data.encoding={encoding}"
    found = find_encoding(path)
    place = damaged_place(path) if found == "cp1252" else None
    if place is not None:
        return f"it is UTF-8 for the most part, but not in {place}: repair that line"
    told = {"cp1252": "cp1252 (Windows-1252, Latin-1)"}.get(found, found)
    return f"it is not in UTF-8 but, it seems, in {told}: give data.encoding={found}"


def check_file(path: Path) -> None:
    """Refuse a path that is no file.

    Raises
    ------
    SurveyError
        Naming it.
    """
    if path.is_dir():
        raise SurveyError(f"{path} is a folder; data.path names the survey file")
    if not path.is_file():
        raise SurveyError(f"{path}: no such file; data.path names the survey file")


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import read_table
    except ImportError as error:
        raise SurveyError(
            f"{path}: parquet needs pyarrow: pip install 'plurallm[parquet]'"
        ) from error
    try:
        table = read_table(path)
    except ArrowInvalid as error:
        raise SurveyError(f"{path}: not a parquet file: {error}") from error
    refuse_doubles(path, table.column_names)
    yield from enumerate(table.to_pylist(), start=1)


def refuse_doubles(path: Path, columns: Iterable[str]) -> None:
    """Refuse a header in which a name stands twice: which column is meant, nobody can tell."""
    doubles = [name for name, times in Counter(map(str.strip, columns)).items() if times > 1]
    if any(doubles):
        raise SurveyError(
            f"{path}: the column {next(filter(None, doubles))!r} stands twice in the header: "
            "rename or remove one of them"
        )
