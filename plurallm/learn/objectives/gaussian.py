"""GPO's Gaussian likelihood (arXiv 2310.11523), its scale kept above a floor."""

from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.learning import TrainingConfig
from plurallm.config.ranges import SECTION, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from plurallm.data.preferences import Episode
    from plurallm.learn.transformer import Prediction


@dataclass(frozen=True, config=SECTION)
class GaussianTraining(TrainingConfig):
    """Gaussian likelihood around softmax means."""

    loss: Literal["gaussian"]
    scale_floor: Positive

    def losses(self, prediction: "Prediction", episode: "Episode") -> "Tensor":
        """Loss of each target question, of shape (..., Q)."""
        from plurallm.learn.divergence import gaussian_nll

        scale_QO = prediction.raw_scale_QO.exp() + self.scale_floor
        return gaussian_nll(episode.share_QO, prediction.shares_QO, scale_QO, episode.mask_QO)
