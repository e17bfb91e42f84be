"""What a survey file can hold that is read as it stands and is seldom meant so."""

import re
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from plurallm.data.non_answers import non_answers
from plurallm.data.survey import Question

GAP = 3.0
"""Times the least step between ordinal values from which on a step is a gap."""

SMALL_GAP = 2.0
"""The same where all that follows are codes which by convention are no answers: 7, 88, 999."""

MORE_ANSWERS = 1.8
"""Times the usual number of a group's answers to a question from which on people chose several."""

_SEVERAL = re.compile(
    r"all that apply|as many as|(?:select|choose|mark|tick|check|name|pick) (?:all|up to|any)|"
    r"multiple (?:answers|responses|choice)|more than one (?:answer|option)|select multiple",
    re.IGNORECASE,
)

_HINTS = ("apply", "many as", "multiple", "more than one", " all", " up to", " any")


def doubts(
    questions: Sequence[Question],
    rows: Mapping[str, int],
    people: Mapping[str, Mapping[int, float]],
) -> tuple[str, ...]:
    """Say what is doubtful, with the row where it stands first and what to do.

    Parameters
    ----------
    questions : sequence of Question
        As the file holds them.
    rows : mapping of str to int
        First row of each question, by id.
    people : mapping of str to mapping of int to float
        Sum of the counts, by group and position in `questions`.

    Returns
    -------
    tuple of str
        One for each question and doubt, in the order of the rows.
    """
    usual = {group: statistics.median(own.values()) for group, own in people.items() if own}
    found = []
    for number, question in enumerate(questions):
        asked = [own[number] / usual[group] for group, own in people.items() if number in own]
        told = [
            *_about_options(question),
            *_about_codes(question),
            *_about_several(question, asked),
        ]
        found += [(rows[question.id], f"question {question.id!r} {text}") for text in told]
    return tuple(f"row {row}: {text}" for row, text in sorted(found))


def _about_options(question: Question) -> list[str]:
    none = non_answers(question)
    if not none:
        return []
    return [
        f"has options that are no answers: {', '.join(map(repr, none))}. data.non_answers=drop "
        "leaves them out, keep counts them as opinions"
    ]


def _about_codes(question: Question) -> list[str]:
    if question.ordinal is None:
        return []
    kept = [
        value
        for value, option in zip(question.ordinal, question.options, strict=True)
        if option not in non_answers(question)
    ]
    values = sorted(set(kept))
    steps = [high - low for low, high in pairwise(values)]
    gap = len(steps) > 1 and any(
        step >= (SMALL_GAP if all(map(_is_code, values[place:])) else GAP) * min(steps)
        for place, step in enumerate(steps, start=1)
    )
    both = bool(values) and values[0] < 0 < values[-1]
    strange = gap or (both and {-value for value in values} != set(values))
    if not strange:
        return []
    shown = ", ".join(f"{value:g}" for value in question.ordinal)
    return [
        f"has the ordinal values {shown}, of which some look like codes of non-answers: "
        "data.distance=wasserstein would divide by their range. Remove those options with their "
        "counts, or give them values on the scale"
    ]


def _is_code(value: float) -> bool:
    """Whether a number is one of 6 to 9, repeated."""
    text = f"{value:g}"
    return len(set(text)) == 1 and text[0] in "6789"


def _about_several(question: Question, asked: Sequence[float]) -> list[str]:
    text = question.text.lower()
    # The pattern alone takes as long as all else that is done with a question.
    said = any(word in text for word in _HINTS) and _SEVERAL.search(text) is not None
    counted = len(asked) > 0 and statistics.median(asked) >= MORE_ANSWERS
    if not said and not counted:
        return []
    why = "its text says so" if said else f"{statistics.median(asked):.1f} times the usual answers"
    return [
        f"seems to let people choose several options ({why}): the counts are made to sum to 1. "
        "Make a question with the options 'chosen' and 'not chosen' of each, or remove it"
    ]
