"""What a baseline is: a predictor without a network, with what reports say of it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.config.variants import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from plurallm.data.preferences import Preferences
    from plurallm.evaluate.baselines.pooled_answers import AnswerPool


@dataclass(frozen=True, config=SECTION)
class Baseline:
    """Predicts a group from its context, the embeddings, and the training groups' answers."""

    name: str

    label: ClassVar[str]
    """What tables call it."""
    explanation: ClassVar[str]
    """What it predicts from, as the report's page says it."""
    oracle: ClassVar[bool] = False
    """Whether on unseen questions it uses answers which training withholds."""

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict shares.

        Parameters
        ----------
        context : Preferences
            The group's answered questions.
        target : Preferences
            Questions, without their shares.
        others : callable
            Gives the training groups' answers without those of the group; takes a while.
        unit_RD : Tensor of shape (R, D)
            Embeddings of length 1, on the CPU.

        Returns
        -------
        Tensor of shape (Q, O)
            Shares of the targets.
        """
        raise NotImplementedError


BASELINES: Kind[Baseline] = Kind(
    Baseline, "baseline", "name", "plurallm.evaluate.untrained", "plurallm.baselines"
)
"""Every baseline, in the order of the reports."""
