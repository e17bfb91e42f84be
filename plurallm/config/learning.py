"""Types of ``conf/embedding``, ``conf/model`` and ``conf/training``."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import require
from plurallm.config.ranges import SECTION, Count, Positive, Share

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from plurallm.data.embedding.pairs import Pair
    from plurallm.data.preferences import Episode
    from plurallm.learn.transformer import Prediction


@dataclass(frozen=True, config=SECTION)
class EmbeddingConfig:
    """How a text becomes a vector (``conf/embedding``)."""

    name: str

    any_text: ClassVar[bool] = True
    """Whether it has a vector for every text, not for its own alone."""

    def place(self) -> Path | None:
        """File or folder whose content tells the embedder from others; None: its values do.

        Raises
        ------
        ValueError
            When it is not there.
        """
        return None

    def embed(
        self, pairs: "Sequence[Pair]", device: str, keep: Path | None
    ) -> "npt.NDArray[np.float32]":
        """Embed texts, one row each.

        Parameters
        ----------
        pairs : sequence of (str, str)
            Questions and options.
        device : str
            Where to compute.
        keep : Path or None
            Folder for finished parts of a long computation.

        Returns
        -------
        ndarray of shape (R, D), float32
            Mean square about 1 in each row.
        """
        raise NotImplementedError


@dataclass(frozen=True, config=SECTION)
class ModelConfig:
    """Sizes of the preference transformer (``conf/model``)."""

    width: Count
    embedder_layers: Annotated[int, Field(ge=2)]
    layers: Count
    heads: Count
    feedforward: Count

    def __post_init__(self) -> None:
        require(
            self.width % self.heads == 0,
            "model.width",
            self.width,
            f"a multiple of model.heads ({self.heads})",
        )


@dataclass(frozen=True, config=SECTION)
class TrainingConfig:
    """Local learning (``conf/training``)."""

    loss: str
    learning_rate: Positive
    warmup: Share
    steps_per_round: Count
    context_questions: list[int]
    target_questions: list[int]
    groups_at_once: Count | None

    def __post_init__(self) -> None:
        for key in ("context_questions", "target_questions"):
            span = getattr(self, key)
            require(
                len(span) == 2 and 1 <= span[0] <= span[1],
                f"training.{key}",
                span,
                "[least, most] with 1 <= least <= most",
            )

    def losses(self, prediction: "Prediction", episode: "Episode") -> "Tensor":
        """Loss of each target question, of shape (..., Q), differentiable."""
        raise NotImplementedError
