"""What a round trains on, drawn on the host: all that a round takes of it but weights.

Dimension letters: ``P`` points, ``Q`` questions, ``N`` all questions of a round, ``D`` its contexts
and targets, ``O`` options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.data.preferences import draw_questions
from plurallm.data.tasks import GroupTask


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
    steps = config.training.steps_per_round
    options = tasks[0].seen.mask_QO.shape[1]
    drawn = [[*round_questions(task, config, round_number)] for task in tasks]
    parts = [part for step in range(steps) for questions in drawn for part in questions[step]]
    sizes = [len(part) for part in parts]
    # All at once: for each draw by itself it would take longer than a GPU takes to train on them.
    seen = torch.tensor([len(task.seen) for task in tasks])
    before = seen.cumsum(0) - seen
    before_D = before.repeat_interleave(2).repeat(steps)  # context and targets of each draw
    question_N = torch.cat(parts) + before_D.repeat_interleave(torch.tensor(sizes))
    options_N = torch.cat([task.seen.mask_QO.sum(-1) for task in tasks])[question_N]
    # A question's options come first: they are its first point and those that follow.
    first_N = question_N * options - (options_N.cumsum(0) - options_N)
    point_P = first_N.repeat_interleave(options_N)
    point_P += torch.arange(len(point_P))
    counts = iter(torch.split(options_N, sizes))
    asked = [[part.tolist() for part in islice(counts, 2)] for _ in range(len(parts) // 2)]
    points = torch.split(point_P, [sum(map(sum, both)) for both in asked])
    targets = torch.split(question_N, sizes)[1::2]
    draws = [
        Draw(number % len(tasks), own_P, target_Q, sum(context), max(target))
        for number, (own_P, target_Q, (context, target)) in enumerate(
            zip(points, targets, asked, strict=True)
        )
    ]
    return [draws[start : start + len(tasks)] for start in range(0, len(draws), len(tasks))]


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
