"""Robust strategies: some groups may send anything, and the model must not follow them.

Numbers of questions, which a group reports of itself, do not count here. All updates of a round are
kept until the last one has come, and each weight is handled by its own, so that beside them only
one weight's float64 copy is in memory.

Flower's FedMedian and FedTrimmedAvg give the same numbers (tested) for as much code around them as
numpy takes itself. Its MultiKrum computes distances in float32 as ||x||^2 + ||y||^2 - 2 xy of the
whole models, where the difference of two groups drowns in the rounding of their norms; and none of
the three says when there are too few groups.

How many attackers are borne follows from the groups of the round, not from those whose updates can
be used: honest ones may be away, and attackers are there.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from plurallm.config.strategies import MultiKrumStrategy, StrategyConfig, TrimmedMeanStrategy
from plurallm.federate.aggregators.ordered_mean import OrderedMean
from plurallm.federate.replies import Update
from plurallm.record.checkpoint import Arrays


class Median:
    """Median of the groups, weight by weight (arXiv 1803.01498).

    Parameters
    ----------
    strategy : StrategyConfig
        The strategy's values.
    """

    def __init__(self, strategy: StrategyConfig) -> None:
        self.strategy = strategy
        self.numbers: dict[str, Any] = {}
        self.arrays: Arrays = {}

    @property
    def least(self) -> int:
        """One update is its own median."""
        return 1

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        self.order = order
        self._updates: dict[str, Arrays] = {}
        self.received = received

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""
        self._updates[group] = update.arrays

    def skip(self, group: str) -> None:
        """Nothing is kept for it."""

    def finish(self) -> Arrays:
        """Give the next global weights, in the type of those that were sent."""
        updates = {group: self._updates[group] for group in self.order if group in self._updates}
        combined = self.combine(updates)
        self._updates = {}
        return {name: array.astype(self.received[name].dtype) for name, array in combined.items()}

    def report(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def combine(self, updates: dict[str, Arrays]) -> Arrays:
        """From the updates, in the order of the roles, to the next global weights."""
        return {name: np.median(_stack(updates, name), axis=0) for name in self.received}


class TrimmedMean(Median):
    """Mean of each weight without its largest and smallest values (arXiv 1803.01498)."""

    strategy: TrimmedMeanStrategy

    @property
    def least(self) -> int:
        """One more than are left out."""
        return 2 * trimmed(len(self.order), self.strategy) + 1

    def combine(self, updates: dict[str, Arrays]) -> Arrays:
        """Leave out ``trim`` of the round's groups, rounded down, at either end."""
        cut = trimmed(len(self.order), self.strategy)
        return {
            name: np.sort(_stack(updates, name), axis=0)[cut : len(updates) - cut].mean(axis=0)
            for name in self.received
        }


class MultiKrum(Median):
    """Multi-Krum (arXiv 1703.02757): the mean of the updates with the smallest scores.

    A score is the sum of squared distances to the n - attackers - 2 nearest other updates.
    """

    strategy: MultiKrumStrategy

    @property
    def least(self) -> int:
        """As many as outnumber the attackers."""
        return least_groups(self.strategy)

    def combine(self, updates: dict[str, Arrays]) -> Arrays:
        """Choose and average."""
        given, groups = self.strategy, list(updates)
        score_G = krum_scores(self._squared_distances(updates), given.attackers)
        most = len(groups) - given.attackers
        keep = min(given.keep or most, most)
        chosen = np.argsort(score_G, kind="stable")[:keep]
        self._kept = [groups[row] for row in sorted(chosen)]
        mean = OrderedMean(self._kept)
        for group in self._kept:
            mean.add(group, updates[group], 1.0)
        return mean.average()

    def report(self) -> dict[str, Any]:
        """Groups whose updates were averaged."""
        return {"kept": self._kept}

    def _squared_distances(self, updates: dict[str, Arrays]) -> npt.NDArray[np.float64]:
        squared_GG = np.zeros((len(updates), len(updates)))
        for name, received in self.received.items():
            # Of updates, not of models: those are close together and far from zero.
            change_GN = (_stack(updates, name) - received).reshape(len(updates), -1)
            norm_G = np.square(change_GN).sum(1)
            squared_GG += norm_G[:, None] + norm_G[None, :] - 2 * change_GN @ change_GN.T
        return squared_GG


def krum_scores(squared_GG: npt.NDArray[np.float64], attackers: int) -> npt.NDArray[np.float64]:
    """Krum's scores.

    Parameters
    ----------
    squared_GG : ndarray of shape (G, G)
        Squared distances between updates.
    attackers : int
        At most ``G - 3``.

    Returns
    -------
    ndarray of shape (G,)
        Sum over the ``G - attackers - 2`` nearest others; lower is more trusted.
    """
    others_GG = squared_GG + np.diag(np.full(len(squared_GG), np.inf))
    score_G: npt.NDArray[np.float64] = np.sort(others_GG, axis=1)[
        :, : len(squared_GG) - attackers - 2
    ].sum(axis=1)
    return score_G


def trimmed(groups: int, strategy: TrimmedMeanStrategy) -> int:
    """How many values ``trimmed_mean`` leaves out at either end."""
    return math.floor(strategy.trim * groups + 1e-9)  # 0.29 * 100 is 28.999...


def least_groups(strategy: MultiKrumStrategy) -> int:
    """Updates that Krum needs to outnumber its attackers: 2 f + 3 (arXiv 1703.02757)."""
    return 2 * strategy.attackers + 3


def _stack(updates: dict[str, Arrays], name: str) -> npt.NDArray[np.float64]:
    return np.stack([arrays[name] for arrays in updates.values()]).astype(np.float64)
