"""A survey that is ready to learn from: its roles, its split into tasks, its embeddings.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from plurallm.config.compose import load_config
from plurallm.config.device import choose_device
from plurallm.config.directories import cache_directory
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, hydra_list, hydra_quote, override_key
from plurallm.config.schema import Config
from plurallm.data.context import Context, draw_context
from plurallm.data.frames import keep_survey
from plurallm.data.roles import Roles, survey_roles
from plurallm.data.survey import Survey
from plurallm.data.tasks import (
    GroupTask,
    data_state,
    group_tasks,
    load_survey,
    near_copy_counts,
    survey_table,
)
from plurallm.evaluate.baselines.scoring import score_baselines
from plurallm.learn.transformer import PreferenceTransformer


@dataclass(frozen=True, eq=False)
class Study:
    """All groups' answers in one place, as one configuration splits and embeds them.

    Make one with ``Study.load``. Tasks, embeddings and baselines are computed when first asked for.

    Attributes
    ----------
    overrides : tuple of str
        Hydra overrides that make the configuration, paths absolute.
    config : Config
        The configuration.
    survey : Survey
        Questions and answers.
    roles : Roles
        Which groups train and which are held out.
    """

    overrides: tuple[str, ...]
    config: Config
    survey: Survey
    roles: Roles

    @classmethod
    def load(
        cls,
        survey: Survey | str | Path | None = None,
        *,
        data: str | None = None,
        train: Sequence[str] = (),
        held_out: Sequence[str] = (),
        embedding: str | None = None,
        seed: int | None = None,
        overrides: Sequence[str] = (),
    ) -> Self:
        """Read a survey, and decide which groups train and which questions stay unseen.

        Parameters
        ----------
        survey : Survey or path, optional
            A survey file, or a ``Survey``; by default the built-in synthetic survey.
        data : str, optional
            Layout of the file, a name of ``conf/data``; ``"custom"`` (our own) by default.
        train : sequence of str, optional
            Groups that train. By default all that are not held out.
        held_out : sequence of str, optional
            Groups that are only scored. Without `train` and `held_out` some are drawn.
        embedding : str, optional
            A name of ``conf/embedding``.
        seed : int, optional
            Of the split, the initial weights and every draw.
        overrides : sequence of str, optional
            Any other key of ``conf/``, for example ``["data.unseen_questions=0.2"]``.

        Raises
        ------
        SurveyError
            Naming file, row and reason.
        ConfigError
            Naming the key, or the group that the survey does not have.
        """
        settings: dict[str, Any] = {}
        if isinstance(survey, Survey):
            if data is not None:
                raise ConfigError("data says how a file is laid out: a Survey needs none")
            survey = keep_survey(survey, cache_directory(load_config(_own(overrides), None)))
        if survey is not None:
            settings |= {"data": data or "custom", "data.path": hydra_quote(str(survey))}
        elif data is not None:
            settings["data"] = data
        if train or held_out:
            settings |= {
                "data.train_groups": hydra_list(train),
                "data.held_out_groups": hydra_list(held_out),
            }
        if held_out and not train:
            settings["data.held_out_fraction"] = 0
        settings |= {} if embedding is None else {"embedding": embedding}
        settings |= {} if seed is None else {"seed": seed}
        named = [f"{key}={value}" for key, value in settings.items()]
        return cls.of([*named, *overrides])

    @classmethod
    def of(cls, overrides: Sequence[str]) -> Self:
        """Make the study that Hydra overrides configure; relative paths start here.

        Raises
        ------
        SurveyError, ConfigError
            As ``load``.
        """
        absolute = absolute_overrides(overrides, Path.cwd())
        config = load_config(absolute, None)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        survey = load_survey(config.data)
        return cls(tuple(absolute), config, survey, survey_roles(survey, config))

    @cached_property
    def tasks(self) -> dict[str, GroupTask]:
        """Every group that takes part, its answers split into seen and unseen questions."""
        return group_tasks(self.survey, self.roles.groups, self.config, self.table_RD)

    @cached_property
    def table_RD(self) -> Tensor:
        """Embeddings of all texts, of shape (R, D), on the configured device."""
        return survey_table(self.survey, self.config).to(choose_device(self.config.device))

    @property
    def train_tasks(self) -> list[GroupTask]:
        """The training groups, in the order of the roles."""
        return [self.tasks[name] for name in self.roles.train]

    @cached_property
    def baselines(self) -> dict[str, dict[str, Any]]:
        """Scores of every predictor without a network."""
        return score_baselines(self.tasks, self.roles, self.table_RD, self.config)

    @property
    def fingerprint(self) -> str:
        """Digest of the survey's content, whatever its path and the order of its rows."""
        return self.survey.fingerprint

    @property
    def facts(self) -> dict[str, Any]:
        """What a summary says of the survey: where it came from, what was dropped and joined."""
        survey = self.survey
        return {
            "near_copies": near_copy_counts(survey, self.table_RD, self.config),
            "survey": {
                "source": survey.source,
                "questions": len(survey.questions),
                "rows_dropped": dict(survey.dropped),
                "fingerprint": survey.fingerprint,
                "groups_joined": {name: list(own) for name, own in survey.joined.items()},
            },
        }

    def new_model(self) -> PreferenceTransformer:
        """Make the network with its seeded initial weights."""
        model = PreferenceTransformer(self.table_RD.shape[1], self.config.model, self.config.seed)
        return model.to(self.table_RD.device, getattr(torch, self.config.precision))

    def context(self, group: str, questions: int | None = None) -> Context:
        """Draw the answered questions that evaluation shows of a group.

        Parameters
        ----------
        group : str
            A group of the survey.
        questions : int, optional
            How many; ``evaluation.context_questions`` by default.

        Returns
        -------
        Context
            Seen questions only, drawn by the seed.

        Raises
        ------
        ValueError
            When the survey has no such group, or it answered fewer seen questions.
        """
        wanted = questions or self.config.evaluation.context_questions
        if group not in self.survey.answers:
            known = ", ".join(sorted(self.survey.answers))
            raise ValueError(f"{self.survey.source} has no group {group!r}; it has {known}")
        seen = group_tasks(self.survey, [group], self.config)[group].seen
        if len(seen) < wanted:
            raise ValueError(
                f"group {group!r} has {len(seen)} seen questions, fewer than the {wanted} of a "
                "context: ask for fewer"
            )
        return draw_context(self.survey, group, seen, wanted, self.config.seed)

    def __repr__(self) -> str:
        return (
            f"Study({self.survey.source!r}: {len(self.survey.questions)} questions, "
            f"{len(self.roles.train)} training and {len(self.roles.held_out)} held-out groups, "
            f"embedding {self.config.embedding.name})"
        )


def cached_study(overrides: tuple[str, ...]) -> Study:
    """Make the study of some overrides; the last one stays in memory until its files change."""
    return _cached(overrides, data_state(load_config(overrides, None).data))


@lru_cache(maxsize=1)
def _cached(overrides: tuple[str, ...], state: tuple[tuple[int, ...] | None, ...]) -> Study:
    """`state` tells survey files that were changed under their names."""
    return Study.of(overrides)


def _own(overrides: Sequence[str]) -> list[str]:
    """Of the overrides, where the cache lies: all that is needed before the survey is known."""
    absolute = absolute_overrides(overrides, Path.cwd())
    return [text for text in absolute if override_key(text) == "cache_dir"]
