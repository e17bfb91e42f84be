"""Survey questions as prompts of a policy: rows of a data set for RLHF tools."""

import json
import string
from collections.abc import Iterator, Sequence
from typing import Any

from plurallm.data.survey import Question, Survey

TASKS = {
    "share": "Which option would most people of this group choose? Answer with its letter only.",
    "jensen_shannon": (
        "Which percentage of this group chooses each option? Answer with a line for each option, "
        'such as "A: 40%", that sum to 100%, and nothing else.'
    ),
    "kendall": (
        "Rank the options from the one that most of this group choose to the one that fewest do. "
        'Answer with the letters, such as "B > A > C", and nothing else.'
    ),
}
"""What is asked, by a measure that rewards it."""

TASKS |= {"wasserstein": TASKS["jensen_shannon"], "cosine": TASKS["jensen_shannon"]}
TASKS |= {"borda": TASKS["kendall"]}


def write_prompt(question: Question, group: str, measure: str) -> str:
    """Write a question, its options and the task as a text.

    Parameters
    ----------
    question : Question
        At most 26 options, named by letters.
    group : str
        Who answers.
    measure : str
        A measure of a ``Scorer``, except ``raw_mean``.

    Returns
    -------
    str
        The prompt.

    Raises
    ------
    ValueError
        For another measure.
    """
    if measure not in TASKS:
        raise ValueError(
            f"a prompt asks for what a measure rewards: one of {', '.join(TASKS)}, not {measure!r}"
        )
    options = "\n".join(
        f"{letter}. {option}"
        for letter, option in zip(string.ascii_uppercase, question.options, strict=False)
    )
    return f"Group: {group}\nQuestion: {question.text}\n{options}\n{TASKS[measure]}\nAnswer: "


def prompt_rows(survey: Survey, groups: Sequence[str], measure: str) -> Iterator[dict[str, Any]]:
    """Make the rows of a data set: every question for every group.

    Questions with more than 26 options are left out.

    Parameters
    ----------
    survey : Survey
        Its questions; answers are not needed.
    groups : sequence of str
        Groups of the bundle, at least one.
    measure : str
        What the policy is rewarded for.

    Yields
    ------
    dict
        ``prompt``; ``question``, ``options``, ``ordinal`` (None without ordinal values that differ)
        and ``group``, which become columns for TRL; ``label``, the same four as JSON, for
        OpenRLHF's ``label_key``.

    Raises
    ------
    ValueError
        Without groups, or for ``raw_mean``.
    """
    if not groups:
        raise ValueError(
            "rows are made for groups, and there are none: a bundle holds those that plurallm "
            "export released, or that were put into model.contexts"
        )
    for question in survey.questions:
        if len(question.options) > len(string.ascii_uppercase):
            continue
        for group in groups:
            facts = {
                "question": question.text,
                "options": list(question.options),
                "ordinal": question.position and list(question.position),
                "group": group,
            }
            yield {
                "prompt": write_prompt(question, group, measure),
                **facts,
                "label": json.dumps(facts, ensure_ascii=False),
            }
