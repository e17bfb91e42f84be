"""What a group is to a reward model: questions that it has answered."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plurallm.config.randomness import generator
from plurallm.data.builder import SUM_TOLERANCE
from plurallm.data.preferences import Preferences, split_context
from plurallm.data.reading import read_survey
from plurallm.data.survey import Question, Survey


@dataclass(frozen=True)
class AnsweredQuestion:
    """A question and how a group answered it.

    Attributes
    ----------
    question : str
        Its text.
    options : tuple of str
        The answers to choose from, at least two, all different.
    shares : tuple of float
        Share of the group that chose each; scaled to sum to 1 if the sum is within 0.01 of it.

    Raises
    ------
    ValueError
        Naming the question and what is wrong.
    """

    question: str
    options: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        named = f"context question {self.question[:60]!r}"
        Question(self.question[:60], self.question, self.options)
        if len(self.shares) != len(self.options):
            raise ValueError(
                f"{named} has {len(self.shares)} shares for {len(self.options)} options"
            )
        if not all(0 <= share <= 1 + SUM_TOLERANCE for share in self.shares):
            raise ValueError(f"{named} has a share outside 0..1: {self.shares}")
        total = math.fsum(self.shares)
        if abs(total - 1) > SUM_TOLERANCE:
            raise ValueError(f"the shares of {named} sum to {total:g} instead of 1")
        if total != 1:
            object.__setattr__(self, "shares", tuple(share / total for share in self.shares))


Context = tuple[AnsweredQuestion, ...]
"""A group's answered questions: all that a reward model knows of it."""

Group = str | Context
"""A group that a bundle holds a context of, by name, or a context."""


def survey_context(survey: Survey, group: str, positions: Sequence[int] | None = None) -> Context:
    """Take a group's answers from a survey.

    Parameters
    ----------
    survey : Survey
        It holds the group.
    group : str
        Whose answers.
    positions : sequence of int, optional
        Positions in ``survey.questions``; by default all that the group answered.

    Returns
    -------
    Context
        In the order of `positions`.

    Raises
    ------
    ValueError
        When the survey has no such group.
    """
    if group not in survey.answers:
        raise ValueError(
            f"{survey.source} has no group {group!r}; it has {', '.join(sorted(survey.answers))}"
        )
    answers = survey.answers[group]
    row = {int(position): number for number, position in enumerate(answers.question_Q)}
    context = []
    for position in row if positions is None else positions:
        question = survey.questions[position]
        share_O = answers.share_QO[row[position], : len(question.options)]
        context.append(AnsweredQuestion(question.text, question.options, tuple(share_O.tolist())))
    return tuple(context)


def draw_context(
    survey: Survey, group: str, answers: Preferences, questions: int, seed: int
) -> Context:
    """Draw the context that evaluation shows of a group.

    Parameters
    ----------
    survey : Survey
        It holds the group.
    group : str
        Whose answers.
    answers : Preferences
        Those to draw from, at least as many as are drawn.
    questions : int
        How many.
    seed : int
        Of the run.
    """
    drawn, _ = split_context(answers, questions, generator(seed, "evaluation", group, 0))
    return survey_context(survey, group, drawn.question_Q.tolist())


def read_context(path: str | Path, non_answers: str = "drop") -> Context:
    """Read one group's answers from a survey file in the project's own format.

    Parameters
    ----------
    path : str or Path
        CSV or parquet with the columns ``question_id, question, options, group`` and ``shares`` or
        ``counts``; about 20 questions are enough.
    non_answers : str
        What becomes of options that are no answers, ``"drop"`` or ``"keep"``: as in the training,
        for which ``PreferenceRewardModel.read_context`` sees.

    Returns
    -------
    Context
        All answers of the file.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    ValueError
        When the file holds several groups.
    """
    survey = read_survey(Path(path), "custom", non_answers)
    if len(survey.answers) != 1:
        raise ValueError(
            f"{path} holds {len(survey.answers)} groups ({', '.join(sorted(survey.answers))}): "
            "a context is the answers of one"
        )
    return survey_context(survey, next(iter(survey.answers)))


def context_from_json(answers: Sequence[Mapping[str, Any]]) -> Context:
    """Read a context from its JSON form, as a bundle and the server hold it.

    Raises
    ------
    ValueError
        Naming the question, or the key that is missing or unknown.
    """
    context = []
    for number, answer in enumerate(answers):
        if set(answer) != {"question", "options", "shares"}:
            raise ValueError(
                f"context question {number} has the keys {sorted(answer)} instead of "
                "question, options and shares"
            )
        context.append(
            AnsweredQuestion(
                str(answer["question"]), tuple(answer["options"]), tuple(answer["shares"])
            )
        )
    return tuple(context)


def context_to_json(context: Context) -> list[dict[str, Any]]:
    """Write a context in its JSON form."""
    return [
        {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(a).items()
        }
        for a in context
    ]
