"""A strategy between uniform weights and numbers of questions."""

from typing import Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Share
from plurallm.config.strategies import StrategyConfig


@dataclass(frozen=True, config=SECTION)
class RootMean(StrategyConfig):
    """Weighs a group by a power of its number of training questions."""

    name: Literal["root_mean"]
    power: Share

    def weigh(self, state, group, update):
        """The power; 0 is the uniform mean."""
        return update.examples**self.power
