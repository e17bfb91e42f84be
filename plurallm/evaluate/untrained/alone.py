"""Predictors that know nothing of other groups."""

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
class Uniform(Baseline):
    """Equal shares."""

    name: Literal["uniform"]

    label = "uniform"
    explanation = "equal shares for all options of a question: what knowing nothing scores"

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict equal shares for all options of a question."""
        from plurallm.evaluate.baselines.plain import uniform

        return uniform(context, target)


@dataclass(frozen=True, config=SECTION)
class ContextMean(Baseline):
    """The group's own answers."""

    name: Literal["context_mean"]

    label = "own context"
    explanation = "the mean of the group's own context answers to questions with as many options"

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict the mean of the group's own context answers, option by option."""
        from plurallm.evaluate.baselines.plain import context_mean

        return context_mean(context, target)
