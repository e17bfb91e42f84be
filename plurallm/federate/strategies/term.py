"""Tilted empirical risk."""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.config.strategies import FairStrategy, WeightedStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import GroupMean
    from plurallm.federate.replies import Update


@dataclass(frozen=True, config=SECTION)
class Term(FairStrategy, WeightedStrategy):
    """Tilted empirical risk (arXiv 2007.01162): FedAvg's weights times exp(tilt * distance)."""

    name: Literal["term"]
    tilt: Annotated[float, Field(ge=-500, le=500)]

    def weigh(self, state: "GroupMean", group: str, update: "Update") -> float:
        """The tilted weight."""
        return super().weigh(state, group, update) * math.exp(self.tilt * state.distances[group])
