"""Types of ``conf/privacy``, ``conf/personal`` and ``conf/attack``."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError
from plurallm.config.ranges import SECTION, Count, NotNegative, Positive, Probability, Text
from plurallm.config.strategies import (
    FairStrategy,
    StrategyConfig,
    WeightedStrategy,
)


@dataclass(frozen=True, config=SECTION)
class PrivacyConfig:
    """Differential privacy (``conf/privacy``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class CentralPrivacy(PrivacyConfig):
    """Of a whole group, against those who see the global models."""

    noise_multiplier: Positive
    clipping_norm: Positive
    delta: Probability
    max_epsilon: Positive | None


@dataclass(frozen=True, config=SECTION)
class RespondentPrivacy(PrivacyConfig):
    """Of each person in a group, against everybody outside its node."""

    epsilon: Annotated[float, Field(gt=0, le=100)]
    delta: Probability
    questions_per_respondent: Count | None
    respondents: Count | None
    true_scores: bool


@dataclass(frozen=True, config=SECTION)
class PersonalConfig:
    """A model of each group's own beside the global one (``conf/personal``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class DittoPersonal(PersonalConfig):
    """A personal model that is pulled towards the global one."""

    mu: NotNegative


@dataclass(frozen=True, config=SECTION)
class ExpertsPersonal(PersonalConfig):
    """Each training group fine-tunes the final model; predictions mix what comes of it."""

    steps: Count | None
    max_experts: Count
    learning_rate: Positive


@dataclass(frozen=True, config=SECTION)
class AttackConfig:
    """Groups that misbehave on purpose, for research (``conf/attack``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class PoisoningAttack(AttackConfig):
    """Some training groups send what harms the others."""

    groups: Annotated[list[Text], Field(min_length=1)]


@dataclass(frozen=True, config=SECTION)
class UpdateAttack(PoisoningAttack):
    """Their updates are multiplied."""

    factor: float


def check_together(strategy: StrategyConfig, privacy: PrivacyConfig) -> None:
    """Refuse a strategy that would undo the privacy of groups.

    Raises
    ------
    ConfigError
        Naming both keys.
    """
    if not isinstance(privacy, CentralPrivacy):
        return
    if isinstance(strategy, FairStrategy) or not isinstance(strategy, WeightedStrategy):
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
