"""What a policy wrote, read strictly: an option, a distribution over the options, a ranking.

The whole text must be the answer: anything around it makes it unparsable, so that a policy cannot
earn a reward beside a second text. Space at both ends, upper and lower case do not count. An option
is named by its text or by its letter (``A``, ``B``, ... in the order of the options); where an
option's text is itself a letter, the text counts.
"""

import json
import math
import re
import string
from collections.abc import Mapping, Sequence

Values = tuple[float, ...]
"""One number for each option."""

SUM_TOLERANCE = 0.01 + 1e-9
"""How far written shares may be from a sum of 1: three times 33 % is near enough."""

_LETTER_BEFORE_TEXT = re.compile(r"\(?([A-Za-z])[.):]\s+(.+)", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Za-z])[.):]?")
_SHARE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})\s?(%?)")
_NUMBERED_LINE = re.compile(r"\d+[.)]\s*(.+)")
_LONGEST = 20_000


def parse_option(text: str, options: Sequence[str]) -> Values | None:
    """Read one of the options.

    Parameters
    ----------
    text : str
        An option's text (``Yes``), its letter (``A``, ``A.``, ``(A)``) or both (``A. Yes``).
    options : sequence of str
        The question's options.

    Returns
    -------
    tuple of float or None
        1 for the option, 0 for the others; None when the text is something else.

    Examples
    --------
    >>> parse_option("B. No", ["Yes", "No"])
    (0.0, 1.0)
    """
    chosen = _position(text, options)
    return None if chosen is None else tuple(float(n == chosen) for n in range(len(options)))


def parse_distribution(text: str, options: Sequence[str]) -> Values | None:
    r"""Read a distribution over the options.

    Parameters
    ----------
    text : str
        A JSON list of shares in the order of the options (``[0.4, 0.6]``), a JSON object
        (``{"Yes": 0.4, "No": 0.6}``), or a line for each option (``Yes: 40%`` or ``A: 0.4``).
        Every option must be there once. Shares are not negative and sum to 1 within 0.01; lines
        with a percent sign, on all or none, sum to 100 within 1.
    options : sequence of str
        The question's options.

    Returns
    -------
    tuple of float or None
        Shares that sum to 1; None when the text is something else.

    Examples
    --------
    >>> parse_distribution("A: 25%\nB: 75%", ["Yes", "No"])
    (0.25, 0.75)
    """
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    if text.startswith(("[", "{")):
        return _normalised(_in_order(_json(text), options), 1.0)
    named: dict[str, object] = {}
    percents = set()
    for line in filter(None, map(str.strip, text.splitlines())):
        end = max(line.rfind(":"), line.rfind("="))
        share, name = _SHARE.fullmatch(line[end + 1 :].strip()), line[: max(end, 0)].strip()
        if share is None or not name or name in named:
            return None
        named[name] = float(share[1])
        percents.add(share[2])
    if len(percents) != 1:
        return None
    return _normalised(_in_order(named, options), 100.0 if percents == {"%"} else 1.0)


def parse_ranking(text: str, options: Sequence[str]) -> Values | None:
    """Read a ranking of the options, the most popular first.

    Parameters
    ----------
    text : str
        A JSON list (``["No", "Yes"]``), one line for each option, numbered or not
        (``1. No``), or options with ``>`` between them (``B > A``). Every option is there once.
    options : sequence of str
        The question's options.

    Returns
    -------
    tuple of float or None
        Place of each option, 0 for the first; None when the text is something else.

    Examples
    --------
    >>> parse_ranking("C > A > B", ["Yes", "No", "Unsure"])
    (1.0, 2.0, 0.0)
    """
    text = text.strip()
    if len(text) > _LONGEST:
        return None
    names: object
    if text.startswith("["):
        names = _json(text)
    elif "\n" in text:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        numbered = [_NUMBERED_LINE.fullmatch(line) for line in lines]
        names = [line[1] for line in numbered if line] if all(numbered) else lines
    else:
        names = text.split(">")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    order = [_position(name, options) for name in names]
    if sorted(place for place in order if place is not None) != list(range(len(options))):
        return None
    if len(order) != len(options):
        return None
    return tuple(float(order.index(n)) for n in range(len(options)))


def _position(text: str, options: Sequence[str]) -> int | None:
    """Position of the option that a text names."""
    wanted = text.strip().casefold()
    texts = [option.strip().casefold() for option in options]
    if wanted in texts:
        return texts.index(wanted) if texts.count(wanted) == 1 else None
    both = _LETTER_BEFORE_TEXT.fullmatch(text.strip())
    letter = both or _LETTER.fullmatch(text.strip())
    if letter is None:
        return None
    position = string.ascii_uppercase.index(letter[1].upper())
    if position >= len(options):
        return None
    if both and both[2].strip().casefold() != texts[position]:
        return None
    return position


def _json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def _in_order(values: object, options: Sequence[str]) -> list[object] | None:
    """Values in the order of the options, from a list or from names."""
    if isinstance(values, Mapping):
        by_position = {_position(name, options): value for name, value in values.items()}
        if len(values) != len(options) or set(by_position) != set(range(len(options))):
            return None
        return [by_position[n] for n in range(len(options))]
    return values if isinstance(values, list) and len(values) == len(options) else None


def _normalised(values: list[object] | None, whole: float) -> Values | None:
    if values is None:
        return None
    shares = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if not 0 <= value <= whole * (1 + SUM_TOLERANCE):
            return None
        shares.append(float(value))
    total = math.fsum(shares)
    if abs(total / whole - 1) > SUM_TOLERANCE:
        return None
    return tuple(share / total for share in shares)
