"""Agnostic federated learning."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.config.strategies import FairStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import GroupMean
    from plurallm.federate.replies import Update
    from plurallm.record.checkpoint import Arrays

_LEAST_SHARE = 1e-12
"""Of a group: with less it could never come back."""


@dataclass(frozen=True, config=SECTION)
class Afl(FairStrategy):
    """Agnostic federated learning (arXiv 1902.00146) with multiplicative weights.

    lambda_group = lambda_group exp(step_size * distance), brought back over the groups that took
    part to the sum that they had, so that lambda does not depend on how often a group is drawn; the
    mean over the round's groups is weighted by it. The paper's own step is a projected gradient;
    the multiplicative one, of group DRO and arXiv 2405.20304, stays inside the simplex.
    """

    name: Literal["afl"]
    step_size: Annotated[float, Field(ge=0, le=500)]

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """Lambda after this round's distance."""
        return _before(state, group) * math.exp(self.step_size * state.distances[group])

    def step(self, state: "GroupMean", mean: "Arrays") -> "Arrays":
        """Keep lambda; the model is the mean."""
        kept = math.fsum(_before(state, group) for group in state.weights)
        factor = kept / math.fsum(state.weights.values())
        grown = state.numbers.get("lambda", {}) | {
            group: factor * weight for group, weight in state.weights.items()
        }
        total = math.fsum(grown.values())
        state.numbers = {
            "lambda": {name: max(grown[name] / total, _LEAST_SHARE) for name in sorted(grown)}
        }
        return mean


def _before(state: "GroupMean", group: str) -> float:
    """Lambda before the round; a group that comes late starts from the mean of the others."""
    known: dict[str, float] = state.numbers.get("lambda", {})
    return known.get(group, 1 / len(known) if known else 1.0)
