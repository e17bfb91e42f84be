"""Types of ``conf/strategy``: how the groups' updates become the next global model."""

import math
from dataclasses import dataclass

from plurallm.config.error import require


@dataclass
class StrategyConfig:
    """Aggregation (``conf/strategy``)."""

    name: str


@dataclass
class WeightedStrategy(StrategyConfig):
    """A mean whose weights start from the number of training questions, or are uniform: FedAvg."""

    weighting: str

    def __post_init__(self) -> None:
        require(
            self.weighting in ("questions", "uniform"),
            "strategy.weighting",
            self.weighting,
            "'questions' or 'uniform'",
        )


@dataclass
class FedProxStrategy(WeightedStrategy):
    """FedAvg whose clients are pulled towards the weights they received."""

    mu: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.mu < math.inf, "strategy.mu", self.mu, "at least 0 and finite")


@dataclass
class ServerStrategy(WeightedStrategy):
    """FedAvg with an optimiser on the server."""

    server_learning_rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        rate = self.server_learning_rate
        require(0 < rate < math.inf, "strategy.server_learning_rate", rate, "> 0 and finite")


@dataclass
class FedAvgMStrategy(ServerStrategy):
    """Momentum on the server."""

    momentum: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, "strategy.momentum", self.momentum, "at least 0, below 1")


@dataclass
class FedAdamStrategy(ServerStrategy):
    """Adam or Yogi on the server."""

    beta_1: float
    beta_2: float
    tau: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("beta_1", "beta_2"):
            value = getattr(self, key)
            require(0 <= value < 1, f"strategy.{key}", value, "at least 0 and below 1")
        require(0 < self.tau < math.inf, "strategy.tau", self.tau, "> 0 and finite")


@dataclass
class FairStrategy(StrategyConfig):
    """Weighs a group by its distance: how badly the weights it received predict its answers."""


@dataclass
class QFedAvgStrategy(FairStrategy):
    """q-fair federated learning."""

    q: float
    lipschitz: float

    def __post_init__(self) -> None:
        require(0 <= self.q <= 100, "strategy.q", self.q, "between 0 and 100")
        lipschitz = self.lipschitz
        require(0 <= lipschitz < math.inf, "strategy.lipschitz", lipschitz, "at least 0 and finite")


@dataclass
class AflStrategy(FairStrategy):
    """Agnostic federated learning."""

    step_size: float

    def __post_init__(self) -> None:
        require(
            0 <= self.step_size <= 500, "strategy.step_size", self.step_size, "between 0 and 500"
        )


@dataclass
class TermStrategy(FairStrategy, WeightedStrategy):
    """Tilted empirical risk."""

    tilt: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require(abs(self.tilt) <= 500, "strategy.tilt", self.tilt, "between -500 and 500")


@dataclass
class AdaptiveStrategy(FairStrategy, WeightedStrategy):
    """Weights from each group's history of scores."""

    temperature: float
    decay: float
    least_gap: float

    def __post_init__(self) -> None:
        super().__post_init__()
        # A score lies in 0..1: below this the weights leave the range of a float.
        require(
            0.002 <= self.temperature < math.inf,
            "strategy.temperature",
            self.temperature,
            "at least 0.002 and finite",
        )
        require(0 <= self.decay < 1, "strategy.decay", self.decay, "at least 0 and below 1")
        require(0 <= self.least_gap <= 1, "strategy.least_gap", self.least_gap, "between 0 and 1")


@dataclass
class RobustStrategy(StrategyConfig):
    """Made for groups that may send anything; it sees every update at once."""


@dataclass
class TrimmedMeanStrategy(RobustStrategy):
    """Mean without the extremes."""

    trim: float

    def __post_init__(self) -> None:
        require(0 < self.trim < 0.5, "strategy.trim", self.trim, "above 0 and below 0.5")


@dataclass
class MultiKrumStrategy(RobustStrategy):
    """Mean of the updates that lie closest together."""

    attackers: int
    keep: int | None

    def __post_init__(self) -> None:
        require(self.attackers >= 0, "strategy.attackers", self.attackers, ">= 0")
        require(self.keep is None or self.keep >= 1, "strategy.keep", self.keep, ">= 1 or null")


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
