"""What is done with a round's updates, whatever the strategy.

``GroupFedAvg`` says who takes part, refuses what cannot be used and hands over the rest, one group
after the other. A strategy (``config/strategies.py``) then only says what a group weighs and how
far the global model goes towards the mean, both in float64 and in the order of the roles. A robust
one needs all updates at once.

Flower's own classes keep every reply until the last has come, add up in float32 in the order of
arrival, count rounds from 1 after a resumption and do not give their state away.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plurallm.config.strategies import RobustStrategy, StrategyConfig
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


class GroupMean:
    """A strategy whose model is a mean of the updates, which are not kept.

    Parameters
    ----------
    strategy : StrategyConfig
        What a group weighs, and how far the model goes towards the mean.
    make_mean : MakeMean
        How updates are averaged.
    ledger : PrivacyLedger, optional
        What a private mean has spent.

    Attributes
    ----------
    received : dict of str to ndarray
        The weights that the round began with.
    weights, distances : dict of str to float
        Of the groups whose updates came; distances where they were asked for.
    notes : dict
        What the strategy keeps for the rest of the round.
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
        self.distances: dict[str, float] = {}
        self.notes: dict[str, Any] = {}
        self._mean = self._make_mean(order, received)

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""
        if update.distance is not None:
            self.distances[group] = update.distance
        weight = self.strategy.weigh(self, group, update)
        self.weights[group] = weight
        self._mean.add(group, update.arrays, weight)

    def skip(self, group: str) -> None:
        """Do without a group."""
        self._mean.skip(group)

    def finish(self) -> Arrays:
        """Give the next global weights, in the type of those that were sent."""
        moved = self.strategy.step(self, self._mean.average())
        return {name: array.astype(self.received[name].dtype) for name, array in moved.items()}

    def report(self) -> dict[str, Any]:
        """What the strategy tells, and what privacy has cost where it is asked for."""
        spent = {} if self.ledger is None else {"epsilon": self.ledger.epsilon}
        return {**self.strategy.report(self), **spent}

    def change(self, mean: Arrays) -> Arrays:
        """How far the mean lies from the weights sent: the server's pseudo-gradient, negated."""
        return {name: array - self.received[name] for name, array in mean.items()}

    def move(self, change: Arrays, factor: float = 1.0) -> Arrays:
        """Go `factor` times a change from the weights sent."""
        return {
            name: self.received[name].astype(np.float64) + factor * array
            for name, array in change.items()
        }


class AllUpdates:
    """A robust strategy: all updates of a round are kept until the last one has come.

    Each weight is handled by its own, so that beside them only one weight's float64 copy is in
    memory.

    Parameters
    ----------
    strategy : RobustStrategy
        How they are combined.
    """

    def __init__(self, strategy: RobustStrategy) -> None:
        self.strategy = strategy
        self.numbers: dict[str, Any] = {}
        self.arrays: Arrays = {}

    @property
    def least(self) -> int:
        """What the strategy needs."""
        return self.strategy.least(self.order)

    def begin(self, order: Sequence[str], received: Arrays) -> None:
        """Start a round."""
        self.order = order
        self.received = received
        self.notes: dict[str, Any] = {}
        self._updates: dict[str, Arrays] = {}

    def add(self, group: str, update: Update) -> None:
        """Take a group's update."""
        self._updates[group] = update.arrays

    def skip(self, group: str) -> None:
        """Nothing is kept for it."""

    def finish(self) -> Arrays:
        """Give the next global weights, in the type of those that were sent."""
        self._updates = {
            group: self._updates[group] for group in self.order if group in self._updates
        }
        combined = self.strategy.combine(self, self._updates)
        self._updates = {}
        return {name: array.astype(self.received[name].dtype) for name, array in combined.items()}

    def report(self) -> dict[str, Any]:
        """What the strategy tells."""
        return self.strategy.report(self)

    def stack(self, name: str) -> npt.NDArray[np.float64]:
        """One weight of all updates, in the order of the roles."""
        return np.stack([arrays[name] for arrays in self._updates.values()]).astype(np.float64)
