"""What stands in a file of persons, and what became of it.

Dimension letters: ``P`` persons.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.markup import escape
from rich.table import Table

FEW_ANSWERS = 30
"""Answers to a question, over all groups, below which check-data names it."""

GROUPS_SHOWN = 40
"""Groups that check-data lists; of more it says how their sizes spread."""

EMPTY = "empty cell of a question"


@dataclass(frozen=True)
class QuestionCount:
    """The cells of one question.

    Attributes
    ----------
    answered, empty : int
        Persons with an answer, and with an empty cell.
    dropped : list of (str, str, int, str)
        Code, its label, persons and reason, of each code that counts as no answer.
    """

    answered: int
    empty: int
    dropped: list[tuple[str, str, int, str]]

    def reasons(self) -> Counter[str]:
        """Cells that are no answers, by reason."""
        found = Counter({EMPTY: self.empty} if self.empty else {})
        for _, _, persons, reason in self.dropped:
            found[reason] += persons
        return found


@dataclass(frozen=True)
class Census:
    """What stands in a file of persons, and what became of it.

    Attributes
    ----------
    persons : int
        Rows of the file.
    told : str
        What kind of file it is.
    groups : dict of str to dict
        Of each group ``persons``, whether it is ``kept``, and with weights ``effective``.
    weights : dict of str to float or str, or None
        The column, least, greatest and mean weight, and the design effect.
    questions : dict of str to QuestionCount
        By column.
    left_out : dict of str to str
        Why a column is no question.
    """

    persons: int
    told: str
    groups: dict[str, dict[str, Any]]
    weights: dict[str, Any] | None
    questions: dict[str, QuestionCount]
    left_out: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The census as JSON holds it."""
        return {
            "rows": self.persons,
            "file": self.told,
            "groups": self.groups,
            "weights": self.weights,
            "questions": {
                name: {
                    "answered": own.answered,
                    "empty": own.empty,
                    "dropped": [
                        dict(zip(("code", "label", "persons", "reason"), row, strict=True))
                        for row in own.dropped
                    ],
                }
                for name, own in self.questions.items()
            },
            "columns_left_out": self.left_out,
        }


def weight_facts(name: str, weight_P: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """Range of weights, and Kish's design effect: persons over their effective number."""
    assert weight_P is not None
    squares = float((weight_P**2).sum())
    effective = float(weight_P.sum()) ** 2 / squares if squares else 0.0
    return {
        "column": name,
        "least": float(weight_P.min()),
        "greatest": float(weight_P.max()),
        "mean": float(weight_P.mean()),
        "effective": effective,
        "design_effect": len(weight_P) / effective if effective else None,
    }


def census_lines(census: Census) -> list[str]:
    """Sentences on persons, weights and columns."""
    sizes = sorted(own["persons"] for own in census.groups.values())
    lines = [
        f"{census.persons} rows, each a person; {sum(sizes)} memberships in {len(sizes)} groups of "
        f"{sizes[0]} to {sizes[-1]} persons, median {np.median(sizes):g}."
    ]
    small = [f"{name} ({own['persons']})" for name, own in census.groups.items() if not own["kept"]]
    if small:
        more = f" and {len(small) - 10} more" if len(small) > 10 else ""
        lines.append(f"Groups left out, with their persons: {', '.join(small[:10])}{more}.")
    if census.weights is not None:
        told = census.weights
        lines.append(
            f"Weights {told['column']}: {told['least']:.4g} to {told['greatest']:.4g}, mean "
            f"{told['mean']:.4g}; effective number {told['effective']:.0f}, design effect "
            f"{told['design_effect']:.2f}."
        )
    by_reason: dict[str, list[str]] = {}
    for name, why in census.left_out.items():
        by_reason.setdefault(why, []).append(name)
    lines += [
        f"Columns that are no questions ({why}): {', '.join(n)}." for why, n in by_reason.items()
    ]
    few = [
        f"{n} ({own.answered})" for n, own in census.questions.items() if own.answered < FEW_ANSWERS
    ]
    if few:
        lines.append(f"Questions with fewer than {FEW_ANSWERS} answers: {', '.join(few)}.")
    return [escape(line) for line in lines]


def census_tables(census: Census) -> list[Table]:
    """Groups with their sizes, and questions with what was dropped of each."""
    tables = []
    if len(census.groups) <= GROUPS_SHOWN:
        table = Table(title="Persons of a group")
        for heading in ("group", "persons", *(["effective"] if census.weights else [])):
            table.add_column(heading, justify="left" if heading == "group" else "right")
        for name, own in census.groups.items():
            effective = [f"{own['effective']:.1f}"] if "effective" in own else []
            table.add_row(escape(name), str(own["persons"]), *effective)
        tables.append(table)
    table = Table(title="Cells of a question that are no answers")
    for heading in ("question", "answered", "empty", "dropped", "share", "codes"):
        table.add_column(heading, justify="left" if heading in ("question", "codes") else "right")
    for name, count in census.questions.items():
        codes = ", ".join(_code(*row[:3]) for row in count.dropped)
        lost = sum(row[2] for row in count.dropped)
        share = (lost + count.empty) / max(1, census.persons)
        cells = (str(count.answered), str(count.empty), str(lost), f"{share:.1%}")
        table.add_row(escape(name), *cells, escape(codes))
    tables.append(table)
    return tables


def _code(code: str, text: str, persons: int) -> str:
    return f"{code} {text}: {persons}" if text else f"{code}: {persons}"
