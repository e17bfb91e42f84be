"""The Brier loss."""

from typing import Literal

from pydantic.dataclasses import dataclass

from plurallm.config.learning import TrainingConfig
from plurallm.config.ranges import SECTION


@dataclass(frozen=True, config=SECTION)
class Brier(TrainingConfig):
    """Squared error of the shares, summed over the options."""

    loss: Literal["brier"]

    def losses(self, prediction, episode):
        """Loss of each target question."""
        return (prediction.shares_QO - episode.share_QO).square().sum(-1)
