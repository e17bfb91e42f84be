"""Fair strategies: a group's weight follows from how badly the received weights predict it.

The measure is the group's *distance*, between 0 and 1: the mean base 2 Jensen-Shannon distance, 1 -
alignment score, of the weights it received on the questions that it trains on in this round, before
it trains. It is not the training loss, which may be negative (Gaussian) or bounded below by how
much a group disagrees within itself (cross-entropy).

Flower's QFedAvg is not used: it takes the first reading of any loss, gives NaN below zero, returns
float64, and adds up in the order of arrival.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from plurallm.config.strategies import AdaptiveStrategy, AflStrategy, QFedAvgStrategy, TermStrategy
from plurallm.federate.aggregators.aggregator import FedAvg
from plurallm.federate.replies import Update
from plurallm.record.checkpoint import Arrays

_LEAST = 1e-3
"""A distance below it counts as it, so that powers of it are not zero."""

_LEAST_SHARE = 1e-12
"""Of a group under ``afl``: with less it could never come back."""


class FairMean(FedAvg):
    """A weighted mean whose round can be looked at: distance and weight of each group."""

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        super().begin(order, received)
        self.distances: dict[str, float] = {}

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""
        assert update.distance is not None
        self.distances[group] = update.distance
        super().add(group, update)

    def report(self) -> dict[str, Any]:
        """Weights, which sum to 1, and distances by group."""
        members = [group for group in self.order if group in self.weights]
        total = math.fsum(self.weights[group] for group in members)
        return {
            "weights": {group: self.weights[group] / total for group in members},
            "distances": {group: self.distances[group] for group in members},
        }


class QFedAvg(FairMean):
    """q-FedAvg (arXiv 1905.10497): weights F^q, and a step that adapts to the updates' length.

    With F the distance, d = w_group - w and L = ``lipschitz``,
    w + sum F^q d / sum (F^q + q F^(q-1) L ||d||^2). Equal to the paper's with L as the inverse of
    the clients' learning rate; for clients that train with Adam that L would all but stop the
    federation, because ||d|| says nothing there of a gradient.
    """

    strategy: QFedAvgStrategy

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        super().begin(order, received)
        self._damping: dict[str, float] = {}

    def weigh(self, group: str, update: Update) -> float:
        """F^q; what the group adds to the damping is kept."""
        q, distance = self.strategy.q, self._distance(group)
        squared = math.fsum(
            float(np.square(array.astype(np.float64) - self.received[name]).sum())
            for name, array in update.arrays.items()
        )
        self._damping[group] = q * distance ** (q - 1) * self.strategy.lipschitz * squared
        return float(distance**q)

    def step(self, mean: Arrays) -> Arrays:
        """Go the damped part of the way to the mean."""
        weight, damping = (
            math.fsum(values[group] for group in self.order if group in values)
            for values in (self.weights, self._damping)
        )
        self._length = weight / (weight + damping)
        return self.move(self.change(mean), self._length)

    def report(self) -> dict[str, Any]:
        """Weights, distances, and the part of the way to the mean that was gone."""
        return {**super().report(), "step": self._length}

    def _distance(self, group: str) -> float:
        return max(self.distances[group], _LEAST)


class Afl(FairMean):
    """Agnostic federated learning (arXiv 1902.00146) with multiplicative weights.

    lambda_group = lambda_group exp(step_size * distance), brought back over the groups that took
    part to the sum that they had, so that lambda does not depend on how often a group is drawn; the
    mean over the round's groups is weighted by it. The paper's own step is a projected gradient;
    the multiplicative one, of group DRO and arXiv 2405.20304, stays inside the simplex.
    """

    strategy: AflStrategy

    def weigh(self, group: str, update: Update) -> float:
        """Lambda after this round's distance."""
        return self._before(group) * math.exp(self.strategy.step_size * self.distances[group])

    def step(self, mean: Arrays) -> Arrays:
        """Keep lambda; the model is the mean."""
        kept = math.fsum(self._before(group) for group in self.weights)
        factor = kept / math.fsum(self.weights.values())
        grown = self.numbers.get("lambda", {}) | {
            group: factor * weight for group, weight in self.weights.items()
        }
        total = math.fsum(grown.values())
        self.numbers = {
            "lambda": {name: max(grown[name] / total, _LEAST_SHARE) for name in sorted(grown)}
        }
        return mean

    def _before(self, group: str) -> float:
        """Lambda before the round; a group that comes late starts from the mean of the others."""
        known: dict[str, float] = self.numbers.get("lambda", {})
        return known.get(group, 1 / len(known) if known else 1.0)


class Term(FairMean):
    """Tilted empirical risk (arXiv 2007.01162): FedAvg's weights times exp(tilt * distance)."""

    strategy: TermStrategy

    def weigh(self, group: str, update: Update) -> float:
        """The tilted weight."""
        return super().weigh(group, update) * math.exp(self.strategy.tilt * self.distances[group])


class Adaptive(FairMean):
    """Adaptive weights of arXiv 2512.08786 and 2604.04261, which apply them to rewards.

    A history h = decay h + (1 - decay) score, score = 1 - distance, starts at the first score; the
    weights are softmax((1 - h) / temperature). The papers weigh so only while FI falls below 0.9 or
    0.99. FI of group scores never does: at a coefficient of variation below 0.1, which every
    run here has, FI exceeds 0.99. The switch is therefore on the gap between the best and the worst
    history, as it stands before the round: up to ``least_gap`` the weights are FedAvg's.
    """

    strategy: AdaptiveStrategy

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        super().begin(order, received)
        known = self.numbers.get("history", {})
        histories = [known[group] for group in order if group in known]
        gap = max(histories) - min(histories) if histories else 0.0
        self._adapts = gap > self.strategy.least_gap
        self._new: dict[str, float] = {}

    def weigh(self, group: str, update: Update) -> float:
        """Softmax of the history, up to a factor, or FedAvg's weight."""
        score, decay = 1 - self.distances[group], self.strategy.decay
        before = self.numbers.get("history", {}).get(group, score)
        self._new[group] = decay * before + (1 - decay) * score
        if not self._adapts:
            return super().weigh(group, update)
        return math.exp((1 - self._new[group]) / self.strategy.temperature)

    def step(self, mean: Arrays) -> Arrays:
        """Keep the histories; the model is the mean."""
        histories = self.numbers.get("history", {}) | self._new
        self.numbers = {"history": {group: histories[group] for group in sorted(histories)}}
        return mean

    def report(self) -> dict[str, Any]:
        """Weights, distances and whether the weights were adapted."""
        return {**super().report(), "adapts": self._adapts}
