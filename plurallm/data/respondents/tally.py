"""From persons to a survey: each group's shares, weighted or not, and what was left out.

Dimension letters: ``P`` persons, ``G`` groups, ``N`` questions, ``O`` options (padded).
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.config.surveys import RespondentData
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.respondents.asking import Asked, ask, known_variables, question_columns
from plurallm.data.respondents.census import Census, QuestionCount, weight_facts
from plurallm.data.respondents.codes import (
    number,
)
from plurallm.data.respondents.columns import Sheet
from plurallm.data.respondents.grouping import Grouping, groupings, the_column
from plurallm.data.respondents.respondent_files import read_sheet
from plurallm.data.survey import Answers, Survey


@lru_cache(maxsize=1)
def read_respondents(
    settings: str, state: tuple[tuple[int, ...] | None, ...]
) -> tuple[Survey, Census]:
    """Read a file of persons, once for all that a process does with it.

    Parameters
    ----------
    settings : str
        ``RespondentData`` as JSON.
    state : tuple
        What tells a changed file or codebook: see ``data_state``.

    Returns
    -------
    survey : Survey
        Questions by their columns' names, groups by theirs.
    census : Census
        What stands in the file, and what became of it.

    Raises
    ------
    SurveyError
        Naming file, row, column or code, and what to do.
    """
    del state
    data = RespondentData(**json.loads(settings))
    assert data.path is not None
    sheet = read_sheet(Path(data.path), data.encoding, data.sheet, data.delimiter)
    variables, left_out = known_variables(sheet, data)
    weight_P = _weights(sheet, data.weight)
    dropped: Counter[str] = Counter()
    groups = groupings(sheet, variables, data, dropped)
    counts: dict[str, QuestionCount] = {}
    doubts: list[str] = []
    asked = []
    for name in question_columns(sheet, variables, data, left_out):
        asked.append(ask(sheet, variables[name], data, counts, doubts, left_out))
    kept = [each for each in asked if each is not None]
    for own in counts.values():
        dropped.update(own.reasons())
    dropped.update(f"column that is no question: {why}" for why in left_out.values())
    if not kept:
        raise SurveyError(
            f"{sheet.path}: no column is a question: value labels in the file, or "
            "data.codebook=..., say what the codes mean; "
            "plurallm import FILE --draft-codebook OUT writes a draft"
        )
    answers, sizes = _tally(kept, groups, weight_P, data, dropped)
    if not answers:
        raise SurveyError(
            f"{sheet.path}: no group has {data.smallest_group} persons (data.smallest_group)"
        )
    if sheet.told.endswith("CP1252"):
        doubts.append(
            "the text is not UTF-8, so it was read as Windows-1252: data.encoding=... names another"
        )
    if len(groups) > 1:
        doubts.append(
            "the groups of several attributes hold the same people, so they share a role and none "
            "is held out, unless data.train_groups and data.held_out_groups list them"
        )
    unit = "counts" if data.weight is None else f"shares weighted by {data.weight}"
    survey = Survey(
        str(sheet.path),
        tuple(each.question for each in kept),
        answers,
        dict(dropped),
        f"one row for each person, {sheet.told}; answers as {unit}",
        {name: own for grouping in groups for name, own in grouping.joined.items()},
        tuple(doubts),
        (tuple(answers),) if len(groups) > 1 else (),
    )
    facts = None if data.weight is None else weight_facts(data.weight, weight_P)
    return survey, Census(sheet.persons, sheet.told, sizes, facts, counts, left_out)


def settings_text(data: RespondentData) -> str:
    """Give the settings of a reader as ``read_respondents`` takes them."""
    return json.dumps(asdict(data))


def _weights(sheet: Sheet, name: str | None) -> npt.NDArray[np.float64] | None:
    if name is None:
        return None
    column = the_column(sheet, name, "data.weight")
    values = [number(code) for code in column.codes]
    for place, value in enumerate([*values, None]):
        wrong = value is None or value < 0
        row = np.flatnonzero(column.code_P == (place if place < len(values) else -1))
        if wrong and len(row):
            what = repr(column.codes[place]) if place < len(values) else "empty"
            raise SurveyError(
                f"{sheet.path}, row {int(row[0]) + sheet.first_row}: the weight {name!r} is "
                f"{what}; a weight is a number of at least 0"
            )
    return np.array([*(value or 0.0 for value in values), 0.0])[column.code_P]


def _tally(
    asked: Sequence[Asked],
    groups: Sequence[Grouping],
    weight_P: npt.NDArray[np.float64] | None,
    data: RespondentData,
    dropped: Counter[str],
) -> tuple[dict[str, Answers], dict[str, dict[str, Any]]]:
    """Answers of each group, and its size."""
    answers: dict[str, Answers] = {}
    sizes: dict[str, dict[str, Any]] = {}
    least = 1 if data.each_person else data.smallest_group
    counted_P = np.ones(len(asked[0].option_P)) if weight_P is None else weight_P
    if (counted_P == 0).any():
        dropped["person whose weight is 0"] += int((counted_P == 0).sum())
    for grouping in groups:
        group_P = np.where(counted_P > 0, grouping.group_P, -1)
        count = len(grouping.names)
        persons_G = np.bincount(group_P[group_P >= 0], minlength=count)
        tables = [_table(each, group_P, counted_P, count) for each in asked]
        widest = max(len(each.question.options) for each in asked)
        share_GNO = np.zeros((count, len(asked), widest))
        persons_GN = np.zeros((count, len(asked)))
        effective_GN = np.zeros((count, len(asked)))
        for number_, (share_GO, persons_GN[:, number_], effective_GN[:, number_]) in enumerate(
            tables
        ):
            share_GNO[:, number_, : share_GO.shape[1]] = share_GO
        for group, name in enumerate(grouping.names):
            question_Q = np.flatnonzero(persons_GN[group])
            small = persons_G[group] < least
            sizes[name] = {
                "persons": int(persons_G[group]),
                "kept": not small and len(question_Q) > 0,
            }
            if weight_P is not None:
                own_P = counted_P[group_P == group]
                sizes[name]["effective"] = _kish(own_P.sum(), (own_P**2).sum())
            if small:
                dropped[f"group of fewer than {least} persons (data.smallest_group)"] += 1
            elif not len(question_Q):
                dropped["group without an answer"] += 1
            else:
                answers[name] = Answers(
                    question_Q,
                    share_GNO[group, question_Q],
                    persons_GN[group, question_Q],
                    None if weight_P is None else effective_GN[group, question_Q],
                )
    return dict(sorted(answers.items())), sizes


def _table(
    asked: Asked, group_P: npt.NDArray[np.int64], weight_P: npt.NDArray[np.float64], groups: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Shares by group, the persons behind them and their effective number."""
    options = len(asked.question.options)
    here_P = (group_P >= 0) & (asked.option_P >= 0)
    group_A, weight_A = group_P[here_P], weight_P[here_P]
    cell_A = group_A * options + asked.option_P[here_P]
    sum_GO = np.bincount(cell_A, weight_A, groups * options).reshape(groups, options)
    total_G = sum_GO.sum(1)
    share_GO = sum_GO / np.where(total_G > 0, total_G, 1)[:, None]
    square_G = np.bincount(group_A, weight_A**2, groups)
    effective_G = np.array(
        [_kish(total, square) for total, square in zip(total_G, square_G, strict=True)]
    )
    return share_GO, np.bincount(group_A, minlength=groups), effective_G


def _kish(total: float, squares: float) -> float:
    """Effective number of respondents (Kish 1965): ``(sum w)^2 / sum w^2``."""
    return float(total**2 / squares) if squares > 0 else 0.0
