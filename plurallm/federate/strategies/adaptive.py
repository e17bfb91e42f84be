"""Weights from each group's history of scores."""

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Share
from plurallm.config.strategies import FairStrategy, WeightedStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import GroupMean
    from plurallm.federate.replies import Update
    from plurallm.record.checkpoint import Arrays


@dataclass(frozen=True, config=SECTION)
class Adaptive(FairStrategy, WeightedStrategy):
    """Adaptive weights of arXiv 2512.08786 and 2604.04261, which apply them to rewards.

    A history h = decay h + (1 - decay) score, score = 1 - distance, starts at the first score; the
    weights are softmax((1 - h) / temperature). The papers weigh so only while FI falls below 0.9 or
    0.99. FI of group scores never does: at a coefficient of variation below 0.1, which every
    run here has, FI exceeds 0.99. The switch is therefore on the gap between the best and the worst
    history, as it stands before the round: up to ``least_gap`` the weights are FedAvg's.
    """

    name: Literal["adaptive"]
    # A score lies in 0..1: below this the weights leave the range of a float.
    temperature: Annotated[float, Field(ge=0.002)]
    decay: Share
    least_gap: Annotated[float, Field(ge=0, le=1)]

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """Softmax of the history, up to a factor, or FedAvg's weight."""
        if not self._adapts(state):
            return super().weigh(state, group, update)
        return math.exp((1 - self._history(state, group)) / self.temperature)

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """Keep the histories; the model is the mean."""
        state.notes = {"adapts": self._adapts(state)}
        histories = state.numbers.get("history", {}) | {
            group: self._history(state, group) for group in state.weights
        }
        state.numbers = {"history": {group: histories[group] for group in sorted(histories)}}
        return mean

    def report(self, state: "GroupMean") -> dict[str, Any]:
        """Weights, distances and whether the weights were adapted."""
        return {**super().report(state), **state.notes}

    def _adapts(self, state: "GroupMean") -> bool:
        known = state.numbers.get("history", {})
        histories = [known[group] for group in state.order if group in known]
        return bool(histories) and max(histories) - min(histories) > self.least_gap

    def _history(self, state: "GroupMean", group: str) -> float:
        """History of a group after this round's score."""
        score = 1 - state.distances[group]
        before: float = state.numbers.get("history", {}).get(group, score)
        return self.decay * before + (1 - self.decay) * score
