"""Types of ``conf/embedding``, ``conf/model`` and ``conf/training``."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import require
from plurallm.config.ranges import SECTION, Count, Positive, Share, Text


@dataclass(frozen=True, config=SECTION)
class EmbeddingConfig:
    """How a text becomes a vector (``conf/embedding``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class HashingEmbedding(EmbeddingConfig):
    """Hashed n-grams."""

    width: Annotated[int, Field(ge=2, multiple_of=2)]


@dataclass(frozen=True, config=SECTION)
class MiniLMEmbedding(EmbeddingConfig):
    """all-MiniLM-L6-v2 from an installed package."""

    parts: Literal["joint", "separate"]
    batch_tokens: Count
    device: Text | None


@dataclass(frozen=True, config=SECTION)
class SentenceTransformerEmbedding(MiniLMEmbedding):
    """Any sentence-transformers model."""

    model: Text


@dataclass(frozen=True, config=SECTION)
class CausalLMEmbedding(EmbeddingConfig):
    """Mean of the last hidden states of any causal language model."""

    model: Text
    list_options: bool
    template: Literal["none", "alpaca", "llama2", "chat"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_tokens: Count
    device: Text | None


@dataclass(frozen=True, config=SECTION)
class TableEmbedding(EmbeddingConfig):
    """Vectors out of a file."""

    path: Text
    list_options: bool


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


@dataclass(frozen=True, config=SECTION)
class GaussianTraining(TrainingConfig):
    """Gaussian likelihood."""

    scale_floor: Positive
