"""Tables of text: which delimiter and encoding they have, and their cells."""

import codecs
import csv
import io
import re
import zlib
from pathlib import Path

from plurallm.config.surveys import DELIMITERS
from plurallm.data.formats.dialect import find_encoding, open_table
from plurallm.data.formats.tabular import SurveyError, refuse_doubles
from plurallm.data.identity import label
from plurallm.data.respondents.columns import (
    Column,
    Sheet,
    column_of,
    import_for,
    one_line,
    recoded,
)

_SAMPLE = 2**16
_NAMES = {sign: name for name, sign in DELIMITERS.items()}
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


def text_sheet(path: Path, encoding: str | None, delimiter: str | None = None) -> Sheet:
    """Read a table of text; delimiter and encoding, as far as not given, are found."""
    pa = import_for("pyarrow", path)
    from pyarrow import csv as arrow_csv

    try:
        encoding = encoding or find_encoding(path)
        with open_table(path) as file:
            sample = file.read(_SAMPLE)
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
        cut = len(sample) == _SAMPLE
        sign = DELIMITERS[delimiter] if delimiter else _delimiter(path, text, cut)
        header = [name.strip() for name in next(csv.reader(io.StringIO(text), delimiter=sign))]
        refuse_doubles(path, header)
        table = arrow_csv.read_csv(
            path,
            read_options=arrow_csv.ReadOptions(
                encoding=encoding.removesuffix("-sig"),
                column_names=header,
                skip_rows=1,
                use_threads=False,
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=sign, newlines_in_values=True),
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
        raise SurveyError(f"{path}: not a readable table of text: {one_line(error)}") from error
    columns = {name: column_of(table[name], pa) for name in header}
    commas = sign != "," and any(
        _DECIMAL_COMMA.fullmatch(code) for column in columns.values() for code in column.codes
    )
    if commas:
        columns = {name: _with_points(column) for name, column in columns.items()}
    told = f"{_NAMES[sign]}-separated text in {encoding.removesuffix('-sig').upper()}"
    return Sheet(path, told + (", decimal commas" if commas else ""), columns, first_row=2)


def _delimiter(path: Path, text: str, cut: bool) -> str:
    """The delimiter that gives every row of the sample as many cells, and the most."""
    lines = text.splitlines(keepends=True)
    text = "".join(lines[:-1] if cut and len(lines) > 1 else lines)
    found = {}
    for delimiter in _NAMES:
        widths = [len(row) for row in csv.reader(io.StringIO(text), delimiter=delimiter) if row]
        if widths and widths[0] > 1 and set(widths[: -1 if cut else None]) == {widths[0]}:
            found[delimiter] = widths[0]
    if not found:
        # The rows differ: by the header alone, so that the reader names the row.
        found = {delimiter: lines[0].count(delimiter) for delimiter in _NAMES} if lines else {}
        if not any(found.values()):
            raise SurveyError(
                f"{path}: no delimiter found (comma, semicolon, tab, bar) in the header "
                f"{lines[0].strip()[:60]!r}"
                if lines
                else f"{path}: no person in it"
            )
    return max(found, key=found.__getitem__)


def _with_points(column: Column) -> Column:
    raw = [
        label(code.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(code) else code
        for code in column.codes
    ]
    return recoded(raw, column.code_P)
