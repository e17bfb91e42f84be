"""Files with one row a person: CSV, TSV, parquet, Excel, SPSS, Stata."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plurallm.data.formats.tabular import SurveyError, check_file, refuse_doubles
from plurallm.data.identity import label
from plurallm.data.respondents.codes import Variable
from plurallm.data.respondents.columns import (
    Sheet,
    column_of,
    import_for,
    one_line,
)
from plurallm.data.respondents.text_files import text_sheet

ENDINGS = (
    *(".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet"),
    *(".xlsx", ".sav", ".zsav", ".por", ".dta"),
)
"""Files that can be read."""

_KINDS = {"ordinal": "ordinal", "nominal": "nominal"}  # of SPSS; "scale" is its default for all


def read_sheet(
    path: Path,
    encoding: str | None = None,
    sheet: str | None = None,
    delimiter: str | None = None,
) -> Sheet:
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
    delimiter : str, optional
        Of a text file, a key of ``DELIMITERS``; by default the one that fits.

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
    check_file(path)
    name = path.name.lower()
    if name.endswith((".sav", ".zsav", ".por", ".dta")):
        found = _labelled(path, encoding)
    elif name.endswith(".xlsx"):
        found = _excel(path, sheet)
    elif name.endswith(".parquet"):
        found = _parquet(path)
    elif name.endswith(ENDINGS):
        found = text_sheet(path, encoding, delimiter)
    else:
        raise SurveyError(f"{path}: a file of respondents ends in {', '.join(ENDINGS)}")
    if not found.columns or not found.persons:
        raise SurveyError(f"{path}: no person in it")
    return found


def _parquet(path: Path) -> Sheet:
    pa = import_for("pyarrow", path)
    from pyarrow.parquet import read_table

    try:
        table = read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise SurveyError(f"{path}: not a parquet file, or cut off: {one_line(error)}") from error
    refuse_doubles(path, table.column_names)
    return Sheet(path, "parquet", {n.strip(): column_of(table[n], pa) for n in table.column_names})


def _excel(path: Path, sheet: str | None) -> Sheet:
    pa = import_for("pyarrow", path)
    openpyxl = import_for("openpyxl", path)
    with path.open("rb") as file:
        if file.read(4) == b"\xd0\xcf\x11\xe0":
            raise SurveyError(
                f"{path}: it is encrypted, or an old .xls: save it as .xlsx without a password"
            )
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise SurveyError(f"{path}: not an Excel file, or cut off: {one_line(error)}") from error
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
    refuse_doubles(path, header)
    columns = {
        name: column_of([row[place] for row in rows[1:]], pa)
        for place, name in enumerate(header)
        if name
    }
    return Sheet(path, f"Excel, sheet {sheet or names[0]}", columns, first_row=2)


def _filled(rows: Iterable[Sequence[object]]) -> Iterator[Sequence[object]]:
    return (row for row in rows if any(cell is not None for cell in row))


def _labelled(path: Path, encoding: str | None) -> Sheet:
    """SPSS and Stata, with their labels and the codes that the file declares to be missing."""
    pa = import_for("pyarrow", path)
    pyreadstat = import_for("pyreadstat", path)
    with path.open("rb") as file:
        if file.read(12) == b"ENCRYPTEDSAV":
            raise SurveyError(f"{path}: it is encrypted: save it in SPSS without a password")
    ending = path.suffix.lower().removeprefix(".")
    reader = getattr(pyreadstat, {"zsav": "read_sav"}.get(ending, f"read_{ending}"))
    own = {} if ending == "por" else {"user_missing": True, "encoding": encoding}
    try:
        frame, meta = reader(path, output_format="pandas", disable_datetime_conversion=True, **own)
    except (pyreadstat.ReadstatError, pyreadstat.PyreadstatError, UnicodeError, OSError) as error:
        raise SurveyError(f"{path}: damaged or cut off: {one_line(error)}") from error
    refuse_doubles(path, meta.column_names)
    columns = {name: column_of(frame[name].to_numpy(), pa) for name in meta.column_names}
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
