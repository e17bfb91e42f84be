"""FedAvg and FedProx, the same to the server."""

from typing import Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, NotNegative
from plurallm.config.strategies import WeightedStrategy


@dataclass(frozen=True, config=SECTION)
class FedAvg(WeightedStrategy):
    """Weighted mean (arXiv 1602.05629)."""

    name: Literal["fedavg"]


@dataclass(frozen=True, config=SECTION)
class FedProx(WeightedStrategy):
    """FedAvg whose clients are pulled towards the weights they received (arXiv 1812.06127)."""

    name: Literal["fedprox"]
    mu: NotNegative

    @property
    def proximal(self) -> float:
        """Of the clients' term mu/2 ||w - w_received||^2."""
        return self.mu
