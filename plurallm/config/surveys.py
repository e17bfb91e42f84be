"""Types of ``conf/data``."""

import codecs
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.error import ConfigError, require
from plurallm.config.ranges import SECTION, Count, Share, Text

if TYPE_CHECKING:
    from plurallm.data.survey import Survey

CODEBOOK_COLUMNS = ("variable", "question", "options", "codes", "missing", "type", "use")
"""What a codebook says of a variable; ``data.codebook_columns`` gives the names of its columns."""


DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
"""What can stand between the cells of a table of text."""


@dataclass(frozen=True, config=SECTION)
class DataConfig:
    """Which survey, which groups and roles (``conf/data``)."""

    source: str
    distance: Literal["jensen_shannon", "wasserstein"]
    groups: Literal["all"] | list[Text] | None
    train_groups: list[Text]
    held_out_groups: list[Text]
    held_out_fraction: Share
    unseen_questions: Share
    populations: list[list[Text]]
    join_parentheses: bool
    split_by: Literal["text", "id"]
    non_answers: Literal["drop", "keep"]

    def __post_init__(self) -> None:
        for key, names in (
            ("groups", self.group_list),
            ("train_groups", self.train_groups),
            ("held_out_groups", self.held_out_groups),
            ("populations", list(itertools.chain(*self.populations))),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"data.{key} lists {twice[0]!r} twice")
        both = sorted(set(self.train_groups) & set(self.held_out_groups))
        if both:
            raise ConfigError(
                f"group {both[0]!r} is in data.train_groups and in data.held_out_groups: "
                "a held-out group must not train"
            )

    def files(self) -> list[Path]:
        """Files that are read, the survey's first."""
        return []

    def read(self) -> "Survey":
        """Give the survey with all its questions, whatever the distance can score.

        Raises
        ------
        SurveyError
            Naming file, row and reason; or that there is no file and none could be downloaded.
        """
        raise NotImplementedError

    @property
    def group_list(self) -> list[str]:
        """The names that ``groups`` lists; none where it is no list."""
        return self.groups if isinstance(self.groups, list) else []


@dataclass(frozen=True, config=SECTION)
class FileData(DataConfig):
    """A survey file."""

    path: Text | None
    encoding: Text | None
    delimiter: Literal["comma", "semicolon", "tab", "bar"] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.encoding is None or _is_encoding(self.encoding),
            "data.encoding",
            self.encoding,
            "null or the name of an encoding, such as utf-8, cp1252 or utf-16",
        )
        if self.path is None and self.source != "globalopinionqa":
            raise ConfigError("data.path has no value: give data.path=...")

    def files(self) -> list[Path]:
        """The file that is named."""
        return [] if self.path is None else [Path(self.path)]


@dataclass(frozen=True, config=SECTION)
class RespondentData(FileData):
    """People's own answers, one row a person, and which columns make the groups."""

    codebook: Text | None
    codebook_columns: dict[Text, Text]
    sheet: Text | None
    questions: list[Text] | None
    group_by: Any  # a column, a list of columns or of such lists
    bins: Any  # None, or a dict of str to list of int or float
    smallest_group: Count
    weight: Text | None
    respondent_id: Text | None
    unlabelled: Literal["refuse", "drop"]

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = self.group_by if isinstance(self.group_by, list) else [self.group_by]
        columns = list(
            itertools.chain(*(each if isinstance(each, list) else [each] for each in listed))
        )
        require(
            bool(columns) and all(isinstance(name, str) and name for name in columns),
            "data.group_by",
            self.group_by,
            "a column, a list of columns that are crossed, a list of such lists, or respondent",
        )
        known = self.bins is None or isinstance(self.bins, dict)
        require(known, "data.bins", self.bins, "null, or edges by column: {age: [18,40,65]}")
        for name, edges in (self.bins or {}).items():
            numbers = isinstance(edges, list) and all(isinstance(e, int | float) for e in edges)
            require(
                name in columns and numbers and bool(edges) and edges == sorted(set(edges)),
                f"data.bins.{name}",
                edges,
                "increasing numbers, for a column of data.group_by",
            )
        strange = sorted(set(self.codebook_columns) - set(CODEBOOK_COLUMNS))
        if strange:
            raise ConfigError(
                f"data.codebook_columns.{strange[0]} is not one of {', '.join(CODEBOOK_COLUMNS)}"
            )
        if self.each_person and self.weight is not None:
            raise ConfigError(
                "data.weight has no meaning with data.group_by=respondent: a person's shares are "
                "0 or 1 whatever the weight"
            )

    @property
    def each_person(self) -> bool:
        """Whether each person is a group."""
        return bool(self.group_by == "respondent")

    @property
    def attributes(self) -> list[list[Text]]:
        """Columns whose crossings are groups, for each attribute that stands by itself."""
        if self.each_person:
            return []
        if isinstance(self.group_by, str):
            return [[self.group_by]]
        if all(isinstance(each, str) for each in self.group_by):
            return [list(self.group_by)]
        return [each if isinstance(each, list) else [each] for each in self.group_by]


def _is_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False
