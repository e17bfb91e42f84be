"""The whole configuration: every key, its type and its range.

Each field is documented where its value stands, in ``conf/``. The classes are not frozen because
OmegaConf refuses frozen ones; nothing writes to a composed configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from plurallm.config.error import ConfigError, require
from plurallm.config.federation import FederationConfig
from plurallm.config.learning import (
    CausalLMEmbedding,
    EmbeddingConfig,
    GaussianTraining,
    HashingEmbedding,
    MiniLMEmbedding,
    ModelConfig,
    SentenceTransformerEmbedding,
    TableEmbedding,
    TrainingConfig,
)
from plurallm.config.protection import (
    ATTACKS,
    PERSONAL,
    PRIVACY,
    AttackConfig,
    PersonalConfig,
    PrivacyConfig,
    RespondentPrivacy,
    check_together,
)
from plurallm.config.strategies import STRATEGIES, StrategyConfig
from plurallm.config.surveys import (
    CustomData,
    DataConfig,
    FileData,
    OpinionQAData,
    RespondentData,
    SyntheticData,
)


@dataclass
class EvaluationConfig:
    """Scoring (``conf/evaluation``)."""

    every: int
    context_questions: int
    draws: int
    near_copy: float

    def __post_init__(self) -> None:
        for key in ("every", "context_questions", "draws"):
            require(getattr(self, key) >= 1, f"evaluation.{key}", getattr(self, key), ">= 1")
        require(
            0 < self.near_copy <= 1,
            "evaluation.near_copy",
            self.near_copy,
            "above 0 and at most 1",
        )


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
    job_type: str | None
    mode: str

    def __post_init__(self) -> None:
        require(
            self.mode in ("auto", "online", "offline"),
            "tracking.mode",
            self.mode,
            "'auto', 'online' or 'offline'",
        )


@dataclass
class CompareConfig:
    """What ``plurallm compare`` compares (``conf/compare``)."""

    arms: list[str]
    seeds: list[int]
    jobs: int | None

    def __post_init__(self) -> None:
        for key in ("arms", "seeds"):
            values = getattr(self, key)
            require(bool(values), f"compare.{key}", values, "a list that is not empty")
            require(len(set(values)) == len(values), f"compare.{key}", values, "without repetition")
        require(min(self.seeds) >= 0, "compare.seeds", self.seeds, ">= 0")
        require(self.jobs is None or self.jobs >= 1, "compare.jobs", self.jobs, ">= 1 or null")


@dataclass
class Config:
    """A whole run's configuration."""

    data: DataConfig
    embedding: EmbeddingConfig
    model: ModelConfig
    training: TrainingConfig
    federation: FederationConfig
    strategy: StrategyConfig
    privacy: PrivacyConfig
    personal: PersonalConfig
    attack: AttackConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    compare: CompareConfig
    seed: int
    device: str
    threads: int | None
    precision: str
    output_dir: str | None
    cache_dir: str | None
    state_dir: str | None
    resume: str | None

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, ">= 0")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, ">= 1 or null")
        require(
            self.precision in ("float32", "float64"),
            "precision",
            self.precision,
            "'float32' or 'float64'",
        )
        check_together(self.strategy, self.privacy)
        if isinstance(self.data, RespondentData) and isinstance(self.privacy, RespondentPrivacy):
            check_one_count(self.data)
        if self.personal.name == "experts" and self.privacy.name == "central":
            raise ConfigError(
                "personal=experts does not go with privacy=central: an expert is one group's "
                "update as it is, without noise; take privacy=respondent, or personal=none"
            )


def check_one_count(data: RespondentData) -> None:
    """Refuse what would move more than one count for a person in a question.

    Raises
    ------
    ConfigError
        With a weight, or with attributes side by side.
    """
    if data.weight is not None:
        raise ConfigError(
            "privacy=respondent does not go with data.weight: its noise is measured for persons "
            "who count once, and a weight above 1 would move a count by more; leave the weight out"
        )
    if len(data.attributes) > 1:
        raise ConfigError(
            "privacy=respondent does not go with several attributes side by side: a person would "
            "stand in several groups and be counted in each; take one attribute, or a crossing"
        )


VARIANTS: dict[str, tuple[str, Mapping[str, type]]] = {
    "data": (
        "source",
        {
            "synthetic": SyntheticData,
            "custom": CustomData,
            "globalopinionqa": FileData,
            "nodes": DataConfig,
            "opinionqa": OpinionQAData,
            "respondents": RespondentData,
        },
    ),
    "embedding": (
        "name",
        {
            "hashing": HashingEmbedding,
            "minilm": MiniLMEmbedding,
            "sentence_transformer": SentenceTransformerEmbedding,
            "causal_lm": CausalLMEmbedding,
            "table": TableEmbedding,
        },
    ),
    "training": (
        "loss",
        {
            "cross_entropy": TrainingConfig,
            "jensen_shannon": TrainingConfig,
            "gaussian": GaussianTraining,
        },
    ),
    "strategy": ("name", STRATEGIES),
    "privacy": ("name", PRIVACY),
    "personal": ("name", PERSONAL),
    "attack": ("name", ATTACKS),
    "tracking": ("name", {"jsonl": TrackingConfig, "wandb": WandbTracking}),
}
"""The variants of a config group: which field tells them apart, and the type of each."""
