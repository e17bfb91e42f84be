"""OpinionQA (arXiv 2303.17548) in two layouts, and its ordinal values.

One row for each question and group: distributions over the options (``D_H``, as OpinionQA's own
notebook writes them) or respondents for each option (``counts``). As in OpinionQA, the options
that follow the ordinal ones are refusals ("Refused", "Not sure"): they are left out and counted,
and the shares of the others sum to 1. Where they are kept, a question that has some has no ordinal
values; distributions come without them. A question's identity is its key.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plurallm.data.builder import Builder
from plurallm.data.formats.cells import CellError, filled, json_list, literal, texts
from plurallm.data.formats.tabular import SurveyError, table_rows
from plurallm.data.identity import label
from plurallm.data.non_answers import REASON
from plurallm.data.survey import Question, Survey

# Answers of several attributes: without the attribute they name nobody.
_SHARED_NAMES = ("Other", "Refused", "Yes", "No")

_SILENT = "group whose respondents all refused"

# Columns of a table of ordinal values that may name the options.
_NAMES = {"references", "options"}


def read_distributions(survey: Builder) -> None:
    """Read rows with ``D_H``; ``ordinal`` and ``ordinal_refs`` where the file has them."""
    reader = _Reader(survey)
    for cells in survey.rows():
        shares = _numbers(cells["D_H"])
        if all(map(math.isnan, shares)):  # of a group without an answer
            survey.dropped[_SILENT] += 1
            continue
        if filled(cells.get("ordinal_refs")):
            options = texts(literal(cells["ordinal_refs"], list, "ordinal_refs"))
        else:
            references = texts(literal(cells["references"], list, "references"))
            options = tuple(references[index] for index in _answers(references, len(shares)))
        ordinal = json_list(cells["ordinal"], "ordinal") if filled(cells.get("ordinal")) else None
        text = cells.get("question_raw") or cells["question"]
        reader.add(cells, reader.find(cells["qkey"], str(text), options, ordinal), shares, 1.0)


def read_counts(survey: Builder) -> None:
    """Read rows with ``counts`` and ``option_ordinal``, which is short of the refusals."""
    reader = _Reader(survey)
    for cells in survey.rows():
        everything = texts(json_list(cells["options"], "options"))
        ordinal = json_list(cells["option_ordinal"], "option_ordinal")
        counts = json_list(cells["counts"], "counts")
        if len(counts) != len(everything):
            raise survey.refuse(f"{len(counts)} counts for {len(everything)} options")
        if survey.keep_non_answers and len(ordinal) < len(everything):
            # What is no answer has no place on a scale.
            reader.add(
                cells,
                reader.find(cells["key"], str(cells["question"]), everything, None),
                counts,
                None,
            )
            continue
        kept = _answers(everything, len(ordinal))
        if survey.question(cells["key"]) is None:
            survey.dropped[REASON] += len(everything) - len(kept)
        options = tuple(everything[index] for index in kept)
        counts = [counts[index] for index in kept]
        text = str(cells["question"])
        reader.add(cells, reader.find(cells["key"], text, options, ordinal), counts, None)


def with_ordinals(survey: Survey, path: Path) -> Survey:
    """Take ordinal values from another table, such as OpinionQA's ``info.csv``.

    Parameters
    ----------
    survey : Survey
        Questions whose identities are keys of the table.
    path : Path
        A table with the columns ``key``, ``option_ordinal`` and ``references`` (a Python list) or
        ``options`` (JSON), which say what option each value belongs to.

    Returns
    -------
    Survey
        With the ordinal values of the table, given to options by their text; a question that it
        does not have keeps its own.

    Raises
    ------
    SurveyError
        Naming the file and, where a row is to blame, the row.
    """
    wanted = {question.id for question in survey.questions}
    scales: dict[str, dict[str, Any]] = {}
    for row, cells in table_rows(path):
        if not {"key", "option_ordinal"} <= cells.keys() or not _NAMES & cells.keys():
            raise SurveyError(
                f"{path}: a table of ordinal values has columns key, option_ordinal, and "
                "references or options, which name the option of each value"
            )
        key = label(cells["key"])
        if key not in wanted:
            continue
        try:
            scale = _scale(cells)
        except CellError as error:
            raise SurveyError(f"{path}, row {row}: {error}") from error
        if scales.setdefault(key, scale) != scale:
            raise SurveyError(f"{path}, row {row}: key {key!r} had other ordinal values before")
    questions = tuple(
        _with_scale(question, scales[question.id], path) if question.id in scales else question
        for question in survey.questions
    )
    return replace(survey, questions=questions)


def _scale(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Ordinal value by the text of its option."""
    ordinal = json_list(cells["option_ordinal"], "option_ordinal")
    if filled(cells.get("references")):
        listed = cells["references"]
        names = texts(listed if isinstance(listed, list) else literal(listed, list, "references"))
    else:
        names = texts(json_list(cells.get("options"), "options"))
    kept = [names[index] for index in _answers(names, len(ordinal))]
    if len(set(kept)) < len(kept):
        raise CellError(f"an option stands twice in {kept}")
    return dict(zip(kept, ordinal, strict=True))


def _with_scale(question: Question, scale: Mapping[str, Any], path: Path) -> Question:
    if not set(question.options) <= set(scale):
        raise SurveyError(
            f"{path}: question {question.id!r} has the options {list(question.options)}, but the "
            f"ordinal values are for {list(scale)}"
        )
    try:
        return replace(question, ordinal=tuple(float(scale[name]) for name in question.options))
    except (ValueError, TypeError) as error:
        raise SurveyError(f"{path}: question {question.id!r}: {error}") from error


class _Reader:
    """Adds rows to a survey and drops those that repeat or contradict an earlier one."""

    def __init__(self, survey: Builder) -> None:
        self._survey = survey
        self._attribute: dict[str, str] = {}

    def find(
        self, key: object, text: str, options: tuple[str, ...], ordinal: list[Any] | None
    ) -> int | None:
        """Position of a question; None where the first row of its key asked something else."""
        known = self._survey.question(key)
        if known is not None and (known.text, known.options) != (text.strip(), options):
            return None
        return self._survey.add_question(key, text.strip(), options, ordinal)

    def add(
        self, cells: dict[str, Any], position: int | None, values: list[Any], total: float | None
    ) -> None:
        """Add a row's answers, as shares (`total` 1) or counts (`total` None)."""
        survey = self._survey
        if position is None:
            survey.dropped["row with another text or options than the first of its key"] += 1
            return
        if total is None and not any(values):
            survey.dropped[_SILENT] += 1
            return
        group = self._group(cells)
        shares = survey.shares(group, position, values, total)
        earlier = survey.answer(group, position)
        if earlier is None:
            survey.add_answer(group, position, shares, sum(values) if total is None else None)
        elif earlier == shares:
            survey.dropped["row that repeats an earlier one"] += 1
        else:
            survey.dropped["row that contradicts an earlier one, which is kept"] += 1

    def _group(self, cells: dict[str, Any]) -> str:
        name, attribute = (label(cells[key]) for key in ("group", "attribute"))
        if not name:
            raise self._survey.refuse("no group")
        group = f"{attribute} {name}" if name in _SHARED_NAMES else name
        if self._attribute.setdefault(group, attribute) != attribute:
            raise self._survey.refuse(
                f"group {group!r} is of attribute {attribute!r}, but was of "
                f"{self._attribute[group]!r} before: rename one of them"
            )
        return group


def _answers(options: Sequence[str], count: int) -> list[int]:
    """Which options are answers: the first `count`, where "Refused" is none."""
    kept = [index for index, option in enumerate(options) if option != "Refused"][:count]
    if len(kept) < count:
        raise CellError(f"{count} shares or ordinal values for the answers {list(options)}")
    return kept


def _numbers(cell: object) -> list[Any]:
    """Read numbers in brackets, with commas as a list prints them or without as numpy does."""
    if isinstance(cell, list):
        return [math.nan if value is None else value for value in cell]
    try:
        return [float(number) for number in str(cell).strip("[] \n").replace(",", " ").split()]
    except ValueError as error:
        raise CellError(f"column 'D_H' is not a list of numbers: {error}") from error
