"""The whole configuration: every key, its type and its range.

Each field is documented where its value stands, in ``conf/``.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError, require
from plurallm.config.federation import FederationConfig
from plurallm.config.learning import EmbeddingConfig, ModelConfig, TrainingConfig
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
from plurallm.config.ranges import SECTION, Count, Natural, Text
from plurallm.config.strategies import StrategyConfig
from plurallm.config.surveys import DataConfig, RespondentData
from plurallm.config.variants import Kind


@dataclass(frozen=True, config=SECTION)
class EvaluationConfig:
    """Scoring (``conf/evaluation``)."""

    every: Count
    context_questions: Count
    draws: Count
    near_copy: Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=SECTION)
class TrackingConfig:
    """Where results go (``conf/tracking``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class WandbTracking(TrackingConfig):
    """Weights & Biases."""

    project: Text
    entity: Text | None
    group: Text | None
    job_type: Text | None
    mode: Literal["auto", "online", "offline"]


@dataclass(frozen=True, config=SECTION)
class CompareConfig:
    """What ``plurallm compare`` compares (``conf/compare``)."""

    arms: Annotated[list[Text], Field(min_length=1)]
    seeds: Annotated[list[Natural], Field(min_length=1)]
    jobs: Count | None

    def __post_init__(self) -> None:
        for key in ("arms", "seeds"):
            values = getattr(self, key)
            require(len(set(values)) == len(values), f"compare.{key}", values, "without repetition")


@dataclass(frozen=True, config=SECTION)
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
    seed: Natural
    device: Text
    threads: Count | None
    precision: Literal["float32", "float64"]
    output_dir: Text | None
    cache_dir: Text | None
    state_dir: Text | None
    resume: Text | None

    def __post_init__(self) -> None:
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
    "privacy": ("name", PRIVACY),
    "personal": ("name", PERSONAL),
    "attack": ("name", ATTACKS),
    "tracking": ("name", {"jsonl": TrackingConfig, "wandb": WandbTracking}),
}
"""The variants of a config group: which field tells them apart, and the type of each."""

KINDS: dict[str, Kind[Any]] = {
    "data": Kind(DataConfig, "data", "source", "plurallm.data.sources", "plurallm.readers"),
    "embedding": Kind(
        EmbeddingConfig, "embedding", "name", "plurallm.data.embedders", "plurallm.embeddings"
    ),
    "training": Kind(
        TrainingConfig, "training", "loss", "plurallm.learn.objectives", "plurallm.losses"
    ),
    "strategy": Kind(
        StrategyConfig, "strategy", "name", "plurallm.federate.strategies", "plurallm.strategies"
    ),
}
"""Config groups that other packages can add to."""
