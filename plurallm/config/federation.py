"""Types of ``conf/federation``."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Count, Natural, Positive


@dataclass(frozen=True, config=SECTION)
class FederationConfig:
    """Rounds and nodes (``conf/federation``)."""

    rounds: Count
    nodes: Count | None
    fraction: Annotated[float, Field(gt=0, le=1)]
    min_groups: Count | None
    wait_seconds: Positive
    round_timeout: Positive
    failed_rounds: Natural
    max_update_norm: Positive | None
    checkpoint_every: Count
