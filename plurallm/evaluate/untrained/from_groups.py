"""Predictors from the training groups' answers to the same question: oracles on unseen ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.evaluate.baseline import Baseline

if TYPE_CHECKING:
    from torch import Tensor

    from plurallm.data.preferences import Preferences
    from plurallm.evaluate.baselines.pooled_answers import AnswerPool


@dataclass(frozen=True, config=SECTION)
class GroupMean(Baseline):
    """The training groups' mean."""

    name: Literal["mean"]

    label = "group mean"
    explanation = "the mean of the training groups' answers to the same question"
    oracle = True

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict the mean of the training groups' answers."""
        from plurallm.evaluate.baselines.pooled_answers import training_mean

        return training_mean(others())(context, target)


@dataclass(frozen=True, config=SECTION)
class Mixture(Baseline):
    """The training groups' weighted mean."""

    name: Literal["mixture"]

    label = "group mixture"
    explanation = (
        "the training groups' answers to the same question, weighted so that they fit the group's "
        "context answers"
    )
    oracle = True

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict a weighted mean of the training groups' answers."""
        from plurallm.evaluate.baselines.pooled_answers import mixture

        return mixture(others())(context, target)
