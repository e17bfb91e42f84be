"""What a round trains on, drawn on the host: all that a round takes of it but weights.

Dimension letters: ``P`` points, ``Q`` questions, ``O`` options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.config import Config
from plurallm.preferences import Preferences, draw_questions
from plurallm.randomness import generator
from plurallm.tasks import GroupTask


@dataclass(frozen=True)
class Draw:
    """One step's draw of one group, as positions among questions and options.

    Attributes
    ----------
    row : int
        Position of the group.
    point_P : Tensor of shape (P,), int64
        Options of the context's questions, then of the targets': ``question * O + option``.
    target_Q : Tensor of shape (Q,), int64
        The target questions.
    contexts : int
        The context's options are the first so many.
    widest : int
        Options of the widest target question.
    """

    row: int
    point_P: Tensor
    target_Q: Tensor
    contexts: int
    widest: int


def round_questions(
    task: GroupTask, config: Config, round_number: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw a round's questions: a function of the seed, the group's name and the round only.

    Parameters
    ----------
    task : GroupTask
        The group; only its seen questions are drawn.
    config : Config
        The run's configuration.
    round_number : int
        From 1.

    Yields
    ------
    context_Q, target_Q : Tensor of shape (Q,), int64
        Positions among the seen questions, for each step.
    """
    draws = generator(config.seed, "episodes", task.name, round_number)
    training = config.training
    for _ in range(training.steps_per_round):
        yield draw_questions(
            task.seen, training.context_questions, training.target_questions, draws
        )


def draw_round(tasks: Sequence[GroupTask], config: Config, round_number: int) -> list[list[Draw]]:
    """Draw what some groups train on in a round: all that it takes of the host.

    Parameters
    ----------
    tasks : sequence of GroupTask
        The groups.
    config : Config
        The run's configuration.
    round_number : int
        From 1.

    Returns
    -------
    list of list of Draw
        For each step one of each group; positions are those among the groups' seen questions,
        one group after the other.
    """
    groups, before = [], 0
    for row, task in enumerate(tasks):
        drawn = round_questions(task, config, round_number)
        groups.append([_draw(row, task.seen, before, *questions) for questions in drawn])
        before += len(task.seen)
    return [list(step) for step in zip(*groups, strict=True)]


def _draw(row: int, seen: Preferences, before: int, context_Q: Tensor, target_Q: Tensor) -> Draw:
    """Positions of a group's drawn questions, where so many of other groups come before them."""
    question_Q = torch.cat([context_Q, target_Q])
    mask_QO = seen.mask_QO[question_Q]
    options_Q = mask_QO.sum(-1)
    options = mask_QO.shape[1]
    position_QO = (question_Q + before).unsqueeze(-1) * options + torch.arange(options)
    return Draw(
        row,
        position_QO[mask_QO],
        target_Q + before,
        contexts=int(options_Q[: len(context_Q)].sum()),
        widest=int(options_Q[len(context_Q) :].max()),
    )


def batches(step: Sequence[Draw], size: int) -> Iterator[Sequence[Draw]]:
    """Bring draws of like length together.

    Parameters
    ----------
    step : sequence of Draw
        One of each group.
    size : int
        Most draws in a batch.

    Yields
    ------
    sequence of Draw
        By length of the whole; as they came where one batch holds them all.
    """
    if len(step) > size:
        # By length of the context first, attention would be padded hardly less, and all else,
        # which costs more, by a quarter more (docs/benchmark.md).
        step = sorted(step, key=lambda draw: len(draw.point_P))
    for start in range(0, len(step), size):
        yield step[start : start + size]
