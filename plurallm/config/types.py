"""Types of ``conf/``: every key, its type and its range.

Each field is documented where its value stands, in ``conf/``. The classes are not frozen because
OmegaConf refuses frozen ones; nothing writes to a composed configuration.
"""

import math
from dataclasses import dataclass


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the key."""


def _require(holds: bool, key: str, value: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{key} must be {rule}, but is {value!r}")


@dataclass
class DataConfig:
    """Which survey, which groups and roles (``conf/data``)."""

    source: str
    groups: str | None
    train_groups: list[str]
    held_out_groups: list[str]
    held_out_fraction: float
    unseen_questions: float

    def __post_init__(self) -> None:
        _require(self.groups in (None, "all"), "data.groups", self.groups, "null or 'all'")
        for key in ("held_out_fraction", "unseen_questions"):
            value = getattr(self, key)
            _require(0 <= value < 1, f"data.{key}", value, "at least 0 and below 1")
        for key in ("train_groups", "held_out_groups"):
            names = getattr(self, key)
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"data.{key} lists {twice[0]!r} twice")
        both = sorted(set(self.train_groups) & set(self.held_out_groups))
        if both:
            raise ConfigError(
                f"group {both[0]!r} is in data.train_groups and in data.held_out_groups: "
                "a held-out group must not train"
            )


@dataclass
class SyntheticData(DataConfig):
    """The generated survey."""

    num_groups: int
    num_questions: int
    respondents: int
    survey_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (
            ("num_groups", 2),
            ("num_questions", 1),
            ("respondents", 1),
            ("survey_seed", 0),
        ):
            _require(getattr(self, key) >= least, f"data.{key}", getattr(self, key), f">= {least}")


@dataclass
class FileData(DataConfig):
    """A survey file."""

    path: str


@dataclass
class EmbeddingConfig:
    """How a text becomes a vector (``conf/embedding``)."""

    name: str


@dataclass
class HashingEmbedding(EmbeddingConfig):
    """Hashed n-grams."""

    width: int

    def __post_init__(self) -> None:
        _require(
            self.width >= 2 and self.width % 2 == 0, "embedding.width", self.width, "even and >= 2"
        )


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
            _require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), ">= 1")
        _require(self.embedder_layers >= 2, "model.embedder_layers", self.embedder_layers, ">= 2")
        _require(
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
        _require(
            0 < self.learning_rate < math.inf,
            "training.learning_rate",
            self.learning_rate,
            "> 0 and finite",
        )
        _require(0 <= self.warmup < 1, "training.warmup", self.warmup, "at least 0 and below 1")
        _require(
            self.steps_per_round >= 1, "training.steps_per_round", self.steps_per_round, ">= 1"
        )
        _require(
            self.groups_at_once is None or self.groups_at_once >= 1,
            "training.groups_at_once",
            self.groups_at_once,
            ">= 1 or null",
        )
        for key in ("context_questions", "target_questions"):
            span = getattr(self, key)
            _require(
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
        _require(self.scale_floor > 0, "training.scale_floor", self.scale_floor, "> 0")


@dataclass
class FederationConfig:
    """Rounds and nodes (``conf/federation``)."""

    rounds: int
    nodes: int | None
    fraction: float
    min_groups: int | None
    wait_seconds: float
    round_timeout: float
    checkpoint_every: int

    def __post_init__(self) -> None:
        _require(self.rounds >= 1, "federation.rounds", self.rounds, ">= 1")
        _require(0 < self.fraction <= 1, "federation.fraction", self.fraction, "above 0, at most 1")
        for key in ("nodes", "min_groups"):
            value = getattr(self, key)
            _require(value is None or value >= 1, f"federation.{key}", value, ">= 1 or null")
        for key in ("wait_seconds", "round_timeout", "checkpoint_every"):
            _require(getattr(self, key) > 0, f"federation.{key}", getattr(self, key), "> 0")


@dataclass
class StrategyConfig:
    """Aggregation (``conf/strategy``)."""

    name: str
    weighting: str

    def __post_init__(self) -> None:
        _require(
            self.weighting in ("questions", "uniform"),
            "strategy.weighting",
            self.weighting,
            "'questions' or 'uniform'",
        )


@dataclass
class EvaluationConfig:
    """Scoring (``conf/evaluation``)."""

    every: int
    context_questions: int
    draws: int

    def __post_init__(self) -> None:
        for key in ("every", "context_questions", "draws"):
            _require(getattr(self, key) >= 1, f"evaluation.{key}", getattr(self, key), ">= 1")


@dataclass
class TrackingConfig:
    """Where results go (``conf/tracking``)."""

    name: str


@dataclass
class WandbTracking(TrackingConfig):
    """Weights & Biases."""

    project: str
    entity: str | None
    group: str | None
    mode: str

    def __post_init__(self) -> None:
        _require(
            self.mode in ("auto", "online", "offline"),
            "tracking.mode",
            self.mode,
            "'auto', 'online' or 'offline'",
        )


@dataclass
class Config:
    """A whole run's configuration."""

    data: DataConfig
    embedding: EmbeddingConfig
    model: ModelConfig
    training: TrainingConfig
    federation: FederationConfig
    strategy: StrategyConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    seed: int
    device: str
    threads: int | None
    precision: str
    output_dir: str | None
    cache_dir: str | None
    resume: str | None

    def __post_init__(self) -> None:
        _require(self.seed >= 0, "seed", self.seed, ">= 0")
        _require(self.threads is None or self.threads >= 1, "threads", self.threads, ">= 1 or null")
        _require(
            self.precision in ("float32", "float64"),
            "precision",
            self.precision,
            "'float32' or 'float64'",
        )


VARIANTS: dict[str, tuple[str, dict[str, type]]] = {
    "data": (
        "source",
        {"synthetic": SyntheticData, "custom": FileData, "globalopinionqa": FileData},
    ),
    "embedding": ("name", {"hashing": HashingEmbedding}),
    "training": (
        "loss",
        {
            "cross_entropy": TrainingConfig,
            "jensen_shannon": TrainingConfig,
            "gaussian": GaussianTraining,
        },
    ),
    "strategy": ("name", {"fedavg": StrategyConfig}),
    "tracking": ("name", {"jsonl": TrackingConfig, "wandb": WandbTracking}),
}
"""The variants of a config group: which field tells them apart, and the type of each."""
