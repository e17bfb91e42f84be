"""Types of ``conf/embedding``, ``conf/model`` and ``conf/training``."""

import math
from dataclasses import dataclass

from plurallm.config.error import require


@dataclass
class EmbeddingConfig:
    """How a text becomes a vector (``conf/embedding``)."""

    name: str


@dataclass
class HashingEmbedding(EmbeddingConfig):
    """Hashed n-grams."""

    width: int

    def __post_init__(self) -> None:
        require(
            self.width >= 2 and self.width % 2 == 0, "embedding.width", self.width, "even and >= 2"
        )


@dataclass
class MiniLMEmbedding(EmbeddingConfig):
    """all-MiniLM-L6-v2 from an installed package."""

    parts: str
    batch_tokens: int
    device: str | None

    def __post_init__(self) -> None:
        _require_one_of(self, "parts", ("joint", "separate"))
        require(self.batch_tokens >= 1, "embedding.batch_tokens", self.batch_tokens, ">= 1")


@dataclass
class SentenceTransformerEmbedding(MiniLMEmbedding):
    """Any sentence-transformers model."""

    model: str


@dataclass
class CausalLMEmbedding(EmbeddingConfig):
    """Mean of the last hidden states of any causal language model."""

    model: str
    list_options: bool
    template: str
    dtype: str
    batch_tokens: int
    device: str | None

    def __post_init__(self) -> None:
        _require_one_of(self, "template", ("none", "alpaca", "llama2", "chat"))
        _require_one_of(self, "dtype", ("float32", "bfloat16", "float16"))
        require(self.batch_tokens >= 1, "embedding.batch_tokens", self.batch_tokens, ">= 1")


@dataclass
class TableEmbedding(EmbeddingConfig):
    """Vectors out of a file."""

    path: str
    list_options: bool


@dataclass
class ModelConfig:
    """Sizes of the preference transformer (``conf/model``)."""

    width: int
    embedder_layers: int
    layers: int
    heads: int
    feedforward: int

    def __post_init__(self) -> None:
        for key in ("width", "layers", "heads", "feedforward"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), ">= 1")
        require(self.embedder_layers >= 2, "model.embedder_layers", self.embedder_layers, ">= 2")
        require(
            self.width % self.heads == 0,
            "model.width",
            self.width,
            f"a multiple of model.heads ({self.heads})",
        )


@dataclass
class TrainingConfig:
    """Local learning (``conf/training``)."""

    loss: str
    learning_rate: float
    warmup: float
    steps_per_round: int
    context_questions: list[int]
    target_questions: list[int]
    groups_at_once: int | None

    def __post_init__(self) -> None:
        require(
            0 < self.learning_rate < math.inf,
            "training.learning_rate",
            self.learning_rate,
            "> 0 and finite",
        )
        require(0 <= self.warmup < 1, "training.warmup", self.warmup, "at least 0 and below 1")
        require(self.steps_per_round >= 1, "training.steps_per_round", self.steps_per_round, ">= 1")
        require(
            self.groups_at_once is None or self.groups_at_once >= 1,
            "training.groups_at_once",
            self.groups_at_once,
            ">= 1 or null",
        )
        for key in ("context_questions", "target_questions"):
            span = getattr(self, key)
            require(
                len(span) == 2 and 1 <= span[0] <= span[1],
                f"training.{key}",
                span,
                "[least, most] with 1 <= least <= most",
            )


@dataclass
class GaussianTraining(TrainingConfig):
    """Gaussian likelihood."""

    scale_floor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale_floor > 0, "training.scale_floor", self.scale_floor, "> 0")


def _require_one_of(config: EmbeddingConfig, key: str, values: tuple[str, ...]) -> None:
    require(
        getattr(config, key) in values,
        f"embedding.{key}",
        getattr(config, key),
        f"one of {', '.join(values)}",
    )
