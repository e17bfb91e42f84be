"""q-fair federated learning.

Flower's QFedAvg is not used: it takes the first reading of any loss, gives NaN below zero, returns
float64, and adds up in the order of arrival.
"""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, NotNegative
from plurallm.config.strategies import FairStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import GroupMean
    from plurallm.federate.replies import Update
    from plurallm.record.checkpoint import Arrays

_LEAST = 1e-3
"""A distance below it counts as it, so that powers of it are not zero."""


@dataclass(frozen=True, config=SECTION)
class QFedAvg(FairStrategy):
    """q-FedAvg (arXiv 1905.10497): weights F^q, and a step that adapts to the updates' length.

    With F the distance, d = w_group - w and L = ``lipschitz``,
    w + sum F^q d / sum (F^q + q F^(q-1) L ||d||^2). Equal to the paper's with L as the inverse of
    the clients' learning rate; for clients that train with Adam that L would all but stop the
    federation, because ||d|| says nothing there of a gradient.
    """

    name: Literal["qfedavg"]
    q: Annotated[float, Field(ge=0, le=100)]
    lipschitz: NotNegative

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """F^q; what the group adds to the damping is kept."""
        import numpy as np

        distance = max(state.distances[group], _LEAST)
        squared = math.fsum(
            float(np.square(array.astype(np.float64) - state.received[name]).sum())
            for name, array in update.arrays.items()
        )
        state.notes[group] = self.q * distance ** (self.q - 1) * self.lipschitz * squared
        return float(distance**self.q)

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """Go the damped part of the way to the mean."""
        weight, damping = (
            math.fsum(values[group] for group in state.order if group in values)
            for values in (state.weights, state.notes)
        )
        length = weight / (weight + damping)
        state.notes = {"step": length}
        return state.move(state.change(mean), length)

    def report(self, state: "GroupMean") -> dict[str, Any]:
        """Weights, distances, and the part of the way to the mean that was gone."""
        return {**super().report(state), **state.notes}
