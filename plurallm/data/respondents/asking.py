"""Which columns are questions, what their options are, and who chose which.

Dimension letters: ``P`` persons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plurallm.config.surveys import RespondentData
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.respondents.census import QuestionCount
from plurallm.data.respondents.codebook import read_codebook
from plurallm.data.respondents.codes import (
    UNKNOWN,
    Variable,
    answer_codes,
    merged,
    number,
    why_no_answer,
)
from plurallm.data.respondents.columns import Sheet
from plurallm.data.respondents.grouping import the_column, unlabelled
from plurallm.data.survey import Question


@dataclass(frozen=True)
class Asked:
    """A question, and the option that each person chose (-1: none)."""

    question: Question
    option_P: npt.NDArray[np.int64]


def known_variables(
    sheet: Sheet, data: RespondentData
) -> tuple[dict[str, Variable], dict[str, str]]:
    """What is known of each column; with a codebook, why those that it lacks are no questions."""
    own = {name: sheet.variables.get(name, Variable(name)) for name in sheet.columns}
    if data.codebook is None:
        return own, {}
    book = read_codebook(Path(data.codebook), data.codebook_columns)
    if not book.keys() & own.keys():
        raise SurveyError(
            f"{data.codebook} and {sheet.path} have no variable in common: "
            f"{next(iter(book))!r}, ... and {next(iter(own))!r}, ..."
        )
    left_out = {name: "not in the codebook" for name in own if name not in book}
    return own | {n: merged(own[n], book[n]) for n in book if n in own}, left_out


def question_columns(
    sheet: Sheet, variables: Mapping[str, Variable], data: RespondentData, left_out: dict[str, str]
) -> list[str]:
    """Columns that are questions, by name; says of the others why they are not."""
    if data.questions is not None:
        for name in data.questions:
            the_column(sheet, name, "data.questions")
        left_out |= {
            name: "not in data.questions" for name in variables if name not in data.questions
        }
        for name in data.questions:
            left_out.pop(name, None)
    by_use = {data.weight: "the weight", data.respondent_id: "the identifier"}
    by_use |= {name: "it makes the groups" for columns in data.attributes for name in columns}
    for name, variable in variables.items():
        if name in by_use:
            left_out[name] = by_use[name]
        elif name in left_out or data.questions is not None:
            continue
        elif variable.asked is False:
            left_out[name] = "use is false in the codebook"
        elif variable.asked is None and variable.kind == "other":
            left_out[name] = "text, identifier or weight"
        elif variable.asked is None and not variable.described:
            left_out[name] = "no labels"
    return sorted(name for name in variables if name not in left_out)


def ask(
    sheet: Sheet,
    variable: Variable,
    data: RespondentData,
    counts: dict[str, QuestionCount],
    doubts: list[str],
    left_out: dict[str, str],
) -> Asked | None:
    """Find the options of a question and who chose which; None where it has fewer than two."""
    column = sheet.columns[variable.name]
    answers = answer_codes(variable, column.codes)
    scale: tuple[float, ...] | None = None
    values = [number(code) for code in answers]
    if (variable.kind in ("ordinal", "numeric") or variable.span) and None not in values:
        scale = tuple(value for value in values if value is not None)
    if data.non_answers == "keep":
        more = {
            c: t for c, t in variable.labels.items() if c not in answers and variable.no_answer(c)
        }
        answers, scale = answers | more, None if more else scale
    named = data.questions is not None or variable.asked
    if len(answers) < 2:
        if named:
            raise SurveyError(
                f"{sheet.path}: question {variable.name!r} has fewer than two options "
                f"({', '.join(answers.values()) or 'none'}): give its codes labels in the "
                "codebook, or leave it out with use=false or data.questions"
            )
        left_out[variable.name] = "fewer than two options"
        return None
    size_of = np.bincount(column.code_P + 1, minlength=len(column.codes) + 1)
    reasons: dict[str, str] = {}
    for code in column.codes:
        why = why_no_answer(variable, answers, code)
        if why == UNKNOWN and data.unlabelled == "refuse":
            raise unlabelled(sheet, variable.name, code)
        if why is not None:
            reasons[code] = why
    counts[variable.name] = QuestionCount(
        answered=sum(int(size_of[n + 1]) for n, c in enumerate(column.codes) if c in answers),
        empty=int(size_of[0]),
        dropped=[
            (code, variable.labels.get(code, ""), int(size_of[number_ + 1]), reasons[code])
            for number_, code in enumerate(column.codes)
            if code in reasons
        ],
    )
    if not variable.text:
        doubts.append(
            f"column {variable.name}: question {variable.name!r} has no text in the file or the "
            "codebook: its column's name stands for it"
        )
    place = {code: position for position, code in enumerate(answers)}
    new = np.array([*(place.get(code, -1) for code in column.codes), -1], np.int64)
    try:
        question = Question(
            variable.name, variable.text or variable.name, tuple(answers.values()), scale
        )
    except ValueError as error:
        raise SurveyError(f"{sheet.path}: {error}: codes need labels that differ") from error
    return Asked(question, new[column.code_P])
