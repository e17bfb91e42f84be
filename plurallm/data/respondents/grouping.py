"""Which group each person belongs to, by the columns of a file.

Dimension letters: ``P`` persons.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from plurallm.config.surveys import RespondentData
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import normal_form
from plurallm.data.respondents.codes import (
    UNKNOWN,
    Variable,
    answer_codes,
    conventional,
    number,
    why_no_answer,
)
from plurallm.data.respondents.respondent_files import Column, Sheet

BETWEEN = " / "
"""Stands between the labels of a group that several columns make: ``PL / Female``."""


@dataclass(frozen=True)
class Grouping:
    """Persons by group; nobody is in two groups of one grouping.

    Attributes
    ----------
    names : tuple of str
        The groups.
    group_P : ndarray of shape (P,), int64
        Position in `names` for each person; -1 for a person without a group.
    joined : mapping of str to tuple of str
        Spellings that were taken for one group.
    """

    names: tuple[str, ...]
    group_P: npt.NDArray[np.int64]
    joined: Mapping[str, tuple[str, ...]]


def groupings(
    sheet: Sheet, variables: Mapping[str, Variable], data: RespondentData, dropped: Counter[str]
) -> list[Grouping]:
    """Group the persons of a file as ``data.group_by`` says.

    Parameters
    ----------
    sheet : Sheet
        The file.
    variables : mapping of str to Variable
        What is known of its columns.
    data : RespondentData
        ``group_by``, ``bins``, ``respondent_id`` and ``unlabelled``.
    dropped : Counter
        Takes the persons without a group, by reason.

    Returns
    -------
    list of Grouping
        One for each attribute; several where attributes stand side by side.

    Raises
    ------
    SurveyError
        Naming the column that is missing, or the code that has no label.
    """
    if data.each_person:
        return [_each_person(sheet, data.respondent_id)]
    several = len(data.attributes) > 1
    found = []
    for columns in data.attributes:
        parts = [_by_column(sheet, variables, name, data, dropped) for name in columns]
        prefix = f"{BETWEEN.join(columns)}: " if several else ""
        found.append(_crossed(parts, prefix))
    return found


def the_column(sheet: Sheet, name: str, key: str) -> Column:
    """Give a column, or say that the file has none of that name."""
    if name not in sheet.columns:
        near = get_close_matches(name, sheet.columns, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise SurveyError(f"{sheet.path} has no column {name!r}, which {key} names{hint}")
    return sheet.columns[name]


def _each_person(sheet: Sheet, identity: str | None) -> Grouping:
    if identity is None:
        names = tuple(f"row {sheet.first_row + person}" for person in range(sheet.persons))
    else:
        names = tuple(the_column(sheet, identity, "data.respondent_id").texts())
    if len(set(names)) < len(names) or "" in names:
        counts = Counter(names)
        person = next(p for p, name in enumerate(names) if not name or counts[name] > 1)
        what = f"{names[person]!r}, which stands there twice" if names[person] else "empty"
        raise SurveyError(
            f"{sheet.path}, row {sheet.first_row + person}: data.respondent_id={identity} is {what}"
        )
    return Grouping(names, np.arange(sheet.persons), {})


def _by_column(
    sheet: Sheet,
    variables: Mapping[str, Variable],
    name: str,
    data: RespondentData,
    dropped: Counter[str],
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Labels of a column, and the place of each person among them; -1 for none."""
    column, bins = the_column(sheet, name, "data.group_by"), data.bins or {}
    variable = variables.get(name, Variable(name))
    label_of = (
        _bin_labels(sheet, variable, data, bins[name])
        if name in bins
        else _code_labels(sheet, variable, column, data)
    )
    labels = [label_of(code) for code in column.codes]
    distinct = list(dict.fromkeys(text for text in labels if text is not None))
    place = {text: position for position, text in enumerate(distinct)}
    new = np.array([*(-1 if text is None else place[text] for text in labels), -1], np.int64)
    part_P = new[column.code_P]
    without = int((part_P < 0).sum())
    if without:
        dropped[f"person without an answer to {name}, which makes the groups"] += without
    return distinct, part_P


def _code_labels(
    sheet: Sheet, variable: Variable, column: Column, data: RespondentData
) -> Callable[[str], str | None]:
    if not variable.described:
        return lambda code: None if variable.no_answer(code) else code
    # What has a label is a group, wherever it stands on a scale.
    answers = answer_codes(variable, column.codes)
    answers |= {
        code: text
        for code, text in variable.labels.items()
        if code not in answers and not variable.no_answer(code)
    }

    def label_of(code: str) -> str | None:
        if why_no_answer(variable, answers, code) == UNKNOWN and data.unlabelled == "refuse":
            raise unlabelled(sheet, variable.name, code)
        return answers.get(code)

    return label_of


def _bin_labels(
    sheet: Sheet, variable: Variable, data: RespondentData, edges: Sequence[float]
) -> Callable[[str], str | None]:
    whole = all(float(edge).is_integer() for edge in edges)
    names = [
        f"{low:g}-{high - 1:g}" if whole else f"{low:g} to below {high:g}"
        for low, high in pairwise(edges)
    ] + [f"{edges[-1]:g}+"]

    def label_of(code: str) -> str | None:
        value = number(code)
        if variable.no_answer(code):
            return None
        if variable.span is not None:
            bounds = [str(edge) for edge in variable.span]
            if value is None or not variable.span[0] <= value <= variable.span[1]:
                if not conventional(code, bounds) and data.unlabelled == "refuse":
                    raise unlabelled(sheet, variable.name, code)
                return None
        elif value is None or (len(code) > 2 and conventional(code, ["0", "10"])):
            # 999 is no age; 77 is.
            return None
        place = int(np.searchsorted(np.array(edges), value, "right")) - 1
        return names[place] if place >= 0 else None

    return label_of


def unlabelled(sheet: Sheet, name: str, code: str) -> SurveyError:
    """Make the error for a code that nothing explains; it names the first row that has it."""
    column = sheet.columns[name]
    row = int(np.flatnonzero(column.code_P == column.codes.index(code))[0]) + sheet.first_row
    return SurveyError(
        f"{sheet.path}, row {row}: column {name!r} has the code {code!r}, which has no label: "
        "add it to the codebook, as an option or as missing, or take data.unlabelled=drop"
    )


def _crossed(parts: Sequence[tuple[list[str], npt.NDArray[np.int64]]], prefix: str) -> Grouping:
    """Groups that hold somebody, by name; names of one normal form are one group."""
    index_P = np.zeros(len(parts[0][1]), np.int64)
    nobody_P = np.zeros(len(index_P), bool)
    for labels, part_P in parts:
        index_P = index_P * max(1, len(labels)) + part_P
        nobody_P |= part_P < 0
    present, inverse = np.unique(index_P[~nobody_P], return_inverse=True)
    sizes = [max(1, len(labels)) for labels, _ in parts]
    spelled = []
    for index in present.tolist():
        texts = []
        for (labels, _), size in zip(reversed(parts), reversed(sizes), strict=True):
            index, place = divmod(index, size)
            texts.append(labels[place])
        spelled.append(prefix + BETWEEN.join(reversed(texts)))
    forms: dict[str, list[str]] = {}
    for name in sorted(spelled):
        forms.setdefault(normal_form(name), []).append(name)
    names = tuple(sorted(own[0] for own in forms.values()))
    place_of = {name: position for position, name in enumerate(names)}
    new = np.array([place_of[forms[normal_form(name)][0]] for name in spelled], np.int64)
    group_P = np.full(len(index_P), -1, np.int64)
    group_P[~nobody_P] = new[inverse] if len(new) else -1
    joined = {own[0]: tuple(own) for own in forms.values() if len(own) > 1}
    return Grouping(names, group_P, joined)
