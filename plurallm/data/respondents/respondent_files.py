"""Files with one row a person: CSV, TSV, parquet, Excel, SPSS, Stata.

Dimension letters: ``P`` persons.
"""

import codecs
import csv
import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label
from plurallm.data.respondents.codes import Variable, in_order

ENDINGS = (
    *(".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet"),
    *(".xlsx", ".sav", ".zsav", ".por", ".dta"),
)
"""Files that can be read."""

_SAMPLE = 2**16
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_KINDS = {"ordinal": "ordinal", "nominal": "nominal"}  # of SPSS; "scale" is its default for all


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


def read_sheet(path: Path, encoding: str | None = None, sheet: str | None = None) -> Sheet:
    """Read a file of persons.

    Parameters
    ----------
    path : Path
        Its name ends in one of ``ENDINGS``.
    encoding : str, optional
        Of a text file; by default UTF-8 or UTF-16, or Windows-1252 where it is neither. Of SPSS
        and Stata files, where the file itself does not say.
    sheet : str, optional
        Which sheet of an Excel file; needed where there are several.

    Returns
    -------
    Sheet
        All columns.

    Raises
    ------
    SurveyError
        Naming the file, and what is wrong: an unknown ending, an encrypted or truncated file, a
        column that stands twice, several sheets, no person.
    """
    if path.is_dir():
        raise SurveyError(f"{path} is a folder; data.path names the survey file")
    if not path.is_file():
        raise SurveyError(f"{path}: no such file; data.path names the survey file")
    name = path.name.lower()
    if name.endswith((".sav", ".zsav", ".por", ".dta")):
        found = _labelled(path, encoding)
    elif name.endswith(".xlsx"):
        found = _excel(path, sheet)
    elif name.endswith(".parquet"):
        found = _parquet(path)
    elif name.endswith(ENDINGS):
        found = _text(path, encoding)
    else:
        raise SurveyError(f"{path}: a file of respondents ends in {', '.join(ENDINGS)}")
    if not found.columns or not found.persons:
        raise SurveyError(f"{path}: no person in it")
    return found


def _text(path: Path, encoding: str | None) -> Sheet:
    pa = _import("pyarrow", path)
    from pyarrow import csv as arrow_csv

    try:
        encoding = encoding or _encoding(path)
        with _open(path) as file:
            sample = file.read(_SAMPLE)
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
        delimiter = _delimiter(path, text, len(sample) == _SAMPLE)
        header = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=delimiter))]
        _refuse_doubles(path, header)
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                encoding=encoding.removesuffix("-sig"),
                column_names=header,
                skip_rows=1,
                use_threads=False,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
    except (
        UnicodeError,
        LookupError,
        csv.Error,
        zlib.error,
        OSError,
        EOFError,
        pa.ArrowInvalid,
    ) as error:
        raise SurveyError(f"{path}: not a readable table of text: {_line(error)}") from error
    columns = {name: _column(table[name], pa) for name in header}
    commas = delimiter != "," and any(
        _DECIMAL_COMMA.fullmatch(code) for column in columns.values() for code in column.codes
    )
    if commas:
        columns = {name: _with_points(column) for name, column in columns.items()}
    told = f"{_DELIMITERS[delimiter]}-separated text in {encoding.removesuffix('-sig').upper()}"
    return Sheet(path, told + (", decimal commas" if commas else ""), columns, first_row=2)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _encoding(path: Path) -> str:
    with _open(path) as file:
        start = file.read(4)
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            decoder.decode(start)
            while part := file.read(2**20):
                decoder.decode(part)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252"
    return "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"


def _delimiter(path: Path, text: str, cut: bool) -> str:
    """The delimiter that gives every row of the sample as many cells, and the most."""
    lines = text.splitlines(keepends=True)
    text = "".join(lines[:-1] if cut and len(lines) > 1 else lines)
    found = {}
    for delimiter in _DELIMITERS:
        widths = [len(row) for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
        if widths and widths[0] > 1 and set(widths[: -1 if cut else None]) == {widths[0]}:
            found[delimiter] = widths[0]
    if not found:
        # The rows differ: by the header alone, so that the reader names the row.
        found = {delimiter: lines[0].count(delimiter) for delimiter in _DELIMITERS} if lines else {}
        if not any(found.values()):
            raise SurveyError(
                f"{path}: no delimiter found (comma, semicolon, tab, bar) in the header "
                f"{lines[0].strip()[:60]!r}"
                if lines
                else f"{path}: no person in it"
            )
    return max(found, key=found.__getitem__)


def _parquet(path: Path) -> Sheet:
    pa = _import("pyarrow", path)
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SurveyError(f"{path}: not a parquet file, or cut off: {_line(error)}") from error
    _refuse_doubles(path, table.column_names)
    return Sheet(path, "parquet", {n.strip(): _column(table[n], pa) for n in table.column_names})


def _excel(path: Path, sheet: str | None) -> Sheet:
    pa = _import("pyarrow", path)
    openpyxl = _import("openpyxl", path)
    with path.open("rb") as file:
        if file.read(4) == b"\xd0\xcf\x11\xe0":
            raise SurveyError(
                f"{path}: it is encrypted, or an old .xls: save it as .xlsx without a password"
            )
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise SurveyError(f"{path}: not an Excel file, or cut off: {_line(error)}") from error
    try:
        names = book.sheetnames
        if sheet is None and len(names) > 1:
            raise SurveyError(
                f"{path} has the sheets {', '.join(names)}: data.sheet=... says which"
            )
        if sheet is not None and sheet not in names:
            raise SurveyError(f"{path} has no sheet {sheet!r}; it has {', '.join(names)}")
        rows = list(_filled(book[sheet or names[0]].iter_rows(values_only=True)))
    finally:
        book.close()
    if not rows:
        raise SurveyError(f"{path}: no person in it")
    header = [label(cell) for cell in rows[0]]
    _refuse_doubles(path, header)
    columns = {
        name: _column([row[place] for row in rows[1:]], pa)
        for place, name in enumerate(header)
        if name
    }
    return Sheet(path, f"Excel, sheet {sheet or names[0]}", columns, first_row=2)


def _filled(rows: Iterable[Sequence[object]]) -> Iterator[Sequence[object]]:
    return (row for row in rows if any(cell is not None for cell in row))


def _labelled(path: Path, encoding: str | None) -> Sheet:
    """SPSS and Stata, with their labels and the codes that the file declares to be missing."""
    pa = _import("pyarrow", path)
    pyreadstat = _import("pyreadstat", path)
    with path.open("rb") as file:
        if file.read(12) == b"ENCRYPTEDSAV":
            raise SurveyError(f"{path}: it is encrypted: save it in SPSS without a password")
    ending = path.suffix.lower().removeprefix(".")
    reader = getattr(pyreadstat, {"zsav": "read_sav"}.get(ending, f"read_{ending}"))
    own = {} if ending == "por" else {"user_missing": True, "encoding": encoding}
    try:
        frame, meta = reader(path, output_format="pandas", disable_datetime_conversion=True, **own)
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeError, OSError) as error:
        raise SurveyError(f"{path}: damaged or cut off: {_line(error)}") from error
    _refuse_doubles(path, meta.column_names)
    columns = {name: _column(frame[name].to_numpy(), pa) for name in meta.column_names}
    told = {"dta": "Stata", "por": "SPSS portable"}.get(ending, "SPSS")
    return Sheet(path, told, columns, {name: _own_variable(name, meta) for name in columns})


def _own_variable(name: str, meta: Any) -> Variable:
    labels = {
        label(code): str(text) for code, text in meta.variable_value_labels.get(name, {}).items()
    }
    codes = {label(code) for code in meta.missing_user_values.get(name, ())}
    ranges = []
    for bounds in meta.missing_ranges.get(name, ()):
        if isinstance(bounds["lo"], str):
            codes.add(label(bounds["lo"]))
        else:
            ranges.append((float(bounds["lo"]), float(bounds["hi"])))
    return Variable(
        name,
        (meta.column_names_to_labels.get(name) or "").strip(),
        labels,
        frozenset(codes),
        tuple(ranges),
        kind=_KINDS.get(meta.variable_measure.get(name, ""), ""),
    )


def _column(cells: Any, pa: Any) -> Column:
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
    return _recoded(raw, encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False))


def _recoded(raw: Sequence[str], raw_P: npt.NDArray[Any]) -> Column:
    """Give equal codes one place, all in order; an empty one is -1."""
    codes = in_order({code for code in raw if code})
    place = {code: number for number, code in enumerate(codes)} | {"": -1}
    new = np.array([*(place[code] for code in raw), -1], np.int32)
    return Column(codes, new[raw_P])


def _with_points(column: Column) -> Column:
    raw = [
        label(code.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(code) else code
        for code in column.codes
    ]
    return _recoded(raw, column.code_P)


def _refuse_doubles(path: Path, names: Iterable[str]) -> None:
    doubles = [name for name, times in Counter(map(str.strip, names)).items() if name and times > 1]
    if doubles:
        raise SurveyError(
            f"{path}: the column {doubles[0]!r} stands twice in the header: rename or remove one"
        )


def _import(name: str, path: Path) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SurveyError(
            f"{path}: reading it needs {name}: pip install 'plurallm[respondents]'"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
