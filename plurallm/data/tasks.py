"""The survey that a configuration names, embedded, and one group's data ready to learn."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

from plurallm.config.directories import cache_directory
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.config.surveys import DataConfig
from plurallm.data.embedding.pairs import distinct_pairs, question_pairs
from plurallm.data.embedding.table import embedding_table
from plurallm.data.formats.tabular import file_state
from plurallm.data.preferences import Preferences
from plurallm.data.reading import read_survey
from plurallm.data.roles import survey_roles, which_unseen
from plurallm.data.survey import Survey, drop_questions

logger = logging.getLogger("plurallm")


@dataclass(frozen=True)
class GroupTask:
    """One group's answers, split by question.

    Attributes
    ----------
    name : str
        The group.
    seen : Preferences
        Questions that training groups may train on; contexts are drawn from them.
    unseen : Preferences
        Questions that no group trains on.
    novel_Q : Tensor of shape (Q,), bool, optional
        Which of the unseen questions have no near copy among the seen ones.
    """

    name: str
    seen: Preferences
    unseen: Preferences
    novel_Q: Tensor | None = None
    _copies: dict[torch.device, Preferences] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def seen_on(self, device: torch.device) -> Preferences:
        """The seen questions on a device: copied there once, not in every round."""
        if device not in self._copies:
            self._copies[device] = self.seen.to(device)
        return self._copies[device]


def load_survey(config: DataConfig) -> Survey:
    """Read or generate the survey that the configuration names, as far as it can be scored.

    Raises
    ------
    SurveyError
        Naming file, row and reason; or that there is no file and none could be downloaded.
    ConfigError
        When no question can be scored by the distance.
    """
    return scorable(config.read(), config)


def scorable(survey: Survey, config: DataConfig) -> Survey:
    """Leave out what the configured distance cannot score: Wasserstein needs ordinal values.

    Raises
    ------
    ConfigError
        When no question is left.
    """
    return _drop_without_scale(survey) if config.distance == "wasserstein" else survey


def data_state(config: DataConfig) -> tuple[tuple[int, ...] | None, ...]:
    """What tells whether the files behind a survey may have changed: see ``file_state``."""
    return tuple(file_state(file) if file.exists() else None for file in config.files())


@lru_cache(maxsize=1)
def read_once(
    path: Path,
    layout: str,
    non_answers: str,
    written: tuple[str | None, str | None, float | None],
    state: tuple[tuple[int, ...] | None, ...],
) -> Survey:
    """Read a file once for all that a process does with it; `state` tells a changed one.

    `written` is delimiter, encoding and what shares sum to.
    """
    delimiter, encoding, shares_sum = written
    return read_survey(
        path,
        layout,
        non_answers,
        delimiter=delimiter,
        encoding=encoding,
        shares_sum=shares_sum,
    )


def plan_nodes(config: Config) -> int:
    """Number of virtual nodes of a simulation: ``federation.nodes``, or one per group."""
    if config.federation.nodes is not None:
        return config.federation.nodes
    return len(survey_roles(load_survey(config.data), config).groups)


def survey_table(survey: Survey, config: Config) -> Tensor:
    """Embed all texts of a survey once.

    Returns
    -------
    Tensor of shape (R, D), float32, on the CPU
        One row for each distinct (question, option), shared by all groups.
    """
    return embedding_table(
        list(distinct_pairs(survey, config.embedding)),
        config.embedding,
        cache_directory(config),
        config.device,
    )


def near_copies(survey: Survey, table_RD: Tensor, config: Config) -> Tensor:
    """Tell which unseen questions have a near copy among the seen ones.

    Parameters
    ----------
    survey : Survey
        All questions at hand: in a deployment, those of the node.
    table_RD : Tensor of shape (R, D)
        ``survey_table`` of it.
    config : Config
        ``evaluation.near_copy`` is the cosine, between the means of two questions' embeddings over
        their options, from which on one is a near copy of the other.

    Returns
    -------
    Tensor of shape (N,), bool, on the CPU
        By position in ``survey.questions``; False for a seen one.
    """
    rows = distinct_pairs(survey, config.embedding)
    row_P: list[int] = []
    starts = []
    for question in survey.questions:
        starts.append(len(row_P))
        row_P += [rows[pair] for pair in question_pairs(question, config.embedding)]
    device = table_RD.device
    mean_ND = embedding_bag(
        torch.tensor(row_P, device=device),
        table_RD,
        torch.tensor(starts, device=device),
        mode="mean",
    )
    unit_ND = normalize(mean_ND)
    unseen_N = torch.tensor(which_unseen(survey, config))
    near_N = torch.zeros(len(unseen_N), dtype=torch.bool)
    if unseen_N.any() and not unseen_N.all():
        cosine_UN = unit_ND[unseen_N.to(device)] @ unit_ND[~unseen_N.to(device)].T
        near_N[unseen_N] = (cosine_UN.max(1).values >= config.evaluation.near_copy).cpu()
    return near_N


def near_copy_counts(survey: Survey, table_RD: Tensor, config: Config) -> dict[str, Any]:
    """Count the unseen questions, and those with a near copy among the seen, at which cosine."""
    return {
        "unseen": sum(which_unseen(survey, config)),
        "near": int(near_copies(survey, table_RD, config).sum()),
        "cosine": config.evaluation.near_copy,
    }


def group_tasks(
    survey: Survey, groups: Sequence[str], config: Config, table_RD: Tensor | None = None
) -> dict[str, GroupTask]:
    """Lay out some groups of a survey as tensors.

    Parameters
    ----------
    survey : Survey
        All questions and groups at hand.
    groups : sequence of str
        Groups to lay out.
    config : Config
        The run's configuration.
    table_RD : Tensor of shape (R, D), optional
        ``survey_table``: with it the tasks say which unseen questions have no near copy.

    Returns
    -------
    dict of str to GroupTask
        On the CPU, where questions are drawn; rows point into ``survey_table``.
    """
    rows = distinct_pairs(survey, config.embedding)
    widest = max(len(question.options) for question in survey.questions)
    row_QO = torch.zeros(len(survey.questions), widest, dtype=torch.int64)
    mask_QO = torch.zeros(len(survey.questions), widest, dtype=torch.bool)
    position_QO = torch.zeros(len(survey.questions), widest, dtype=torch.float64)
    for number, question in enumerate(survey.questions):
        options = [rows[pair] for pair in question_pairs(question, config.embedding)]
        row_QO[number, : len(options)] = torch.tensor(options)
        mask_QO[number, : len(options)] = True
        scale = question.position or (math.nan,) * len(options)
        position_QO[number, : len(options)] = torch.tensor(scale, dtype=torch.float64)
    unseen_Q = torch.tensor(which_unseen(survey, config))
    near_Q = None if table_RD is None else near_copies(survey, table_RD, config)
    tasks = {}
    for group in groups:
        answers = survey.answers[group]
        question_Q = torch.from_numpy(answers.question_Q)
        share_QO = torch.zeros(len(question_Q), widest, dtype=getattr(torch, config.precision))
        share_QO[:, : answers.share_QO.shape[1]] = torch.from_numpy(answers.share_QO)
        everything = Preferences(
            question_Q,
            row_QO[question_Q],
            share_QO,
            mask_QO[question_Q],
            position_QO[question_Q],
        )
        held_Q = unseen_Q[question_Q]
        tasks[group] = GroupTask(
            group,
            seen=everything.take(torch.nonzero(~held_Q).flatten()),
            unseen=everything.take(torch.nonzero(held_Q).flatten()),
            novel_Q=None if near_Q is None else ~near_Q[question_Q[held_Q]],
        )
    return tasks


def _drop_without_scale(survey: Survey) -> Survey:
    """Leave out what no Wasserstein distance can be computed on."""
    reasons = {
        number: "question without ordinal values"
        if question.ordinal is None
        else "question whose ordinal values are all equal"
        for number, question in enumerate(survey.questions)
        if question.position is None
    }
    if len(reasons) == len(survey.questions):
        raise ConfigError(
            f"data.distance=wasserstein takes questions with ordinal values, of which "
            f"{survey.source} has none: give data.ordinals=FILE (data=opinionqa; OpinionQA's "
            "info.csv has them) or the column 'ordinal' (data=custom), or take "
            "data.distance=jensen_shannon"
        )
    return drop_questions(survey, reasons)
