"""Types of ``conf/privacy``, ``conf/personal`` and ``conf/attack``."""

import math
from dataclasses import dataclass

from plurallm.config.error import ConfigError, require
from plurallm.config.strategies import (
    FairStrategy,
    RobustStrategy,
    StrategyConfig,
    WeightedStrategy,
)


@dataclass
class PrivacyConfig:
    """Differential privacy (``conf/privacy``)."""

    name: str


@dataclass
class CentralPrivacy(PrivacyConfig):
    """Of a whole group, against those who see the global models."""

    noise_multiplier: float
    clipping_norm: float
    delta: float
    max_epsilon: float | None

    def __post_init__(self) -> None:
        for key in ("noise_multiplier", "clipping_norm"):
            value = getattr(self, key)
            require(0 < value < math.inf, f"privacy.{key}", value, "> 0 and finite")
        require(0 < self.delta < 1, "privacy.delta", self.delta, "above 0 and below 1")
        require(
            self.max_epsilon is None or self.max_epsilon > 0,
            "privacy.max_epsilon",
            self.max_epsilon,
            "> 0 or null",
        )


@dataclass
class RespondentPrivacy(PrivacyConfig):
    """Of each person in a group, against everybody outside its node."""

    epsilon: float
    delta: float
    questions_per_respondent: int | None
    respondents: int | None
    true_scores: bool

    def __post_init__(self) -> None:
        require(0 < self.epsilon <= 100, "privacy.epsilon", self.epsilon, "above 0, at most 100")
        require(0 < self.delta < 1, "privacy.delta", self.delta, "above 0 and below 1")
        for key in ("questions_per_respondent", "respondents"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"privacy.{key}", value, ">= 1 or null")


@dataclass
class PersonalConfig:
    """A model of each group's own beside the global one (``conf/personal``)."""

    name: str


@dataclass
class DittoPersonal(PersonalConfig):
    """A personal model that is pulled towards the global one."""

    mu: float

    def __post_init__(self) -> None:
        require(0 <= self.mu < math.inf, "personal.mu", self.mu, "at least 0 and finite")


@dataclass
class ExpertsPersonal(PersonalConfig):
    """Each training group fine-tunes the final model; predictions mix what comes of it."""

    steps: int | None
    max_experts: int
    learning_rate: float

    def __post_init__(self) -> None:
        steps = self.steps
        require(steps is None or steps >= 1, "personal.steps", steps, ">= 1 or null")
        require(self.max_experts >= 1, "personal.max_experts", self.max_experts, ">= 1")
        require(
            0 < self.learning_rate < math.inf,
            "personal.learning_rate",
            self.learning_rate,
            "> 0 and finite",
        )


@dataclass
class AttackConfig:
    """Groups that misbehave on purpose, for research (``conf/attack``)."""

    name: str


@dataclass
class PoisoningAttack(AttackConfig):
    """Some training groups send what harms the others."""

    groups: list[str]

    def __post_init__(self) -> None:
        require(bool(self.groups), "attack.groups", self.groups, "a list of training groups")


@dataclass
class UpdateAttack(PoisoningAttack):
    """Their updates are multiplied."""

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(math.isfinite(self.factor), "attack.factor", self.factor, "finite")


def check_together(strategy: StrategyConfig, privacy: PrivacyConfig) -> None:
    """Refuse a strategy that would undo the privacy of groups.

    Raises
    ------
    ConfigError
        Naming both keys.
    """
    if not isinstance(privacy, CentralPrivacy):
        return
    if isinstance(strategy, FairStrategy | RobustStrategy):
        raise ConfigError(
            f"privacy=central does not go with strategy={strategy.name}: its guarantee needs a "
            "mean with equal weights that depend on no group's answers; take fedavg, fedprox, "
            "fedavgm, fedadam or fedyogi"
        )
    if isinstance(strategy, WeightedStrategy) and strategy.weighting != "uniform":
        raise ConfigError(
            "privacy=central needs strategy.weighting=uniform: a group that weighs more than "
            "another would be protected less than the printed epsilon says"
        )


PRIVACY: dict[str, type[PrivacyConfig]] = {
    "none": PrivacyConfig,
    "central": CentralPrivacy,
    "respondent": RespondentPrivacy,
}
"""The choices of ``privacy.name``."""

PERSONAL: dict[str, type[PersonalConfig]] = {
    "none": PersonalConfig,
    "ditto": DittoPersonal,
    "experts": ExpertsPersonal,
}
"""The choices of ``personal.name``."""

ATTACKS: dict[str, type[AttackConfig]] = {
    "none": AttackConfig,
    "update": UpdateAttack,
    "shuffle": PoisoningAttack,
}
"""The choices of ``attack.name``."""
