"""The generated survey."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Count, Natural
from plurallm.config.surveys import DataConfig

if TYPE_CHECKING:
    from plurallm.data.survey import Survey


@dataclass(frozen=True, config=SECTION)
class SyntheticData(DataConfig):
    """Made-up people, with known values behind their answers."""

    source: Literal["synthetic"]
    num_groups: Annotated[int, Field(ge=2)]
    num_questions: Count
    respondents: Count
    survey_seed: Natural

    def read(self) -> "Survey":
        """Generate it."""
        from plurallm.data.non_answers import drop_non_answers
        from plurallm.data.synthetic import generate_survey

        survey = generate_survey(
            self.num_groups, self.num_questions, self.respondents, self.survey_seed
        )
        return drop_non_answers(survey) if self.non_answers == "drop" else survey
