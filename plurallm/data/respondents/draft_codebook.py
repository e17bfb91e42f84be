"""A first codebook for a file of persons: what its cells look like, for a person to complete."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence

from plurallm.config.surveys import CODEBOOK_COLUMNS
from plurallm.data.respondents.codes import Variable, conventional, in_order, number
from plurallm.data.respondents.respondent_files import Column, Sheet

MOST_OPTIONS = 12
"""Distinct codes up to which a column without labels is taken for a question."""

_BOX = re.compile(r"(.*?)_?\d+|(.*)_[a-z]")


def draft_rows(sheet: Sheet, variables: Mapping[str, Variable]) -> list[dict[str, str]]:
    """Draft a codebook.

    Parameters
    ----------
    sheet : Sheet
        The file.
    variables : mapping of str to Variable
        What is known of its columns already; it stays.

    Returns
    -------
    list of dict of str to str
        One for each column: ``CODEBOOK_COLUMNS``, and ``note`` with what is suspicious.
    """
    boxes = _boxes(sheet)
    return [
        _row(sheet, column, variables.get(name, Variable(name)), boxes.get(name, ()))
        for name, column in sheet.columns.items()
    ]


def codebook_text(rows: Iterable[Mapping[str, str]]) -> str:
    """A codebook as CSV, which ``read_codebook`` takes."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, (*CODEBOOK_COLUMNS, "note"), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def variable_row(variable: Variable, present: Sequence[str]) -> dict[str, str]:
    """Write down what is known of a variable, with its missing codes as far as they occur."""
    none = {code for code in (*variable.labels, *present) if variable.no_answer(code)}
    span = variable.span
    codes = "{" + ",".join(variable.codes) + "}" if variable.codes else ""
    return {
        "variable": variable.name,
        "question": variable.text,
        "options": _options(variable.labels),
        "codes": f"{span[0]} to {span[1]}" if span else codes,
        "missing": ";".join(in_order(none)),
        "type": variable.kind,
        "use": "" if variable.asked is None else str(variable.asked).lower(),
    }


def _options(labels: Mapping[str, str]) -> str:
    """``1=Yes; 2=No``, or JSON where a text has a semicolon or ends in a star."""
    if any(";" in text or text.endswith("*") or "=" in code for code, text in labels.items()):
        return json.dumps(labels, ensure_ascii=False)
    return "; ".join(f"{code}={labels[code]}" for code in in_order(labels))


def _row(sheet: Sheet, column: Column, variable: Variable, boxes: Sequence[str]) -> dict[str, str]:
    row = variable_row(variable, column.codes)
    if variable.described:
        known = set(variable.labels) | set(variable.codes)
        doubtful = suspicious([c for c in column.codes if c not in known or variable.span])
        row["note"] = _flagged([c for c in doubtful if not variable.no_answer(c)])
        row["missing"] = ";".join(in_order({*row["missing"].split(";"), *doubtful} - {""}))
        return row
    kind, note = _looks_like(sheet, column)
    if kind:
        doubtful = suspicious(column.codes) if kind == "numeric" else []
        row |= {"type": kind, "use": "false", "missing": ";".join(doubtful)}
        row["note"] = "; ".join(filter(None, (note, _flagged(doubtful))))
        return row
    doubtful = suspicious(column.codes)
    answers = [code for code in column.codes if code not in doubtful]
    values = [value for code in answers if (value := number(code)) is not None]
    scale = len(values) == len(answers) >= 7 and values[-1] - values[0] == len(values) - 1
    named = answers[:1] + answers[-1:] if scale else answers
    row |= {
        "options": "; ".join(f"{c}=" if number(c) is not None else f"{c}={c}" for c in named),
        "codes": f"{answers[0]} to {answers[-1]}" if scale else "",
        "missing": ";".join(doubtful),
        "type": "ordinal" if len(values) == len(answers) > 2 else "nominal",
        "use": "true",
    }
    several = (
        f"looks like one of {len(boxes)} boxes of a question with several answers: a question of "
        "its own, such as 0=not chosen; 1=chosen; an empty cell counts as no answer"
        if boxes
        else ""
    )
    notes = (several, _flagged(doubtful), "write the texts of the options")
    row["note"] = "; ".join(filter(None, notes))
    return row


def suspicious(codes: Sequence[str]) -> list[str]:
    """Codes that look like no answer: 7, 88, 999, ... beyond a gap, or negative ones.

    Examples
    --------
    >>> suspicious(["1", "2", "3", "4", "5", "6", "7", "77", "88"])
    ['77', '88']
    """
    doubtful = [code for code in codes if conventional(code, ["0", "1"]) or code == "6"]
    base = [code for code in codes if code not in doubtful]
    found = []
    for code in in_order(doubtful):
        if conventional(code, base or ["0", "1"]):
            found.append(code)
        else:
            base.append(code)
    return found


def _looks_like(sheet: Sheet, column: Column) -> tuple[str, str]:
    """Kind of a column that is no question, and why it looks so; empty for a question."""
    distinct = len(column.codes)
    numbers = sum(number(code) is not None for code in column.codes)
    filled = int((column.code_P >= 0).sum())
    if distinct == 0:
        return "other", "empty"
    if distinct == 1:
        return "other", "the same for everybody"
    whole = all(number(code) is None or float(code).is_integer() for code in column.codes)
    if distinct > max(MOST_OPTIONS, 0.9 * filled) and (whole or not numbers):
        return "other", "looks like an identifier: different for nearly everybody"
    if not whole:
        return "numeric", "numbers with decimals: a weight, or an amount"
    if numbers < distinct and distinct > MOST_OPTIONS:
        return "other", f"looks like an open answer: {distinct} different texts"
    if distinct - len(suspicious(column.codes)) > MOST_OPTIONS:
        return "numeric", f"{distinct} different numbers: data.bins makes groups of them"
    return "", ""


def _boxes(sheet: Sheet) -> dict[str, tuple[str, ...]]:
    """Columns that look like boxes of one question: names with one stem, 0 and 1, or 1 alone."""
    stems: dict[str, list[str]] = {}
    for name, column in sheet.columns.items():
        box = _BOX.fullmatch(name)
        if box and set(column.codes) in ({"0", "1"}, {"1"}, {"1", "2"}):
            stems.setdefault(box[1] or box[2] or "", []).append(name)
    return {name: tuple(own) for own in stems.values() if len(own) > 2 for name in own}


def _flagged(codes: Sequence[str]) -> str:
    return f"{', '.join(codes)}: looks like no answer, and so stands in missing" if codes else ""
