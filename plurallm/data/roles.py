"""Which groups train and which are held out; which questions no group trains on."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import yaml

from plurallm.config.error import ConfigError
from plurallm.config.overrides import config_directory
from plurallm.config.randomness import digest_fraction
from plurallm.config.ranges import change_section
from plurallm.config.schema import Config
from plurallm.config.surveys import DataConfig
from plurallm.data.identity import normal_form
from plurallm.data.survey import Survey


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


def is_unseen(identity: str, config: Config) -> bool:
    """Tell whether no group may train on a question.

    A function of the question's identity and the seed alone, so that nodes which hold different
    surveys agree without a word.
    """
    return digest_fraction("unseen", config.seed, identity) < config.data.unseen_questions


def which_unseen(survey: Survey, config: Config) -> list[bool]:
    """``is_unseen`` of each question of a survey, by what ``data.split_by`` says."""
    by_text = config.data.split_by == "text"
    identities = survey.identities if by_text else [question.id for question in survey.questions]
    return [is_unseen(identity, config) for identity in identities]


def count_seen(survey: Survey, config: Config) -> dict[str, int]:
    """Number of seen questions of every group of a survey."""
    seen = [not unseen for unseen in which_unseen(survey, config)]
    return {
        group: sum(seen[position] for position in answers.question_Q)
        for group, answers in survey.answers.items()
    }


def survey_roles(survey: Survey, config: Config) -> Roles:
    """Roles of the groups of a whole survey; see ``assign_roles``.

    Raises
    ------
    ConfigError
        As ``assign_roles``, and for a name in ``data.populations`` that the survey does not have.
    """
    strange = strange_populations(survey.answers, config.data)
    if strange:
        near = difflib.get_close_matches(strange[0], survey.answers, n=3)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ConfigError(
            f"data.populations lists {strange[0]!r}, which the survey does not have{hint}"
        )
    return assign_roles(count_seen(survey, config), with_populations(survey, config))


def with_populations(survey: Survey, config: Config) -> Config:
    """Add the survey's own populations, of groups that hold the same people, to the listed ones.

    Where that is one population, no group is drawn to be held out: its people would train.
    """
    if not survey.populations:
        return config
    together = [*config.data.populations, *map(list, survey.populations)]
    one = {normal_form(name) for name in survey.populations[0]} == set(
        map(normal_form, survey.answers)
    )
    fraction = 0.0 if one else config.data.held_out_fraction
    data = change_section(config.data, "data", populations=together, held_out_fraction=fraction)
    return replace(config, data=data)


def strange_populations(groups: Iterable[str], data: DataConfig) -> list[str]:
    """Names in ``data.populations`` that no group has.

    GlobalOpinionQA's own lists name labels of the whole publication, of which a file may hold a
    part.
    """
    known = {normal_form(name) for group in groups for name in (group, _base(group))}
    if data.source == "globalopinionqa":
        known |= {normal_form(name) for names in _published_populations() for name in names}
    return [name for names in data.populations for name in names if normal_form(name) not in known]


def parentheses_joins(groups: Iterable[str]) -> dict[str, list[str]]:
    """Groups whose names differ in a trailing "(...)" alone, by what they have in common."""
    found: dict[str, list[str]] = {}
    for group in sorted(groups):
        found.setdefault(normal_form(_base(group)), []).append(group)
    return {_base(names[0]): names for names in found.values() if len(names) > 1}


def tell_parentheses(groups: Iterable[str], data: DataConfig) -> list[str]:
    """Say which names share a role by ``data.join_parentheses``, or would."""
    joins = parentheses_joins(groups)
    if not joins:
        return []
    listed = "; ".join(", ".join(names) for names in joins.values())
    if data.join_parentheses:
        return [f"One population, so one role (data.join_parentheses=true): {listed}."]
    return [
        f'Each a population of its own, though they differ in "(...)" alone: {listed}. '
        "data.join_parentheses=true gives them one role."
    ]


def is_listed(group: str, names: Iterable[str]) -> bool:
    """Whether a group is among names, however they are written."""
    return normal_form(group) in set(map(normal_form, names))


@cache
def _published_populations() -> list[list[str]]:
    file = config_directory() / "data" / "globalopinionqa.yaml"
    lists: list[list[str]] = yaml.safe_load(file.read_text(encoding="utf-8"))["populations"]
    return lists


def _base(group: str) -> str:
    return group.partition(" (")[0]


def as_written(names: Iterable[str], groups: Iterable[str]) -> list[str]:
    """Names as the survey writes them, where it has them in other letters."""
    written = {normal_form(group): group for group in groups}
    here = set(groups)
    return [name if name in here else written.get(normal_form(name), name) for name in names]


def questions_needed(config: Config) -> int:
    """Fewest seen questions that a group must have to be trained on and scored."""
    training = config.training.context_questions[0] + config.training.target_questions[0]
    return max(training, config.evaluation.context_questions + 1)


def assign_roles(seen_questions: Mapping[str, int], config: Config) -> Roles:
    """Decide which groups train, which are held out and which have too few questions.

    Listed groups have the listed role. Others take part too where ``data.groups`` is ``all`` or
    lists them, or where it is null and no training group is listed: held-out ones are drawn by the
    seed until ``data.held_out_fraction`` of all are held out. Labels that ``data.populations``
    lists together, and with ``data.join_parentheses`` those that differ only in a trailing "(...)",
    name the same population and share a role. Listed names need not be written as the survey does.

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
    needed = questions_needed(config)
    data = change_section(
        config.data,
        "data",
        train_groups=as_written(config.data.train_groups, seen_questions),
        held_out_groups=as_written(config.data.held_out_groups, seen_questions),
        groups=as_written(config.data.group_list, seen_questions)
        if isinstance(config.data.groups, list)
        else config.data.groups,
    )
    config = replace(config, data=data)
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


def population(group: str, data: DataConfig) -> str:
    """Whom a label names: the first label of its list of populations, or what it says itself.

    With ``data.join_parentheses`` that is its text before " (".
    """
    name = _base(group) if data.join_parentheses else group
    return next(
        (
            names[0]
            for names in data.populations
            if is_listed(group, names) or is_listed(name, names)
        ),
        name,
    )


def groups_of_node(roles: Roles, partition: int, partitions: int) -> tuple[str, ...]:
    """Groups of one virtual node: group ``i`` lives on node ``i mod partitions``."""
    return roles.groups[partition::partitions]


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


def _draw_held_out(others: Sequence[str], listed: Mapping[str, str], config: Config) -> set[str]:
    """Of the groups without a listed role, those that are held out."""
    whom = {name: population(name, config.data) for name in (*others, *listed)}
    written = {normal_form(label): label for label in sorted(whom.values(), reverse=True)}
    whom = {name: written[normal_form(label)] for name, label in whom.items()}
    # A population listed in both roles counts as held out, which cannot leak.
    pinned = {whom[name]: role for name, role in listed.items()}
    held = {name for name in others if pinned.get(whom[name]) == "held_out"}
    free = {whom[name] for name in others} - set(pinned)
    held_listed = sum(role == "held_out" for role in listed.values())
    wanted = math.floor(config.data.held_out_fraction * (len(others) + len(listed)) + 0.5)
    for drawn in sorted(free, key=lambda name: digest_fraction("role", config.seed, name)):
        if held_listed + len(held) >= wanted:
            break
        held |= {name for name in others if whom[name] == drawn}
    return held
