"""Files that hold tables: CSV, compressed or not, and parquet."""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

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


def table_rows(path: Path) -> Iterator[_Row]:
    """Read a table row by row.

    Parameters
    ----------
    path : Path
        ``.csv`` or ``.csv.gz`` in UTF-8, or ``.parquet``.

    Yields
    ------
    number, cells
        Number of the row's last line in a text file, of the row in a parquet file; cells by column.

    Raises
    ------
    SurveyError
        When the file cannot be read, a column's name stands twice in the header, or a row has
        not as many cells as the header.
    """
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    if not path.name.endswith((".csv", ".csv.gz")):
        raise SurveyError(
            f"{path}: a survey file ends in .csv, .csv.gz or .parquet; a file "
            "of persons (SPSS, Stata, Excel, ...) needs data=respondents"
        )
    # One cell of GlobalOpinionQA holds the answers of all countries.
    csv.field_size_limit(2**24)
    try:
        with _open_text(path) as file:
            reader = csv.DictReader(file)
            refuse_doubles(path, reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    raise SurveyError(
                        f"{path}, row {reader.line_num}: it has not as many cells as the header"
                    )
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise SurveyError(f"{path}: not a readable CSV file in UTF-8: {error}") from error


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


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


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
