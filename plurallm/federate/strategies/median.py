"""Robust rules that take each weight by itself: the median and the trimmed mean.

Flower's FedMedian and FedTrimmedAvg give the same numbers (tested) for as much code around them as
numpy takes itself, and do not say when there are too few groups.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError
from plurallm.config.ranges import SECTION
from plurallm.config.strategies import RobustStrategy

if TYPE_CHECKING:
    from plurallm.federate.aggregators.aggregator import AllUpdates
    from plurallm.record.checkpoint import Arrays


@dataclass(frozen=True, config=SECTION)
class Median(RobustStrategy):
    """Median of the groups, weight by weight (arXiv 1803.01498)."""

    name: Literal["median"]

    def combine(self, state: "AllUpdates", updates: "dict[str, Arrays]") -> "Arrays":
        """Take the median of each weight."""
        import numpy as np

        return {name: np.median(state.stack(name), axis=0) for name in state.received}


@dataclass(frozen=True, config=SECTION)
class TrimmedMean(RobustStrategy):
    """Mean of each weight without its largest and smallest values (arXiv 1803.01498)."""

    name: Literal["trimmed_mean"]
    trim: Annotated[float, Field(gt=0, lt=0.5)]

    def least(self, order: Sequence[str]) -> int:
        """One more than are left out."""
        return 2 * self._cut(len(order)) + 1

    def check(self, asked: int) -> None:
        """Refuse a share that leaves out nobody."""
        if self._cut(asked) == 0:
            least = f"give at least {math.ceil(1000 / asked) / 1000:g}, below 0.5, or "
            raise ConfigError(
                f"strategy.trim={self.trim:g} leaves out nobody: a round asks {asked} groups; "
                f"{least * (asked > 2)}take strategy=median"
            )

    def combine(self, state: "AllUpdates", updates: "dict[str, Arrays]") -> "Arrays":
        """Leave out ``trim`` of the round's groups, rounded down, at either end."""
        import numpy as np

        kept = slice(cut := self._cut(len(state.order)), len(updates) - cut)
        return {
            name: np.sort(state.stack(name), axis=0)[kept].mean(axis=0) for name in state.received
        }

    def _cut(self, groups: int) -> int:
        """How many values are left out at either end."""
        return math.floor(self.trim * groups + 1e-9)  # 0.29 * 100 is 28.999...
