"""FedAvg with an optimiser on the server: momentum, Adam, Yogi.

Flower's own classes give the same numbers on one reply per group (tested against them; but its
FedAdam corrects the moments' bias, which the paper does not) and do not give their state away:
they could not be resumed.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Positive, Share
from plurallm.config.strategies import WeightedStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import GroupMean
    from plurallm.record.checkpoint import Arrays


@dataclass(frozen=True, config=SECTION)
class FedAvgM(WeightedStrategy):
    """Momentum on the server (arXiv 1909.06335): m = beta m + change; w = w + eta m."""

    name: Literal["fedavgm"]
    server_learning_rate: Positive
    momentum: Share

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """Go along the momentum."""
        state.arrays = {
            name: self.momentum * state.arrays.get(name, 0.0) + change
            for name, change in state.change(mean).items()
        }
        return state.move(state.arrays, self.server_learning_rate)


@dataclass(frozen=True, config=SECTION)
class FedAdam(WeightedStrategy):
    """Adam or Yogi on the server (arXiv 2003.00295, algorithm 2).

    m = beta_1 m + (1 - beta_1) change; w = w + eta m / (sqrt(v) + tau), with Adam's
    v = beta_2 v + (1 - beta_2) change^2 or Yogi's
    v = v - (1 - beta_2) change^2 sign(v - change^2). Both moments start at zero and are not
    corrected for it. (The paper starts v at tau^2 or above; tau is what keeps the first steps
    short here.)
    """

    name: Literal["fedadam", "fedyogi"]
    server_learning_rate: Positive
    beta_1: Share
    beta_2: Share
    tau: Positive

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """Update both moments and take the adaptive step."""
        import numpy as np

        change, before = state.change(mean), state.arrays
        state.arrays = {
            key: value
            for name, array in change.items()
            for key, value in (
                (f"m.{name}", self._first(before.get(f"m.{name}", 0.0), array)),
                (f"v.{name}", self._second(before.get(f"v.{name}", 0.0), array**2)),
            )
        }
        scaled = {
            name: state.arrays[f"m.{name}"] / (np.sqrt(state.arrays[f"v.{name}"]) + self.tau)
            for name in change
        }
        return state.move(scaled, self.server_learning_rate)

    def _first(self, m: Any, change: Any) -> Any:
        return self.beta_1 * m + (1 - self.beta_1) * change

    def _second(self, v: Any, square: Any) -> Any:
        import numpy as np

        if self.name == "fedyogi":
            return v - (1 - self.beta_2) * square * np.sign(v - square)
        return self.beta_2 * v + (1 - self.beta_2) * square
