"""What a strategy is: how the groups' updates become the next global model.

A strategy is its values and its rule together, a file each in ``federate/strategies/``. The rule
keeps nothing: what a round has, and what the next one depends on, is in the `state` that it gets
(``federate/aggregators/aggregator.py``).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import AllUpdates, GroupMean
    from plurallm.federate.replies import Update
    from plurallm.record.checkpoint import Arrays


@dataclass(frozen=True, config=SECTION)
class StrategyConfig:
    """Aggregation (``conf/strategy``): the mean of the updates, unless a method says otherwise."""

    name: str

    @property
    def proximal(self) -> float:
        """Of the clients' term mu/2 ||w - w_received||^2; 0 for none."""
        return 0.0

    def check(self, asked: int) -> None:
        """Raise ``ConfigError`` where the strategy cannot work with so many groups in a round."""

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """Weight of a group, positive; only ratios count."""
        return 1.0

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """From the mean of the updates to the next global weights, both in float64."""
        return mean

    def report(self, state: Any) -> dict[str, Any]:
        """Numbers of the round that ended, for ``metrics.jsonl``."""
        return {}


@dataclass(frozen=True, config=SECTION)
class WeightedStrategy(StrategyConfig):
    """A mean whose weights start from the number of training questions, or are uniform."""

    weighting: Literal["questions", "uniform"]

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """Training questions, or 1."""
        return update.examples if self.weighting == "questions" else 1.0


@dataclass(frozen=True, config=SECTION)
class FairStrategy(StrategyConfig):
    """Weighs a group by its distance: how badly the weights it received predict its answers.

    The distance, in ``state.distances``, is between 0 and 1: the mean base 2 Jensen-Shannon
    distance, 1 - alignment score, of the weights that the group received on the questions that it
    trains on in this round, before it trains. It is not the training loss, which may be negative
    (Gaussian) or bounded below by how much a group disagrees within itself (cross-entropy).
    """

    def report(self, state: "GroupMean") -> dict[str, Any]:
        """Weights, which sum to 1, and distances by group."""
        members = [group for group in state.order if group in state.weights]
        total = math.fsum(state.weights[group] for group in members)
        return {
            "weights": {group: state.weights[group] / total for group in members},
            "distances": {group: state.distances[group] for group in members},
        }


@dataclass(frozen=True, config=SECTION)
class RobustStrategy(StrategyConfig):
    """Made for groups that may send anything; it sees every update at once.

    Numbers of questions, which a group reports of itself, do not count here. How many attackers are
    borne follows from the groups of the round, not from those whose updates can be used: honest
    ones may be away, and attackers are there.
    """

    def least(self, order: Sequence[str]) -> int:
        """Updates without which a round of these groups cannot be finished."""
        return 1

    def combine(self, state: "AllUpdates", updates: "dict[str, Arrays]") -> "Arrays":
        """From the updates, in the order of the roles, to the next global weights."""
        raise NotImplementedError
