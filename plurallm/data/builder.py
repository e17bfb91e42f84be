"""From the rows of a file to a survey."""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.data.doubts import doubts
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label, normal_form
from plurallm.data.survey import Answers, Question, Survey

SUM_TOLERANCE = 0.01
"""How far shares may be from a sum of 1 before they are refused: published ones are rounded."""

_LARGEST = sys.float_info.max
_PLAIN = (float, int)


class Builder:
    """Collects rows into a survey, refusing what contradicts an earlier row.

    Parameters
    ----------
    path : Path
        The file, for messages.
    rows : iterable of (int, dict)
        Number and cells of each row.
    keep_non_answers : bool
        Whether options that are no answers stay, for readers of layouts that know them apart.
    shares_sum : float
        What shares sum to: 1, or 100 where they are percent.

    Attributes
    ----------
    dropped : Counter
        What a reader leaves out, counted by reason.
    """

    def __init__(
        self,
        path: Path,
        rows: Iterable[tuple[int, dict[str, Any]]],
        keep_non_answers: bool = False,
        shares_sum: float = 1.0,
    ) -> None:
        self.shares_sum = shares_sum
        self.keep_non_answers = keep_non_answers
        self.dropped: Counter[str] = Counter()
        self._path = path
        self._rows = rows
        self._row = 0
        self._first_row: dict[str, int] = {}
        self._units: dict[str, None] = {}
        self._position: dict[str, int] = {}
        self._questions: list[Question] = []
        self._shares: dict[str, dict[int, list[float]]] = {}
        self._people: dict[str, dict[int, float]] = {}
        self._effective: dict[str, dict[int, float]] = {}

    def rows(self) -> Iterator[dict[str, Any]]:
        """Cells of each row by column."""
        for row, cells in self._rows:
            self._row = row
            yield cells

    def refuse(self, reason: str) -> SurveyError:
        """Make the error that names file and row."""
        return SurveyError(f"{self._path}, row {self._row}: {reason}")

    def question(self, identity: object) -> Question | None:
        """Give the question that an earlier row has brought under an identity."""
        position = self._position.get(label(identity))
        return None if position is None else self._questions[position]

    def add_question(
        self, identity: object, text: str, options: tuple[str, ...], ordinal: list[Any] | None
    ) -> int:
        """Add a question, or find it again; returns its position."""
        if not label(identity):
            raise self.refuse("no question_id")
        try:
            scale = None if ordinal is None else tuple(float(value) for value in ordinal)
            question = Question(label(identity), text, options, scale)
        except TypeError as error:
            raise self.refuse(f"ordinal has a value that is no number: {ordinal}") from error
        except ValueError as error:
            raise self.refuse(str(error)) from error
        position = self._position.setdefault(question.id, len(self._questions))
        if position == len(self._questions):
            for name, text in (("question_id", question.id), ("question", question.text)):
                self._refuse_nul(name, text)
            self._refuse_nul("options", "".join(question.options))
            self._questions.append(question)
            self._first_row[question.id] = self._row
        elif self._questions[position] != question:
            raise self.refuse(
                f"question {question.id!r} has another text, options or ordinal than before"
            )
        return position

    def shares(self, group: str, position: int, values: object, total: float | None) -> list[float]:
        """Check shares, which sum to `total`, or counts (None: whatever they sum to)."""
        numbers = self._numbers(values, len(self._questions[position].options), group)
        amount = sum(numbers)
        if not math.isfinite(amount):
            raise self.refuse(f"the answers of group {group!r} are too large")
        if total is not None and abs(amount / total - 1) > SUM_TOLERANCE:
            percent = total == 1 and abs(amount / 100 - 1) <= SUM_TOLERANCE
            hint = ", as percent do: give data.shares_sum=100" if percent else ""
            raise self.refuse(
                f"the shares of group {group!r} sum to {amount:g} instead of {total:g}{hint}"
            )
        if amount <= 0:
            raise self.refuse(f"the counts of group {group!r} sum to zero")
        self._units["counts" if total is None else "shares"] = None
        return [value / amount for value in numbers]

    def answer(self, group: str, position: int) -> list[float] | None:
        """Shares that an earlier row has given for a group and a question."""
        return self._shares.get(group, {}).get(position)

    def add_answer(
        self,
        group: str,
        position: int,
        shares: list[float],
        people: float | None = None,
        effective: object = None,
    ) -> None:
        """Add what ``shares`` has checked; `people` behind it, and their effective number."""
        if group not in self._shares:
            self._refuse_nul("group", group)
        own = self._shares.setdefault(group, {})
        if position in own:
            raise self.refuse(
                f"group {group!r} has answered question {self._questions[position].id!r} before"
            )
        own[position] = shares
        if people is not None:
            self._people.setdefault(group, {})[position] = people
        if effective is not None:
            try:
                number = float(str(effective))
            except ValueError:
                number = -1.0
            if not 0 < number <= _LARGEST:
                raise self.refuse(f"group {group!r} has the effective number {effective!r}")
            self._effective.setdefault(group, {})[position] = number

    def build(self, layout: str) -> Survey:
        """Lay the answers out; `layout` says in words how the file is laid out.

        By question id and group name: another order of the rows is the same survey, whose training
        draws and scores are the same.
        """
        order = sorted(range(len(self._questions)), key=lambda number: self._questions[number].id)
        place = {number: position for position, number in enumerate(order)}
        answers = {}
        doubtful = doubts(self._questions, self._first_row, self._people)
        joined = self._join_spellings()
        for group, by_number in sorted(self._shares.items()):
            shares = {place[number]: own for number, own in by_number.items()}
            positions = sorted(shares)
            widest = max(len(shares[position]) for position in positions)
            share_QO = np.zeros((len(positions), widest))
            for row, position in enumerate(positions):
                share_QO[row, : len(shares[position])] = shares[position]
            numbers = [order[position] for position in positions]
            answers[group] = Answers(
                np.array(positions, dtype=np.int64),
                share_QO,
                _of_all(self._people.get(group, {}), numbers),
                _of_all(self._effective.get(group, {}), numbers),
            )
        return Survey(
            str(self._path),
            tuple(self._questions[number] for number in order),
            answers,
            dict(self.dropped),
            f"{layout}; answers as {' and '.join(self._units)}",
            joined,
            doubtful,
            rows=dict(self._first_row),
        )

    def _refuse_nul(self, column: str, text: str) -> None:
        if "\0" in text:
            raise self.refuse(f"{column} {text!r} holds a NUL character: remove it")

    def _join_spellings(self) -> dict[str, tuple[str, ...]]:
        """Make one group of names that differ only in how they are written."""
        spellings: dict[str, list[str]] = {}
        for name in sorted(self._shares):
            spellings.setdefault(normal_form(name), []).append(name)
        several = {names[0]: tuple(names) for names in spellings.values() if len(names) > 1}
        for first, names in several.items():
            for other in names[1:]:
                twice = self._shares[first].keys() & self._shares[other].keys()
                if twice:
                    question = min(self._questions[number].id for number in twice)
                    raise SurveyError(
                        f"{self._path}: {first!r} and {other!r} are one group, written in two "
                        f"ways, and both have answered question {question!r}: remove one of the "
                        "rows, or give the groups names that differ in more"
                    )
                self._shares[first] |= self._shares.pop(other)
                for known in (self._people, self._effective):
                    known.setdefault(first, {}).update(known.pop(other, {}))
        return several

    def _numbers(self, values: object, length: int, group: str) -> list[float]:
        if not isinstance(values, list):
            raise self.refuse(f"the answers of group {group!r} are not a list: {values!r}")
        if len(values) != length:
            raise self.refuse(
                f"group {group!r} has {len(values)} shares or counts for {length} options"
            )
        for value in values:
            # Most are plain numbers, which take the first comparison alone.
            if type(value) not in _PLAIN and (
                isinstance(value, bool) or not isinstance(value, (int, float))
            ):
                raise self.refuse(f"group {group!r} has {value!r} where a number must stand")
            if not 0 <= value <= _LARGEST:
                raise self.refuse(f"group {group!r} has the share or count {str(value)[:20]}")
        return [float(value) for value in values]


def _of_all(known: dict[int, float], numbers: list[int]) -> np.ndarray | None:
    """Values of all these questions; None where some have none."""
    return np.array([known[number] for number in numbers]) if len(known) == len(numbers) else None
