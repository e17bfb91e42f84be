"""The texts that have a vector each: a question with one of its options."""

import string

from plurallm.config.learning import EmbeddingConfig
from plurallm.data.survey import Question, Survey

Pair = tuple[str, str]
"""Text of a question and of one of its options, as an embedder reads them."""


def question_pairs(question: Question, config: EmbeddingConfig) -> list[Pair]:
    r"""Pair a question with each of its options.

    Parameters
    ----------
    question : Question
        Its text and its options.
    config : EmbeddingConfig
        With ``embedding.list_options`` the question's text ends in the list of all options, and an
        option stands behind its letter, as in GPO's prompts (arXiv 2310.11523).

    Returns
    -------
    list of (str, str)
        One for each option, in their order.

    Raises
    ------
    ValueError
        When there are more options to list than letters.

    Examples
    --------
    >>> question_pairs(Question("1", "Good?", ("Yes", "No")), listing)[1]
    ('Good?\n\nOptions:\nA. Yes\nB. No', 'B. No')
    """
    text, options = question.text, question.options
    if getattr(config, "list_options", False):
        if len(options) > len(string.ascii_uppercase):
            raise ValueError(
                f"question {question.id!r} has {len(options)} options, more than there are "
                "letters: embedding.list_options=false"
            )
        options = tuple(
            f"{letter}. {option}"
            for letter, option in zip(string.ascii_uppercase, options, strict=False)
        )
        text = "\n".join((f"{text}\n\nOptions:", *options))
    return [(text, option) for option in options]


def distinct_pairs(survey: Survey, config: EmbeddingConfig) -> dict[Pair, int]:
    """Row of the table for every distinct (question, option), in the survey's order."""
    pairs = (pair for question in survey.questions for pair in question_pairs(question, config))
    return {pair: row for row, pair in enumerate(dict.fromkeys(pairs))}
