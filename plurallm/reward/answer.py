"""What a policy wrote, read strictly: an option, a distribution over the options, a ranking.

The whole text must be the answer: anything around it makes it unparsable, so that a policy cannot
earn a reward beside a second text. Space at both ends, upper and lower case do not count, nor do
typographic quotes, dashes and spaces where they tell no options apart. An option is named by its
text or by its letter (``A``, ``B``, ... in the order of the options); where an option's text is
itself a letter, the text counts.
"""

import json
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from plurallm.data.identity import normal_form

Values = tuple[float, ...]
"""One number for each option."""

SUM_TOLERANCE = 0.01 + 1e-9
"""How far written shares may be from a sum of 1: three times 33 % is near enough."""

_LETTER_BEFORE_TEXT = re.compile(r"\(?([A-Za-z])[.):]\s+(.+)", re.DOTALL)
_LETTER = re.compile(r"\(?([A-Za-z])[.):]?")
_SHARE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?|\.\d{1,20})\s?(%?)")
_NUMBERED_LINE = re.compile(r"(\d{1,4})[.)]\s*(.+)")
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
    (chosen,) = _positions([text], options)
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
        A JSON list (``["No", "Yes"]``), one line for each option, numbered from 1 on in their
        order or not at all (``1. No``), or options with ``>`` between them (``B > A``). Every
        option is there once.
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
    for names in _ways_to_list(text):
        order = _permutation(names, options)
        if order is not None:
            return tuple(float(place) for _, place in sorted(zip(order, count(), strict=False)))
    return None


def _ways_to_list(text: str) -> Iterator[list[str]]:
    """Split a ranking into names: an option's own text may begin with a number, or hold ``>``."""
    if text.startswith("["):
        names = _json(text)
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            yield names
    elif "\n" in text:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        yield lines
        numbered = [match for match in map(_NUMBERED_LINE.fullmatch, lines) if match]
        if [int(match[1]) for match in numbered] == list(range(1, len(lines) + 1)):
            yield [match[2] for match in numbered]
    else:
        yield re.split(r"\s>\s", text)
        yield text.split(">")


def _permutation(names: Sequence[str], options: Sequence[str]) -> list[int] | None:
    """Positions of the options that are named; None unless every option is, once."""
    if len(names) != len(options):
        return None
    positions = [position for position in _positions(names, options) if position is not None]
    return positions if len(set(positions)) == len(options) else None


def _positions(names: Sequence[str], options: Sequence[str]) -> list[int | None]:
    """Position of the option that each name means."""
    by_text, by_form = _unique(map(_folded, options)), _unique(map(normal_form, options))
    longest = 2 * max(map(len, options), default=0)  # no form of a long text is worth computing

    def named(name: str) -> tuple[bool, int | None]:
        if _folded(name) in by_text:
            return True, by_text[_folded(name)]
        form = normal_form(name) if len(name) <= longest else None
        return form in by_form, by_form.get(form)

    def position_of(name: str) -> int | None:
        known, place = named(name)
        if known:
            return place
        both = _LETTER_BEFORE_TEXT.fullmatch(name.strip())
        letter = both or _LETTER.fullmatch(name.strip())
        if letter is None:
            return None
        position = string.ascii_uppercase.index(letter[1].upper())
        if position >= len(options) or (both and named(both[2]) != (True, position)):
            return None
        return position

    return list(map(position_of, names))


def _unique(texts: Iterable[str]) -> dict[str | None, int | None]:
    """Position of each text; None where it stands twice."""
    found: dict[str | None, int | None] = {}
    for position, text in enumerate(texts):
        found[text] = None if text in found else position
    return found


def _folded(text: str) -> str:
    return text.strip().casefold()


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
        order = _permutation(list(values), options)
        if order is None:
            return None
        return [value for _, value in sorted(zip(order, values.values(), strict=True))]
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
