"""Survey files whose rows one of our layouts reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.ranges import SECTION, Positive, Text
from plurallm.config.surveys import FileData

if TYPE_CHECKING:
    from plurallm.data.layout import Layout
    from plurallm.data.survey import Survey


@dataclass(frozen=True, config=SECTION)
class TableData(FileData):
    """A table, CSV or parquet, that is told by its columns."""

    @classmethod
    def layouts(cls) -> "tuple[Layout, ...]":
        """The ways in which such a file is laid out."""
        raise NotImplementedError

    def read(self) -> "Survey":
        """Read the file, once for all that a process does with it."""
        from plurallm.data.tasks import data_state, read_once

        text = (self.delimiter, self.encoding, getattr(self, "shares_sum", None))
        return read_once(self.files()[0], self.source, self.non_answers, text, data_state(self)[:1])


@dataclass(frozen=True, config=SECTION)
class CustomData(TableData):
    """A table in our own format."""

    source: Literal["custom"]
    shares_sum: Positive | None
    """What shares sum to: 100 where they are percent; None: 1."""

    @classmethod
    def layouts(cls) -> "tuple[Layout, ...]":
        """One row for each question and group."""
        from plurallm.data.formats.custom import read_custom
        from plurallm.data.layout import Layout

        columns = ("question_id", "question", "options", "group")
        return (Layout("one row for each question and group", columns, read_custom),)


@dataclass(frozen=True, config=SECTION)
class GlobalOpinionQAData(TableData):
    """GlobalOpinionQA (arXiv 2306.16388), downloaded where no path is given."""

    source: Literal["globalopinionqa"]

    @classmethod
    def layouts(cls) -> "tuple[Layout, ...]":
        """One row for each question."""
        from plurallm.data.formats.globalopinionqa import read_globalopinionqa
        from plurallm.data.layout import Layout

        columns = ("question", "selections", "options")
        name = "GlobalOpinionQA, one row for each question"
        return (Layout(name, columns, read_globalopinionqa),)

    def files(self) -> list[Path]:
        """The file that is named, or the published one."""
        from plurallm.data.hub import download_globalopinionqa

        return super().files() or [download_globalopinionqa()]


@dataclass(frozen=True, config=SECTION)
class OpinionQAData(TableData):
    """OpinionQA (arXiv 2303.17548), whose distributions come without ordinal values."""

    source: Literal["opinionqa"]
    ordinals: Text | None

    @classmethod
    def layouts(cls) -> "tuple[Layout, ...]":
        """Distributions, or respondents for each option."""
        from plurallm.data.formats.opinionqa import read_counts, read_distributions
        from plurallm.data.layout import Layout

        return (
            Layout(
                "OpinionQA, distributions D_H",
                ("qkey", "question", "references", "group", "attribute", "D_H"),
                read_distributions,
            ),
            Layout(
                "OpinionQA, respondents for each option",
                ("key", "question", "options", "option_ordinal", "group", "attribute", "counts"),
                read_counts,
            ),
        )

    def files(self) -> list[Path]:
        """The file, and the one with ordinal values."""
        return [*super().files(), *([] if self.ordinals is None else [Path(self.ordinals)])]

    def read(self) -> "Survey":
        """Read the file, with the ordinal values of the other one."""
        from plurallm.data.formats.opinionqa import with_ordinals

        survey = super().read()
        return survey if self.ordinals is None else with_ordinals(survey, Path(self.ordinals))
