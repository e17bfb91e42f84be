"""Survey files: our own format, and GlobalOpinionQA's.

A bad row is refused with file, row and reason. GlobalOpinionQA is known to hold rows without a
country, without text or with shares that sum to zero; those are dropped and counted by reason.
"""

import ast
import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.survey.table import SurveyError, table_rows
from plurallm.survey.types import Answers, Question, Survey

SUM_TOLERANCE = 0.01
"""How far shares may be from a sum of 1 before they are refused: published ones are rounded."""

_LARGEST = sys.float_info.max


def read_survey(path: Path, layout: str) -> Survey:
    """Read a survey file.

    Parameters
    ----------
    path : Path
        CSV (``.csv``, ``.csv.gz``) or, in our own format, parquet (``.parquet``).
    layout : str
        A key of ``FORMATS``: ``"custom"`` for one row per question and group with the columns
        ``question_id, question, options, group`` and ``shares`` or ``counts`` (optionally
        ``ordinal``), lists as JSON; ``"globalopinionqa"`` for ``question, selections, options``.

    Returns
    -------
    Survey
        Questions and groups in the order of the file.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    """
    if path.is_dir():
        raise SurveyError(f"{path} is a folder; data.path names the survey file")
    if not path.is_file():
        raise SurveyError(f"{path}: no such file; data.path names the survey file")
    builder = _Builder(path)
    FORMATS[layout](builder)
    survey = builder.build()
    if not survey.answers:
        raise SurveyError(f"{path}: no usable row")
    return survey


class _Builder:
    """Collects rows into a survey, refusing what contradicts an earlier row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = 0
        self.dropped: Counter[str] = Counter()
        self._position: dict[str, int] = {}
        self._questions: list[Question] = []
        self._shares: dict[str, dict[int, list[float]]] = {}

    def rows(self, required: Sequence[str]) -> Iterator[dict[str, Any]]:
        for row, cells in table_rows(self.path):
            self.row = row
            missing = [name for name in required if name not in cells]
            if missing:
                raise SurveyError(
                    f"{self.path}: column {missing[0]!r} is missing; "
                    f"the columns are {', '.join(map(str, cells))}"
                )
            yield cells

    def refuse(self, reason: str) -> SurveyError:
        return SurveyError(f"{self.path}, row {self.row}: {reason}")

    def add_question(
        self, identity: object, text: str, options: tuple[str, ...], ordinal: list[Any] | None
    ) -> int:
        if not _filled(identity):
            raise self.refuse("no question_id")
        try:
            scale = None if ordinal is None else tuple(float(value) for value in ordinal)
            question = Question(str(identity).strip(), text, options, scale)
        except (ValueError, TypeError) as error:
            raise self.refuse(str(error)) from error
        position = self._position.setdefault(question.id, len(self._questions))
        if position == len(self._questions):
            self._questions.append(question)
        elif self._questions[position] != question:
            raise self.refuse(
                f"question {question.id!r} has another text, options or ordinal than before"
            )
        return position

    def has_answer(self, group: str, position: int) -> bool:
        return position in self._shares.get(group, {})

    def add_answer(self, group: str, position: int, values: object, total: float | None) -> None:
        """Add shares (`total` 1) or counts (`total` None: whatever they sum to)."""
        numbers = self._numbers(values, len(self._questions[position].options), group)
        amount = sum(numbers)
        if not math.isfinite(amount):
            raise self.refuse(f"the answers of group {group!r} are too large")
        if total is not None and abs(amount - total) > SUM_TOLERANCE:
            raise self.refuse(f"the shares of group {group!r} sum to {amount:g} instead of 1")
        if amount <= 0:
            raise self.refuse(f"the counts of group {group!r} sum to zero")
        if self.has_answer(group, position):
            raise self.refuse(
                f"group {group!r} has answered question {self._questions[position].id!r} before"
            )
        self._shares.setdefault(group, {})[position] = [value / amount for value in numbers]

    def _numbers(self, values: object, length: int, group: str) -> list[float]:
        if not isinstance(values, list):
            raise self.refuse(f"the answers of group {group!r} are not a list: {values!r}")
        if len(values) != length:
            raise self.refuse(
                f"group {group!r} has {len(values)} shares or counts for {length} options"
            )
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise self.refuse(f"group {group!r} has {value!r} where a number must stand")
            if not 0 <= value <= _LARGEST:
                raise self.refuse(f"group {group!r} has the share or count {str(value)[:20]}")
        return [float(value) for value in values]

    def build(self) -> Survey:
        answers = {}
        for group, shares in self._shares.items():
            positions = sorted(shares)
            widest = max(len(shares[position]) for position in positions)
            share_QO = np.zeros((len(positions), widest))
            for row, position in enumerate(positions):
                share_QO[row, : len(shares[position])] = shares[position]
            answers[group] = Answers(np.array(positions, dtype=np.int64), share_QO)
        return Survey(str(self.path), tuple(self._questions), answers, dict(self.dropped))


def _read_custom(survey: _Builder) -> None:
    for cells in survey.rows(("question_id", "question", "options", "group")):
        kinds = [kind for kind in ("shares", "counts") if _filled(cells.get(kind))]
        if len(kinds) != 1:
            raise survey.refuse("exactly one of the columns 'shares' and 'counts' must be filled")
        group = str(cells["group"] or "").strip()
        if not group:
            raise survey.refuse("no group")
        options = _texts(survey, _json_list(survey, cells, "options"))
        ordinal = _json_list(survey, cells, "ordinal") if _filled(cells.get("ordinal")) else None
        text = str(cells["question"] or "").strip()
        position = survey.add_question(cells["question_id"], text, options, ordinal)
        values = _json_list(survey, cells, kinds[0])
        survey.add_answer(group, position, values, total=1.0 if kinds[0] == "shares" else None)


def _read_globalopinionqa(survey: _Builder) -> None:
    for cells in survey.rows(("question", "selections", "options")):
        text = str(cells["question"] or "").strip()
        if not text:
            survey.dropped["row without question text"] += 1
            continue
        selections = _selections(survey, cells["selections"])
        if not selections:
            survey.dropped["row without a country"] += 1
            continue
        options = _texts(survey, _literal(survey, cells["options"], list, "options"))
        position = survey.add_question(_text_id(text, options), text, options, None)
        for group, values in selections:
            if isinstance(values, list) and values and not any(values):
                survey.dropped["country whose shares sum to zero"] += 1
            elif survey.has_answer(group, position):
                survey.dropped["country that already answered the question"] += 1
            else:
                survey.add_answer(group, position, values, total=1.0)


FORMATS: dict[str, Callable[[_Builder], None]] = {
    "custom": _read_custom,
    "globalopinionqa": _read_globalopinionqa,
}
"""Readers by layout."""


def _filled(cell: object) -> bool:
    return cell is not None and str(cell).strip() != ""


def _json_list(survey: _Builder, cells: dict[str, Any], column: str) -> list[Any]:
    """Read a list that is JSON text, or already a list (parquet)."""
    cell = cells[column]
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise survey.refuse(f"column {column!r} is not JSON: {error}") from error
    if not isinstance(cell, list):
        raise survey.refuse(f"column {column!r} is not a list: {cell!r}")
    return cell


def _literal(survey: _Builder, cell: str, kind: type, column: str) -> Any:
    try:
        value = ast.literal_eval(cell)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise survey.refuse(f"column {column!r} is not a Python {kind.__name__}") from error
    if not isinstance(value, kind):
        raise survey.refuse(f"column {column!r} is not a Python {kind.__name__}")
    return value


def _selections(survey: _Builder, cell: str) -> list[tuple[str, Any]]:
    """Read ``defaultdict(<class 'list'>, {...})``, or the plain dictionary in it."""
    wrapped = re.fullmatch(r"defaultdict\(<class 'list'>, (\{.*\})\)", cell.strip(), re.DOTALL)
    countries = _literal(survey, wrapped[1] if wrapped else cell, dict, "selections")
    named = [(str(name).strip(), values) for name, values in countries.items()]
    if not all(name for name, _ in named):
        raise survey.refuse("no group: a country without a name")
    return named


def _texts(survey: _Builder, options: Sequence[object]) -> tuple[str, ...]:
    for option in options:
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise survey.refuse(f"option {option!r} is neither a text nor a number")
    # Scales list some options as numbers: 1.0 is the answer "1".
    return tuple(
        str(int(option))
        if isinstance(option, float) and option.is_integer()
        else str(option).strip()
        for option in options
    )


def _text_id(text: str, options: tuple[str, ...]) -> str:
    content = json.dumps([text, options], ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
