"""Answers and episodes as tensors.

A group is indices into the one embedding table plus shares. Options lie flat as points, so that
nothing is padded: a question of two options takes two points, one of eighteen takes eighteen.

Dimension letters: ``Q`` questions, ``O`` options (padded), ``P`` points (a question's options one
after the other).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Preferences:
    """What one group answered, question by question.

    Attributes
    ----------
    question_Q : Tensor of shape (Q,), int64
        Positions of the questions in the survey.
    row_QO : Tensor of shape (Q, O), int64
        Row of each option in the embedding table; 0 where there is no option.
    share_QO : Tensor of shape (Q, O)
        Share of the group that chose it; sums to 1 over the options, 0 where there is none.
    mask_QO : Tensor of shape (Q, O), bool
        Which options exist; a question's options come first.
    position_QO : Tensor of shape (Q, O), float64
        Place of each option on its question's scale, in [0, 1]; NaN for a question without one,
        0 where there is no option.
    """

    question_Q: Tensor
    row_QO: Tensor
    share_QO: Tensor
    mask_QO: Tensor
    position_QO: Tensor

    def __len__(self) -> int:
        return len(self.row_QO)

    def take(self, index_Q: Tensor) -> "Preferences":
        """Keep some questions, in the order given."""
        return Preferences(*(getattr(self, field.name)[index_Q] for field in fields(self)))

    def to(self, device: torch.device) -> "Preferences":
        """Copy to a device."""
        return Preferences(*(getattr(self, field.name).to(device) for field in fields(self)))

    def join(self, *others: "Preferences") -> "Preferences":
        """Append the questions of other selections of one survey."""
        parts, names = (self, *others), [field.name for field in fields(self)]
        return Preferences(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def without_shares(self) -> "Preferences":
        """Hide the answers: all shares become zero."""
        return replace(self, share_QO=torch.zeros_like(self.share_QO))


@dataclass(frozen=True)
class Episode:
    """A context that is answered and targets to predict: one step's work for one group.

    Context and targets are one sequence of points, the context's first.

    Attributes
    ----------
    row_P : Tensor of shape (P,), int64
        Table rows of the points.
    share_P : Tensor of shape (P,)
        Shares of the context's points; 0 for the targets'.
    point_QO : Tensor of shape (Q, O), int64
        Position of each target option among the points from `start` on; 0 where there is none.
    share_QO : Tensor of shape (Q, O)
        The targets' true shares.
    mask_QO : Tensor of shape (Q, O), bool
        Which options exist.
    contexts : int
        The context's points are among the first so many.
    start : int
        The targets' points are from here on; `contexts`, unless several episodes are stacked.
    context_mask_P : Tensor of shape (contexts,), bool, optional
        Which of the first points are the context's, where episodes are stacked; None: all.
    weight_Q : Tensor of shape (Q,), optional
        Weight of each target in the mean loss, where episodes are stacked; None: all alike.
    """

    row_P: Tensor
    share_P: Tensor
    point_QO: Tensor
    share_QO: Tensor
    mask_QO: Tensor
    contexts: int
    start: int
    context_mask_P: Tensor | None = None
    weight_Q: Tensor | None = None

    @property
    def context_row_P(self) -> Tensor:
        """Table rows of the context's points."""
        return self.row_P[: self.contexts]

    @property
    def context_share_P(self) -> Tensor:
        """Shares of the context's points."""
        return self.share_P[: self.contexts]

    @property
    def target_row_P(self) -> Tensor:
        """Table rows of the targets' points."""
        return self.row_P[self.start :]

    def to(self, device: torch.device) -> "Episode":
        """Copy to a device."""
        moved: dict[str, Any] = {name: part.to(device) for name, part in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, without those that are not there."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if isinstance(part, Tensor)}


def make_episode(context: Preferences, target: Preferences) -> Episode:
    """Lay context and targets out as points.

    Parameters
    ----------
    context, target : Preferences
        Different questions of one group.

    Returns
    -------
    Episode
        With ``O`` as wide as the longest target question.
    """
    widest = int(target.mask_QO.sum(-1).max()) if len(target) else 0
    mask_QO = target.mask_QO[:, :widest]
    point_QO = (mask_QO.flatten().cumsum(0) - 1).view(mask_QO.shape)
    context_share_P = context.share_QO[context.mask_QO]
    target_row_P = target.row_QO[target.mask_QO]
    contexts = len(context_share_P)
    return Episode(
        row_P=torch.cat([context.row_QO[context.mask_QO], target_row_P]),
        share_P=pad(context_share_P, (0, len(target_row_P))),
        point_QO=point_QO.masked_fill(~mask_QO, 0),
        share_QO=target.share_QO[:, :widest],
        mask_QO=mask_QO,
        contexts=contexts,
        start=contexts,
    )


def draw_questions(
    preferences: Preferences,
    context_questions: Sequence[int],
    target_questions: Sequence[int],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw questions for a training step: none is context and target at once.

    Parameters
    ----------
    preferences : Preferences
        A group's training questions, at least the two least numbers together.
    context_questions, target_questions : [least, most]
        How many to draw, uniformly, both ends included; fewer where the group has not enough.
    generator : torch.Generator
        Source of the draw.

    Returns
    -------
    context_Q, target_Q : Tensor of shape (Q,), int64
        Positions in `preferences`, in the order drawn.
    """
    available = len(preferences)
    order_Q = torch.randperm(available, generator=generator)
    contexts = _draw_count(context_questions, available - target_questions[0], generator)
    targets = _draw_count(target_questions, available - contexts, generator)
    return order_Q[:contexts], order_Q[contexts:][:targets]


def split_context(
    preferences: Preferences, context_questions: int, generator: torch.Generator
) -> tuple[Preferences, Preferences]:
    """Draw a fixed number of context questions for evaluation.

    Parameters
    ----------
    preferences : Preferences
        A group's seen questions, more than `context_questions`.
    context_questions : int
        How many become context.
    generator : torch.Generator
        Source of the draw.

    Returns
    -------
    context, rest : Preferences
        The rest in the group's own order.
    """
    order_Q = torch.randperm(len(preferences), generator=generator)
    rest_Q = order_Q[context_questions:].sort().values
    return preferences.take(order_Q[:context_questions]), preferences.take(rest_Q)


def _draw_count(span: Sequence[int], available: int, generator: torch.Generator) -> int:
    least, most = span[0], min(span[1], available)
    return int(torch.randint(least, most + 1, (), generator=generator))
