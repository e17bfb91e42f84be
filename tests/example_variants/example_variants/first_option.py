"""A baseline: everybody gives the first answer."""

from typing import Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.evaluate.baseline import Baseline


@dataclass(frozen=True, config=SECTION)
class FirstOption(Baseline):
    """The whole share for the first option."""

    name: Literal["first_option"]

    label = "first option"
    explanation = "the first option of every question"

    def predict(self, context, target, others, unit_RD):
        """Predict 1 for the first option."""
        share_QO = target.mask_QO.double() * 0
        share_QO[:, 0] = 1
        return share_QO
