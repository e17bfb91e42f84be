"""Roles of groups that a deployment's nodes bring, at the start and later."""

import dataclasses
from collections.abc import Mapping, Sequence, Set

from plurallm.config.error import ConfigError
from plurallm.config.randomness import digest_fraction
from plurallm.config.schema import Config
from plurallm.config.surveys import DataConfig
from plurallm.data.identity import normal_form
from plurallm.data.roles import Roles, assign_roles, is_listed, population


def assign_roles_of_nodes(
    seen_questions: Mapping[str, int], score_only: Set[str], config: Config
) -> Roles:
    """Decide the roles of the groups that a deployment's nodes brought.

    As ``assign_roles``, except that a listed group may be missing, since its node can still come,
    and that a group which its data holder lets be scored only is held out.

    Parameters
    ----------
    seen_questions : mapping of str to int
        Seen questions of every group there is.
    score_only : set of str
        Groups that may only be scored.
    config : Config
        The run's configuration.

    Returns
    -------
    Roles
        In the order of ``assign_roles``.

    Raises
    ------
    ConfigError
        When no training group is there.
    """
    data = config.data
    train = [group for group in seen_questions if is_listed(group, data.train_groups)]
    held_out = [group for group in seen_questions if is_listed(group, data.held_out_groups)]
    train.sort(key=lambda group: _place(group, data.train_groups))
    held_out.sort(key=lambda group: _place(group, data.held_out_groups))
    held_out += sorted(
        group for group in score_only - {*train, *held_out} if _takes_part(group, data)
    )
    if data.groups is None and data.train_groups and not train:
        raise ConfigError(f"none of data.train_groups is there: {', '.join(data.train_groups)}")
    there = dataclasses.replace(data, train_groups=train, held_out_groups=held_out)
    return assign_roles(seen_questions, dataclasses.replace(config, data=there))


def extend_roles(
    roles: Roles, seen_questions: Mapping[str, int], score_only: Set[str], config: Config
) -> Roles:
    """Give roles to groups that come while a run goes on; nobody else's role changes.

    A listed group has the listed role, one of a population that is there has that population's,
    any other is held out with the probability ``data.held_out_fraction``, by the seed.

    Parameters
    ----------
    roles : Roles
        Of the groups that are known.
    seen_questions : mapping of str to int
        Seen questions of the groups that came.
    score_only : set of str
        Groups of them that may only be scored.
    config : Config
        The run's configuration.

    Returns
    -------
    Roles
        The known groups, then the new ones by name. A group that the run does not list, though it
        lists groups, has none.
    """
    data = config.data
    held_populations = {normal_form(population(group, data)) for group in roles.held_out}
    train_populations = {normal_form(population(group, data)) for group in roles.train}
    train_populations -= held_populations
    train, held_out = list(roles.train), list(roles.held_out)
    for group in sorted(set(seen_questions) - set(roles.groups)):
        named = population(group, data)
        drawn = digest_fraction("role", config.seed, named) < data.held_out_fraction
        named = normal_form(named)
        if not _takes_part(group, data):
            continue
        if group in score_only or is_listed(group, data.held_out_groups):
            held_out.append(group)
        elif is_listed(group, data.train_groups) or named in train_populations:
            train.append(group)
        else:
            (held_out if named in held_populations or drawn else train).append(group)
    return dataclasses.replace(roles, train=tuple(train), held_out=tuple(held_out))


def _place(group: str, names: Sequence[str]) -> int:
    return [normal_form(name) for name in names].index(normal_form(group))


def _takes_part(group: str, data: DataConfig) -> bool:
    if is_listed(group, (*data.train_groups, *data.held_out_groups, *data.group_list)):
        return True
    return data.groups == "all" or (data.groups is None and not data.train_groups)
