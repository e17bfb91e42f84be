"""The texts that have a vector each: a question with one of its options."""

from plurallm.survey import Survey

Pair = tuple[str, str]
"""Text of a question and of one of its options."""


def distinct_pairs(survey: Survey) -> dict[Pair, int]:
    """Row of the table for every distinct (question, option), in the survey's order."""
    pairs = ((q.text, option) for q in survey.questions for option in q.options)
    return {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
