"""When two names or texts are the same, however they are written."""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_SINGLE = (
    "`\u00b4\u02b9\u02bb-\u02bd\u02c8\u02ca\u02cb\u2018-\u201b\u2032\u2035\u2039\u203a"
    "\u055a\u05f3\ua78c"
)
_DOUBLE = "\u00ab\u00bb\u02ba\u02ee\u201c-\u201f\u2033\u2036\u05f4\u301d-\u301f"
_DASHES = (
    "\u058a\u05be\u1400\u1806\u2010-\u2015\u2043\u02d7\u2212\u2e3a\u2e3b\u2e40\u301c\u3030\u30a0"
)
_SLASHES = "\u2044\u2215\u29f8"
_SAME = [
    (re.compile(f"[{written}]"), plain)
    for written, plain in ((_SINGLE, "'"), (_DOUBLE, '"'), (_DASHES, "-"), (_SLASHES, "/"))
]

# What nobody sees: Unicode's Default_Ignorable_Code_Point, other format characters, and controls
# that are no white space.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")
_BREAK = re.compile(r"\s*[\t-\r\x1c-\x1f\x85\u2028\u2029]\s*")


@lru_cache(maxsize=2**16)
def normal_form(text: str) -> str:
    """Give what texts that differ only in how they are written have in common.

    NFKC, without upper case, zero-width and other invisible characters, typographic quotes, dashes
    and slashes, and with one space for any white space. It compares identities; what is shown,
    embedded or asked stays as written.

    Examples
    --------
    >>> normal_form(" Don\u2019t\u00a0 know ")
    "don't know"
    """
    for _ in range(1 if text.isascii() else 2):  # NFKC makes some, and upper case hides some
        text = _INVISIBLE.sub("", text)
        for written, plain in _SAME:
            text = written.sub(plain, text)
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for written, plain in _SAME:
        text = written.sub(plain, text)
    return " ".join(_INVISIBLE.sub("", text).split())


def label(cell: object) -> str:
    r"""Name or id in a cell, in one line.

    A whole number is the same with and without a decimal point.

    Examples
    --------
    >>> label(0.0), label("0.0"), label(" 0 "), label("1.5"), label("Great\nBritain"), label(None)
    ('0', '0', '0', '1.5', 'Great Britain', '')
    """
    if cell is None or (isinstance(cell, float) and cell != cell):
        return ""
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    text = _BREAK.sub(" ", str(cell).strip())
    whole = _WHOLE_NUMBER.fullmatch(text)
    return text if whole is None else "0" if whole[1] == "-0" else whole[1]


def question_identity(text: str, options: Sequence[str]) -> str:
    """What makes two questions one: text and options, whatever their order and their ids."""
    return json.dumps([normal_form(text), sorted(map(normal_form, options))])
