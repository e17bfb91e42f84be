"""The reward of what a policy wrote: the one core behind every adapter.

Dimension letters: ``N`` answers, ``G`` groups, ``O`` options (padded).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.data.context import Group
from plurallm.data.survey import Question
from plurallm.reward.aggregate import make_aggregate
from plurallm.reward.agreement import MEASURES, RAW_MEAN, Comparison
from plurallm.reward.answer import Values
from plurallm.reward.forecast import Query
from plurallm.reward.model import PreferenceRewardModel


@dataclass(frozen=True)
class Item:
    """Something to reward.

    Attributes
    ----------
    completion : str
        What the policy wrote.
    question : str
        The survey question it answered; for ``raw_mean``, the prompt.
    options : tuple of str
        Its options; not used by ``raw_mean``.
    group : str or Context, optional
        Whose reward; None for all groups of the scorer, aggregated.
    ordinal : tuple of float, optional
        Place of each option on a scale, for ``wasserstein``.
    """

    completion: str
    question: str
    options: tuple[str, ...] = ()
    group: Group | None = None
    ordinal: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Score:
    """The reward of one item.

    Attributes
    ----------
    reward : float
        In [0, 1], except for ``raw_mean``, and for an ``unparsable`` that lies elsewhere.
    by_group : dict of str to float
        Reward of each group that it comes from; ``"context"`` for a context without a name. Empty
        when the answer could not be parsed.
    parsed : bool
        Whether the answer could be parsed.
    """

    reward: float
    by_group: dict[str, float]
    parsed: bool


class Scorer:
    """Scores answers by a measure, for a group or aggregated over groups.

    Parameters
    ----------
    model : PreferenceRewardModel
        The reward model.
    measure : str
        ``share`` of the option chosen; ``jensen_shannon``, ``wasserstein`` or ``cosine`` of a
        written distribution; ``kendall`` or ``borda`` of a written ranking; ``raw_mean`` of a free
        text, which is outside the training distribution.
    over_groups : str
        ``mean``, ``min``, ``max``, ``log_mean_exp`` or ``adaptive``: for items without a group.
    groups : sequence of str, optional
        Groups of such items; by default all that the bundle holds.
    alpha : float
        Of ``log_mean_exp``.
    unparsable : float
        Reward of an answer that cannot be parsed.

    Raises
    ------
    ValueError
        For an unknown name, an alpha near 0 or far off, or an `unparsable` that is not finite.
    """

    def __init__(
        self,
        model: PreferenceRewardModel,
        measure: str = "jensen_shannon",
        over_groups: str = "mean",
        groups: Sequence[str] | None = None,
        alpha: float = -5.0,
        unparsable: float = 0.0,
    ) -> None:
        if measure not in (*MEASURES, RAW_MEAN):
            raise ValueError(
                f"measure must be one of {', '.join((*MEASURES, RAW_MEAN))}, but is {measure!r}"
            )
        if not math.isfinite(unparsable):
            raise ValueError(f"unparsable must be a finite reward, but is {unparsable}")
        self.model = model
        self.measure = measure
        self.groups = model.groups if groups is None else tuple(groups)
        for group in self.groups:
            model.context_of(group)
        self._aggregate = make_aggregate(over_groups, alpha)
        self._unparsable = unparsable

    def check(self, item: Item) -> None:
        """Refuse an item that cannot be scored whatever the policy wrote.

        Raises
        ------
        ValueError
            Saying why.
        """
        if item.group is not None:
            self.model.context_of(item.group)
        elif not self.groups:
            raise ValueError("the bundle holds no context: give a group's context with the item")
        if self.measure == RAW_MEAN:
            return
        self.model.pairs_of(item.question, item.options)
        if item.ordinal is not None and _question(item).position is None:
            raise ValueError(
                f"question {item.question[:60]!r} has the same ordinal value throughout"
            )

    def score(self, items: Sequence[Item]) -> list[Score]:
        """Reward some answers in one pass.

        Parameters
        ----------
        items : sequence of Item
            Any mixture of questions and groups.

        Returns
        -------
        list of Score
            In the order of the items.

        Raises
        ------
        ValueError
            For an item that ``check`` refuses.
        """
        for item in items:
            self.check(item)
        values = [self._read(item) for item in items]
        scores = [Score(self._unparsable, {}, parsed=False)] * len(items)
        # Items of one group and those of all groups: two blocks, each of shape (N, G).
        for aggregated in (False, True):
            numbers = [
                number
                for number, item in enumerate(items)
                if (item.group is None) == aggregated and values[number] is not None
            ]
            if not numbers:
                continue
            block = [items[number] for number in numbers]
            groups = [self.groups if i.group is None else (i.group,) for i in block]
            reward_NG = self._rewards(block, [values[number] or () for number in numbers], groups)
            total_N = self._aggregate(reward_NG) if aggregated else reward_NG[:, 0]
            for number, own, total, reward_G in zip(
                numbers, groups, total_N.tolist(), reward_NG.tolist(), strict=True
            ):
                names = [group if isinstance(group, str) else "context" for group in own]
                by_group = dict(zip(names, reward_G, strict=True))
                scores[number] = Score(total, by_group, parsed=True)
        return scores

    def _read(self, item: Item) -> Values | None:
        if self.measure == RAW_MEAN:
            return () if item.completion.strip() else None
        return MEASURES[self.measure].parse(item.completion, item.options)

    def _rewards(
        self,
        items: Sequence[Item],
        values: Sequence[Values],
        groups: Sequence[tuple[Group, ...]],
    ) -> Tensor:
        """Rewards (N, G) of answers that could be parsed."""
        if self.measure == RAW_MEAN:
            pairs = [
                (item.question, item.completion.strip())
                for item, own in zip(items, groups, strict=True)
                for _ in own
            ]
            means = self.model.raw_means(pairs, [group for own in groups for group in own])
            return torch.tensor(means, dtype=torch.float64).view(len(items), -1)
        queries = [
            Query(item.question, item.options, group)
            for item, own in zip(items, groups, strict=True)
            for group in own
        ]
        forecasts = self.model.predict_batch(queries)
        widest = max(len(item.options) for item in items)
        share_NGO = _padded([forecast.shares for forecast in forecasts], widest)
        scales = [_question(item).position or _even(len(item.options)) for item in items]
        mask_NO = _padded([(1.0,) * len(item.options) for item in items], widest) > 0
        comparison = Comparison(
            _padded(values, widest).unsqueeze(1),
            share_NGO.view(len(items), -1, widest),
            mask_NO.unsqueeze(1),
            _padded(scales, widest).unsqueeze(1),
        )
        return MEASURES[self.measure].agreement(comparison)


def _question(item: Item) -> Question:
    return Question(item.question[:60], item.question, item.options, item.ordinal)


def _even(options: int) -> tuple[float, ...]:
    return tuple(place / (options - 1) for place in range(options))


def _padded(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows], dtype=torch.float64)
