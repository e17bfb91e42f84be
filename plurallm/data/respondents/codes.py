"""What the codes of a variable mean: options of a question, no answers, or neither."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from plurallm.data.non_answers import is_non_answer

NO_ANSWER = "answer with a code that is no answer (data.non_answers=keep keeps labelled ones)"
BY_CONVENTION = "answer with a code outside its scale that by convention is no answer (7, 88, 999)"
OFF_SCALE = "answer with a code that has a label but no place on the declared scale"
UNKNOWN = "answer with a code that has no label (data.unlabelled=drop)"

WIDEST_SCALE = 101
"""Most points of a scale whose points between the labelled ones are filled in."""

_REPEATED = re.compile(r"-?([6-9])\1*")
_BLANK = frozenset({"na", "n/a", "nan", ".", "null", "none", "missing"})
_EXTENDED = re.compile(r"\.?[a-z]")  # Stata's .a to .z


@dataclass(frozen=True)
class Variable:
    """What a file's labels or a codebook say of one column.

    Attributes
    ----------
    name : str
        The column.
    text : str
        The question as asked; empty where nothing says it.
    labels : mapping of str to str
        Text of each labelled code, whether an answer or not.
    missing : frozenset of str
        Codes that are no answer.
    missing_ranges : tuple of (float, float)
        Lowest and highest code of ranges of codes that are no answer.
    codes : tuple of str
        The codes that are answers, where they are listed.
    span : (int, int) or None
        Least and greatest code of a scale of whole numbers.
    kind : str
        ``"ordinal"``, ``"nominal"``, ``"numeric"``, ``"other"`` (text, weight, ...) or empty.
    asked : bool or None
        Whether the column is a question; None: it is one where its codes have labels.
    """

    name: str
    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    missing: frozenset[str] = frozenset()
    missing_ranges: tuple[tuple[float, float], ...] = ()
    codes: tuple[str, ...] = ()
    span: tuple[int, int] | None = None
    kind: str = ""
    asked: bool | None = None

    @property
    def described(self) -> bool:
        """Whether anything says which codes there are."""
        return bool(self.labels or self.codes or self.span)

    def no_answer(self, code: str) -> bool:
        """Whether a code is declared to be no answer, or has a label that says so."""
        value = number(code)
        return (
            code in self.missing
            or (
                value is not None and any(low <= value <= high for low, high in self.missing_ranges)
            )
            or is_non_answer(self.labels.get(code, "answer"))
        )


def number(code: str) -> float | None:
    """Value of a code that is a finite number."""
    try:
        value = float(code)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def in_order(codes: Iterable[str]) -> tuple[str, ...]:
    """Codes by their values, then those that are no numbers by their texts."""

    def place(code: str) -> tuple[bool, float, str]:
        value = number(code)
        return value is None, value or 0.0, code

    return tuple(sorted(codes, key=place))


def merged(own: Variable, codebook: Variable) -> Variable:
    """Put what a codebook says over what the file itself says."""
    said = {
        name: value
        for name in ("text", "labels", "codes", "span", "kind", "asked")
        if (value := getattr(codebook, name)) not in ("", {}, (), None)
    }
    if codebook.missing or codebook.missing_ranges:
        said |= {"missing": codebook.missing, "missing_ranges": codebook.missing_ranges}
    return replace(own, **said)


def answer_codes(variable: Variable, present: Iterable[str]) -> dict[str, str]:
    """Codes that are answers, in order, with the text of each.

    A scale whose ends alone have labels has all whole numbers between them as points. A point
    without a label of its own is called by its number, and then a labelled one shows its number
    too: ``0 (No trust at all)``, ``1``, ....
    """
    declared = set(variable.codes)
    if variable.span is not None:
        declared |= {str(code) for code in range(variable.span[0], variable.span[1] + 1)}
    labelled = {code for code in variable.labels if not variable.no_answer(code)}
    if not declared or variable.kind == "nominal":
        declared |= labelled
    if not variable.codes and variable.span is None:
        declared |= _between(variable, labelled, present)
    codes = in_order(code for code in declared if not variable.no_answer(code))
    named = {code: variable.labels.get(code, code).strip() or code for code in codes}
    if all(text != code for code, text in named.items()):
        return named
    return {code: text if text == code else f"{code} ({text})" for code, text in named.items()}


def _between(variable: Variable, labelled: set[str], present: Iterable[str]) -> set[str]:
    """Points of a scale that have no label, where the data have one between labelled ones."""
    values = [value for code in labelled if (value := number(code)) is not None]
    whole = len(values) == len(labelled) >= 2 and all(value.is_integer() for value in values)
    if not whole or variable.kind == "nominal":
        return set()
    low, high = int(min(values)), int(max(values))
    points = {str(code) for code in range(low, high + 1)} if high - low < WIDEST_SCALE else set()
    return (
        points if any(code in points and code not in variable.labels for code in present) else set()
    )


def why_no_answer(variable: Variable, answers: Mapping[str, str], code: str) -> str | None:
    """Say why a code counts as no answer; None for an answer.

    ``UNKNOWN`` where nothing says what the code means: the caller refuses it, or drops it where it
    was told to.
    """
    if code in answers:
        return None
    if variable.no_answer(code):
        return NO_ANSWER
    if code in variable.labels:
        return OFF_SCALE
    return BY_CONVENTION if conventional(code, answers) else UNKNOWN


def conventional(code: str, answers: Iterable[str]) -> bool:
    """Tell whether a code without a label says "no answer" as survey offices write it.

    6, 7, 8 or 9, once or repeated (77, 999), beyond the greatest answer with a gap; a minus sign
    where no answer has one; blanks as programs write them.

    Examples
    --------
    >>> [conventional(code, ["1", "2", "3"]) for code in ("4", "7", "88", "-1", "NA", "5.5")]
    [False, True, True, True, True, False]
    """
    if code.lower() in _BLANK or _EXTENDED.fullmatch(code):
        return True
    value = number(code)
    known = [other for answer in answers if (other := number(answer)) is not None]
    if value is None or not known:
        return False
    if value < 0:
        return min(known) >= 0 and value.is_integer()
    return bool(_REPEATED.fullmatch(code)) and value > max(known) + 1
