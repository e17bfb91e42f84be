"""Types of ``conf/data``."""

import itertools
from dataclasses import dataclass
from typing import Any

from plurallm.config.error import ConfigError, require


@dataclass
class DataConfig:
    """Which survey, which groups and roles (``conf/data``)."""

    source: str
    distance: str
    groups: Any  # None, "all" or a list of names: OmegaConf has no type for that
    train_groups: list[str]
    held_out_groups: list[str]
    held_out_fraction: float
    unseen_questions: float
    populations: list[list[str]]
    join_parentheses: bool
    split_by: str
    non_answers: str

    def __post_init__(self) -> None:
        require(
            self.distance in ("jensen_shannon", "wasserstein"),
            "data.distance",
            self.distance,
            "'jensen_shannon' or 'wasserstein'",
        )
        require(
            self.non_answers in ("drop", "keep"),
            "data.non_answers",
            self.non_answers,
            "'drop' or 'keep'",
        )
        require(self.split_by in ("text", "id"), "data.split_by", self.split_by, "'text' or 'id'")
        require(
            self.groups in (None, "all")
            or (isinstance(self.groups, list) and all(isinstance(n, str) for n in self.groups)),
            "data.groups",
            self.groups,
            "null, 'all' or a list of groups",
        )
        for key in ("held_out_fraction", "unseen_questions"):
            value = getattr(self, key)
            require(0 <= value < 1, f"data.{key}", value, "at least 0 and below 1")
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

    @property
    def group_list(self) -> list[str]:
        """The names that ``groups`` lists; none where it is no list."""
        return self.groups if isinstance(self.groups, list) else []


@dataclass
class SyntheticData(DataConfig):
    """The generated survey."""

    num_groups: int
    num_questions: int
    respondents: int
    survey_seed: int

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in (
            ("num_groups", 2),
            ("num_questions", 1),
            ("respondents", 1),
            ("survey_seed", 0),
        ):
            require(getattr(self, key) >= least, f"data.{key}", getattr(self, key), f">= {least}")


@dataclass
class FileData(DataConfig):
    """A survey file; GlobalOpinionQA is downloaded where no path is given."""

    path: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is None and self.source != "globalopinionqa":
            raise ConfigError("data.path has no value: give data.path=...")


@dataclass
class OpinionQAData(FileData):
    """OpinionQA, whose distributions come without ordinal values."""

    ordinals: str | None
