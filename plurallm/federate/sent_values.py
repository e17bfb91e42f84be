"""Single values that a node sent: whether they can be used, and reasons that can be logged."""

import unicodedata
from collections.abc import Callable
from typing import TypeVar

Parsed = TypeVar("Parsed")

MOST = 10**9
"""Of anything that a node counts: far more than a survey has questions, and sums stay exact."""

_LONGEST_REASON = 500  # characters: room for a refusal, none to flood a log


def or_reason(parse: Callable[[], Parsed]) -> Parsed | str:
    """Parse what a node sent; give the reason, a short text, where it cannot be used."""
    try:
        return parse()
    except ValueError as error:
        return one_line(str(error))


def one_line(text: str) -> str:
    """Make a text that a node had a hand in fit to be logged: short, no control characters."""
    shown = "".join(char if unicodedata.category(char) != "Cc" else " " for char in text)
    return shown if len(shown) <= _LONGEST_REASON else f"{shown[:_LONGEST_REASON]}..."


def is_count(value: object, least: int, most: int = MOST) -> bool:
    """Tell whether a value is an integer in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_between(value: object, low: float, high: float) -> bool:
    """Tell whether a value is a number in a range; NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
