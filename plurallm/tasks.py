"""Which groups and questions are held out, and one group's data ready to learn."""

import difflib
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from plurallm.config import (
    Config,
    ConfigError,
    DataConfig,
    FileData,
    OpinionQAData,
    SyntheticData,
)
from plurallm.embedding import distinct_pairs, embedding_table, question_pairs
from plurallm.preferences import Preferences
from plurallm.randomness import digest_fraction
from plurallm.survey import (
    Survey,
    download_globalopinionqa,
    drop_questions,
    read_survey,
    with_ordinals,
)
from plurallm.synthetic import generate_survey

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
    """

    name: str
    seen: Preferences
    unseen: Preferences


@dataclass(frozen=True)
class Roles:
    """Which groups take part, and as what.

    Attributes
    ----------
    train : tuple of str
        Groups that train and are scored.
    held_out : tuple of str
        Groups that are only scored.
    dropped : mapping of str to int
        Groups without a listed role that have too few questions, with their number of seen ones.
    absent : tuple of str
        Groups that ``data.groups`` lists and no survey has.
    """

    train: tuple[str, ...]
    held_out: tuple[str, ...]
    dropped: Mapping[str, int]
    absent: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """All groups that take part: the training groups, then the held-out ones."""
        return self.train + self.held_out

    @property
    def by_group(self) -> dict[str, str]:
        """Role of every group: ``"train"`` or ``"held_out"``."""
        return dict.fromkeys(self.train, "train") | dict.fromkeys(self.held_out, "held_out")


def load_survey(config: DataConfig) -> Survey:
    """Read or generate the survey that the configuration names.

    With the Wasserstein distance, questions without ordinal values that differ are left out.

    Raises
    ------
    SurveyError
        Naming file, row and reason; or that there is no file and none could be downloaded.
    ConfigError
        When no question can be scored by the distance.
    """
    if isinstance(config, SyntheticData):
        survey = generate_survey(
            config.num_groups, config.num_questions, config.respondents, config.survey_seed
        )
    else:
        assert isinstance(config, FileData)
        path = download_globalopinionqa() if config.path is None else Path(config.path)
        survey = read_survey(path, config.source)
    if isinstance(config, OpinionQAData) and config.ordinals is not None:
        survey = with_ordinals(survey, Path(config.ordinals))
    return _ordered_questions(survey) if config.distance == "wasserstein" else survey


def is_unseen(question_id: str, config: Config) -> bool:
    """Tell whether no group may train on a question.

    A function of the question's identity and the seed alone, so that nodes which hold different
    surveys agree without a word.
    """
    return digest_fraction("unseen", config.seed, question_id) < config.data.unseen_questions


def count_seen(survey: Survey, config: Config) -> dict[str, int]:
    """Number of seen questions of every group of a survey."""
    seen = [not is_unseen(question.id, config) for question in survey.questions]
    return {
        group: sum(seen[position] for position in answers.question_Q)
        for group, answers in survey.answers.items()
    }


def questions_needed(config: Config) -> int:
    """Fewest seen questions that a group must have to be trained on and scored."""
    training = config.training.context_questions[0] + config.training.target_questions[0]
    return max(training, config.evaluation.context_questions + 1)


def assign_roles(seen_questions: Mapping[str, int], config: Config) -> Roles:
    """Decide which groups train, which are held out and which have too few questions.

    Listed groups have the listed role. Others take part too where ``data.groups`` is ``all`` or
    lists them, or where it is null and no training group is listed: held-out ones are drawn by the
    seed until ``data.held_out_fraction`` of all are held out. Labels that differ only in a trailing
    "(...)", or that ``data.populations`` lists together, name the same population and share a role.

    Parameters
    ----------
    seen_questions : mapping of str to int
        Seen questions of every group there is.
    config : Config
        The run's configuration.

    Returns
    -------
    Roles
        Listed groups in the listed order, then the others by name.

    Raises
    ------
    ConfigError
        For a listed group that does not exist or has too few questions, or no training group.
    """
    data, needed = config.data, questions_needed(config)
    listed = dict.fromkeys(data.train_groups, "train")
    listed |= dict.fromkeys(data.held_out_groups, "held_out")
    for name in listed:
        _check_listed(name, seen_questions, needed)
    everyone = data.groups == "all" or (data.groups is None and not data.train_groups)
    chosen = set(seen_questions) if everyone else set(data.group_list)
    others = sorted((chosen & set(seen_questions)) - set(listed))
    dropped = {name: seen_questions[name] for name in others if seen_questions[name] < needed}
    others = [name for name in others if name not in dropped]
    drawn = _draw_held_out(others, listed, config)
    roles = Roles(
        train=(*data.train_groups, *(name for name in others if name not in drawn)),
        held_out=(*data.held_out_groups, *(name for name in others if name in drawn)),
        dropped=dropped,
        absent=tuple(name for name in data.group_list if name not in seen_questions),
    )
    if not roles.groups and roles.absent:
        raise ConfigError(
            f"the survey has none of the groups that data.groups lists; it has "
            f"{', '.join(sorted(seen_questions))}: list some of them, or take data.groups=all"
        )
    if not roles.train:
        raise ConfigError(
            f"no training group is left: {len(dropped)} groups have fewer than the {needed} seen "
            f"questions that context and targets take, {len(roles.held_out)} are held out"
        )
    return roles


def plan_nodes(config: Config) -> int:
    """Number of virtual nodes of a simulation: ``federation.nodes``, or one per group."""
    if config.federation.nodes is not None:
        return config.federation.nodes
    return len(assign_roles(count_seen(load_survey(config.data), config), config).groups)


def groups_of_node(roles: Roles, partition: int, partitions: int) -> tuple[str, ...]:
    """Groups of one virtual node: group ``i`` lives on node ``i mod partitions``."""
    return roles.groups[partition::partitions]


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


def group_tasks(survey: Survey, groups: Sequence[str], config: Config) -> dict[str, GroupTask]:
    """Lay out some groups of a survey as tensors.

    Parameters
    ----------
    survey : Survey
        All questions and groups at hand.
    groups : sequence of str
        Groups to lay out.
    config : Config
        The run's configuration.

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
    unseen_Q = torch.tensor([is_unseen(question.id, config) for question in survey.questions])
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
        )
    return tasks


def cache_directory(config: Config) -> Path:
    """Make the folder that keeps embedding tables: ``cache_dir``, or the user's cache.

    Raises
    ------
    ConfigError
        When it cannot be made.
    """
    if config.cache_dir is not None:
        directory = Path(config.cache_dir)
    else:
        directory = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "plurallm"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"no cache can be kept in {directory}: give cache_dir=... ({error})"
        ) from error
    return directory


def _ordered_questions(survey: Survey) -> Survey:
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


def _check_listed(name: str, seen_questions: Mapping[str, int], needed: int) -> None:
    if name not in seen_questions:
        near = difflib.get_close_matches(name, seen_questions, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(f"data lists group {name!r}, which the survey does not have{hint}")
    if seen_questions[name] < needed:
        raise ConfigError(
            f"group {name!r} has {seen_questions[name]} seen questions, but context and targets "
            f"take {needed}: leave it out, or lower evaluation.context_questions and "
            "training.context_questions"
        )


def _population(group: str, data: DataConfig) -> str:
    """Whom a label names: its text before " (", or the first label of its list of populations."""
    name = group.partition(" (")[0]
    return next((names[0] for names in data.populations if {group, name} & set(names)), name)


def _draw_held_out(others: Sequence[str], listed: Mapping[str, str], config: Config) -> set[str]:
    """Of the groups without a listed role, those that are held out."""
    population = {name: _population(name, config.data) for name in (*others, *listed)}
    # A population listed in both roles counts as held out, which cannot leak.
    pinned = {population[name]: role for name, role in listed.items()}
    held = {name for name in others if pinned.get(population[name]) == "held_out"}
    free = {population[name] for name in others} - set(pinned)
    held_listed = sum(role == "held_out" for role in listed.values())
    wanted = math.floor(config.data.held_out_fraction * (len(others) + len(listed)) + 0.5)
    for drawn in sorted(free, key=lambda name: digest_fraction("role", config.seed, name)):
        if held_listed + len(held) >= wanted:
            break
        held |= {name for name in others if population[name] == drawn}
    return held
