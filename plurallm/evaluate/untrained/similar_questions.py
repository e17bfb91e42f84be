"""A predictor from answers to similar questions: fair on unseen questions too."""

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
class Neighbours(Baseline):
    """The most similar questions."""

    name: Literal["neighbours"]

    label = "neighbours"
    explanation = (
        "answers to the most similar questions that training may use, by their texts' embeddings"
    )

    def predict(
        self,
        context: "Preferences",
        target: "Preferences",
        others: "Callable[[], AnswerPool]",
        unit_RD: "Tensor",
    ) -> "Tensor":
        """Predict from the most similar points whose answers are known."""
        from plurallm.evaluate.baselines.neighbours import neighbours

        return neighbours(others(), unit_RD)(context, target)
