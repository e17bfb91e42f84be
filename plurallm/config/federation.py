"""Types of ``conf/federation``."""

from dataclasses import dataclass

from plurallm.config.error import require


@dataclass
class FederationConfig:
    """Rounds and nodes (``conf/federation``)."""

    rounds: int
    nodes: int | None
    fraction: float
    min_groups: int | None
    wait_seconds: float
    round_timeout: float
    failed_rounds: int
    max_update_norm: float | None
    checkpoint_every: int

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "federation.rounds", self.rounds, ">= 1")
        require(0 < self.fraction <= 1, "federation.fraction", self.fraction, "above 0, at most 1")
        for key in ("nodes", "min_groups"):
            value = getattr(self, key)
            require(value is None or value >= 1, f"federation.{key}", value, ">= 1 or null")
        require(self.failed_rounds >= 0, "federation.failed_rounds", self.failed_rounds, ">= 0")
        require(
            self.max_update_norm is None or self.max_update_norm > 0,
            "federation.max_update_norm",
            self.max_update_norm,
            "> 0 or null",
        )
        for key in ("wait_seconds", "round_timeout", "checkpoint_every"):
            require(getattr(self, key) > 0, f"federation.{key}", getattr(self, key), "> 0")
