"""Losses between distributions: cross-entropy, and the squared Jensen-Shannon distance."""

import math
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.learning import TrainingConfig
from plurallm.config.ranges import SECTION

if TYPE_CHECKING:
    from torch import Tensor

    from plurallm.data.preferences import Episode
    from plurallm.learn.transformer import Prediction


@dataclass(frozen=True, config=SECTION)
class CrossEntropy(TrainingConfig):
    """Cross-entropy to the group's answer distribution."""

    loss: Literal["cross_entropy"]

    def losses(self, prediction: "Prediction", episode: "Episode") -> "Tensor":
        """Loss of each target question, of shape (..., Q)."""
        from plurallm.learn.divergence import cross_entropy

        return cross_entropy(episode.share_QO, prediction.log_shares_QO, episode.mask_QO)


@dataclass(frozen=True, config=SECTION)
class JensenShannon(TrainingConfig):
    """Squared base 2 Jensen-Shannon distance, between 0 and 1."""

    loss: Literal["jensen_shannon"]

    def losses(self, prediction: "Prediction", episode: "Episode") -> "Tensor":
        """Loss of each target question, of shape (..., Q)."""
        from plurallm.learn.divergence import jensen_shannon_divergence

        return jensen_shannon_divergence(episode.share_QO, prediction.shares_QO) / math.log(2)
