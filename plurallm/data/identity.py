"""When two names or texts are the same, however they are written."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_SAME = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4\u0060", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")


@lru_cache(maxsize=2**16)
def normal_form(text: str) -> str:
    """Give what texts that differ only in how they are written have in common.

    NFKC, without upper case, zero-width and other invisible characters, typographic quotes and
    dashes, and with one space for any white space. It compares identities; what is shown, embedded
    or asked stays as written.

    Examples
    --------
    >>> normal_form(" Don\u2019t\u00a0 know ")
    "don't know"
    """
    if not text.isascii():
        text = "".join(char for char in text if unicodedata.category(char) != "Cf")
        text = unicodedata.normalize("NFKC", text.translate(_SAME)).casefold()
        text = unicodedata.normalize("NFKC", text).translate(_SAME)
    return " ".join(text.casefold().split())


def label(cell: object) -> str:
    """Name or id in a cell: a whole number is the same with and without a decimal point.

    Examples
    --------
    >>> label(0.0), label("0.0"), label(" 0 "), label("1.5"), label(None)
    ('0', '0', '0', '1.5', '')
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    text = str(cell).strip()
    whole = _WHOLE_NUMBER.fullmatch(text)
    if whole:
        return whole[1]
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else text


def question_identity(text: str, options: Sequence[str]) -> str:
    """What makes two questions one: text and options, whatever their order and their ids."""
    return json.dumps([normal_form(text), sorted(map(normal_form, options))])
