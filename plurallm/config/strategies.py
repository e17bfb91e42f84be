"""Types of ``conf/strategy``: how the groups' updates become the next global model."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Count, Natural, NotNegative, Positive, Share


@dataclass(frozen=True, config=SECTION)
class StrategyConfig:
    """Aggregation (``conf/strategy``)."""

    name: str


@dataclass(frozen=True, config=SECTION)
class WeightedStrategy(StrategyConfig):
    """A mean whose weights start from the number of training questions, or are uniform: FedAvg."""

    weighting: Literal["questions", "uniform"]


@dataclass(frozen=True, config=SECTION)
class FedProxStrategy(WeightedStrategy):
    """FedAvg whose clients are pulled towards the weights they received."""

    mu: NotNegative


@dataclass(frozen=True, config=SECTION)
class ServerStrategy(WeightedStrategy):
    """FedAvg with an optimiser on the server."""

    server_learning_rate: Positive


@dataclass(frozen=True, config=SECTION)
class FedAvgMStrategy(ServerStrategy):
    """Momentum on the server."""

    momentum: Share


@dataclass(frozen=True, config=SECTION)
class FedAdamStrategy(ServerStrategy):
    """Adam or Yogi on the server."""

    beta_1: Share
    beta_2: Share
    tau: Positive


@dataclass(frozen=True, config=SECTION)
class FairStrategy(StrategyConfig):
    """Weighs a group by its distance: how badly the weights it received predict its answers."""


@dataclass(frozen=True, config=SECTION)
class QFedAvgStrategy(FairStrategy):
    """q-fair federated learning."""

    q: Annotated[float, Field(ge=0, le=100)]
    lipschitz: NotNegative


@dataclass(frozen=True, config=SECTION)
class AflStrategy(FairStrategy):
    """Agnostic federated learning."""

    step_size: Annotated[float, Field(ge=0, le=500)]


@dataclass(frozen=True, config=SECTION)
class TermStrategy(FairStrategy, WeightedStrategy):
    """Tilted empirical risk."""

    tilt: Annotated[float, Field(ge=-500, le=500)]


@dataclass(frozen=True, config=SECTION)
class AdaptiveStrategy(FairStrategy, WeightedStrategy):
    """Weights from each group's history of scores."""

    # A score lies in 0..1: below this the weights leave the range of a float.
    temperature: Annotated[float, Field(ge=0.002)]
    decay: Share
    least_gap: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=SECTION)
class RobustStrategy(StrategyConfig):
    """Made for groups that may send anything; it sees every update at once."""


@dataclass(frozen=True, config=SECTION)
class TrimmedMeanStrategy(RobustStrategy):
    """Mean without the extremes."""

    trim: Annotated[float, Field(gt=0, lt=0.5)]


@dataclass(frozen=True, config=SECTION)
class MultiKrumStrategy(RobustStrategy):
    """Mean of the updates that lie closest together."""

    attackers: Natural
    keep: Count | None


STRATEGIES: dict[str, type[StrategyConfig]] = {
    "fedavg": WeightedStrategy,
    "fedprox": FedProxStrategy,
    "fedavgm": FedAvgMStrategy,
    "fedadam": FedAdamStrategy,
    "fedyogi": FedAdamStrategy,
    "qfedavg": QFedAvgStrategy,
    "afl": AflStrategy,
    "term": TermStrategy,
    "adaptive": AdaptiveStrategy,
    "median": RobustStrategy,
    "trimmed_mean": TrimmedMeanStrategy,
    "multikrum": MultiKrumStrategy,
}
"""The choices of ``strategy.name``."""
