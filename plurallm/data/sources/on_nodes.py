"""A deployment, whose nodes bring a survey each."""

from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError
from plurallm.config.ranges import SECTION
from plurallm.config.surveys import DataConfig

if TYPE_CHECKING:
    from plurallm.data.survey import Survey


@dataclass(frozen=True, config=SECTION)
class NodesData(DataConfig):
    """No survey here."""

    source: Literal["nodes"]

    def read(self) -> "Survey":
        """Refuse: there is nothing to read."""
        raise ConfigError(
            "data=nodes leaves the survey to the nodes of a deployment: to run here, choose "
            "data=synthetic, or data=custom with data.path=..."
        )
