"""People's own answers, one row a person."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION
from plurallm.config.surveys import RespondentData

if TYPE_CHECKING:
    from plurallm.data.survey import Survey


@dataclass(frozen=True, config=SECTION)
class PersonsData(RespondentData):
    """A file of persons, and which columns make the groups."""

    source: Literal["respondents"]

    def files(self) -> list[Path]:
        """The file, and its codebook."""
        return [*super().files(), *([] if self.codebook is None else [Path(self.codebook)])]

    def read(self) -> "Survey":
        """Tally each group's shares."""
        from plurallm.data.respondents.tally import read_respondents, settings_text
        from plurallm.data.tasks import data_state

        survey, _ = read_respondents(settings_text(self), data_state(self))
        return survey
