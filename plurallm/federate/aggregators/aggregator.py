"""What every strategy does with a round's updates, and the FedAvg family.

``GroupFedAvg`` says who takes part, refuses what cannot be used and hands over the rest, one group
after the other. A strategy then only says what a group weighs (``weigh``) and how far the global
model goes towards the mean (``step``), both in float64 and in the order of the roles. A robust one
needs all updates at once (``robust.py``).

Flower's own classes give the same numbers on one reply per group (tested against them; but its
FedAdam corrects the moments' bias, which the paper does not), and they keep every reply until the
last has come, add up in float32 in the order of arrival, count rounds from 1 after a resumption and
do not give their state away: FedAvgM, FedAdam and FedYogi could not be resumed. So the few lines of
each rule stand here.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from plurallm.config.strategies import (
    FedAdamStrategy,
    FedAvgMStrategy,
    StrategyConfig,
    WeightedStrategy,
)
from plurallm.federate.aggregators.ordered_mean import Mean, OrderedMean
from plurallm.federate.privacy.ledger import PrivacyLedger
from plurallm.federate.replies import Update
from plurallm.record.checkpoint import Arrays

MakeMean = Callable[[Sequence[str], Arrays], Mean]
"""From a round's groups and the weights sent to them to its mean."""


class Aggregator(Protocol):
    """Turns a round's updates into the next global model.

    Attributes
    ----------
    numbers : dict
        State that the next round depends on, as JSON can hold it.
    arrays : dict of str to ndarray
        State in arrays. A checkpoint holds both; setting both goes on from there.
    order : sequence of str
        Groups of the round that began.
    """

    numbers: dict[str, Any]
    arrays: Arrays
    order: Sequence[str]

    @property
    def least(self) -> int:
        """Updates without which the round that began cannot be finished."""

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round: its groups, in the order of the roles, and what they were sent."""

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""

    def skip(self, group: str) -> None:
        """Do without a group."""

    def finish(self) -> Arrays:
        """Give the next global weights, once every group of the round was added or skipped.

        At least ``least`` of them were added.
        """

    def report(self) -> dict[str, Any]:
        """Numbers of the round that ended, for ``metrics.jsonl``; empty where there are none."""


class FedAvg:
    """Weighted mean (arXiv 1602.05629).

    Parameters
    ----------
    strategy : StrategyConfig
        The strategy's values.
    make_mean : MakeMean
        How updates are averaged.
    ledger : PrivacyLedger, optional
        What a private mean has spent.
    """

    def __init__(
        self,
        strategy: StrategyConfig,
        make_mean: MakeMean = lambda order, received: OrderedMean(order),
        ledger: PrivacyLedger | None = None,
    ) -> None:
        self.strategy = strategy
        self.ledger = ledger
        self.numbers: dict[str, Any] = {}
        self.arrays: Arrays = {}
        self._make_mean = make_mean

    @property
    def least(self) -> int:
        """A mean takes any number."""
        return 1

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        self.order = order
        self.received = received
        self.weights: dict[str, float] = {}
        self._mean = self._make_mean(order, received)

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""
        self.weights[group] = self.weigh(group, update)
        self._mean.add(group, update.arrays, self.weights[group])

    def skip(self, group: str) -> None:
        """Do without a group."""
        self._mean.skip(group)

    def finish(self) -> Arrays:
        """Give the next global weights, in the type of those that were sent."""
        moved = self.step(self._mean.average())
        return {name: array.astype(self.received[name].dtype) for name, array in moved.items()}

    def report(self) -> dict[str, Any]:
        """What privacy has cost, where it is asked for."""
        return {} if self.ledger is None else {"epsilon": self.ledger.epsilon}

    def weigh(self, group: str, update: Update) -> float:
        """Weight of a group, positive; only ratios count."""
        given = self.strategy
        by_questions = isinstance(given, WeightedStrategy) and given.weighting == "questions"
        return update.examples if by_questions else 1.0

    def step(self, mean: Arrays) -> Arrays:
        """From the mean of the updates to the next global weights, both in float64."""
        return mean

    def change(self, mean: Arrays) -> Arrays:
        """How far the mean lies from the weights sent: the server's pseudo-gradient, negated."""
        return {name: array - self.received[name] for name, array in mean.items()}

    def move(self, change: Arrays, factor: float = 1.0) -> Arrays:
        """Go `factor` times a change from the weights sent."""
        return {
            name: self.received[name].astype(np.float64) + factor * array
            for name, array in change.items()
        }


class FedAvgM(FedAvg):
    """Momentum on the server (arXiv 1909.06335): m = beta m + change; w = w + eta m."""

    strategy: FedAvgMStrategy

    def step(self, mean: Arrays) -> Arrays:
        """Go along the momentum."""
        beta = self.strategy.momentum
        self.arrays = {
            name: beta * self.arrays.get(name, 0.0) + change
            for name, change in self.change(mean).items()
        }
        return self.move(self.arrays, self.strategy.server_learning_rate)


class FedAdam(FedAvg):
    """Adam or Yogi on the server (arXiv 2003.00295, algorithm 2).

    m = beta_1 m + (1 - beta_1) change; w = w + eta m / (sqrt(v) + tau), with Adam's
    v = beta_2 v + (1 - beta_2) change^2 or Yogi's
    v = v - (1 - beta_2) change^2 sign(v - change^2). Both moments start at zero and are not
    corrected for it. (The paper starts v at tau^2 or above; tau is what keeps the first steps
    short here.)
    """

    strategy: FedAdamStrategy

    def step(self, mean: Arrays) -> Arrays:
        """Update both moments and take the adaptive step."""
        given, change = self.strategy, self.change(mean)
        self.arrays = {
            key: value
            for name, array in change.items()
            for key, value in (
                (f"m.{name}", self._first(self.arrays.get(f"m.{name}", 0.0), array)),
                (f"v.{name}", self._second(self.arrays.get(f"v.{name}", 0.0), array**2)),
            )
        }
        scaled = {
            name: self.arrays[f"m.{name}"] / (np.sqrt(self.arrays[f"v.{name}"]) + given.tau)
            for name in change
        }
        return self.move(scaled, given.server_learning_rate)

    def _first(self, m: Any, change: Any) -> Any:
        return self.strategy.beta_1 * m + (1 - self.strategy.beta_1) * change

    def _second(self, v: Any, square: Any) -> Any:
        beta = self.strategy.beta_2
        if self.strategy.name == "fedyogi":
            return v - (1 - beta) * square * np.sign(v - square)
        return beta * v + (1 - beta) * square
