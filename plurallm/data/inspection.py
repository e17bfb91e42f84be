"""What is in a survey: groups, questions, overlap, options, what was dropped, expected roles.

A data holder reads it before taking part in a federation, so a file of one group is as good as one
of many.

Dimension letters: ``G`` groups, ``N`` questions of the survey.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.config.surveys import RespondentData
from plurallm.data.respondents.census import census_lines, census_tables
from plurallm.data.respondents.tally import read_respondents, settings_text
from plurallm.data.roles import (
    assign_roles,
    count_seen,
    questions_needed,
    strange_populations,
    tell_parentheses,
    with_populations,
)
from plurallm.data.survey import Survey
from plurallm.data.tasks import data_state, load_survey, near_copy_counts, survey_table

_ROLES = {"train": "training", "held_out": "held out"}

LEAST_OVERLAPPING = 5
"""How many of the groups that share the fewest questions are named."""


DOUBTS_SHOWN = 5
"""Questions that are named for each kind of doubt."""


@dataclass(frozen=True)
class Overlap:
    """Which questions several groups answered.

    Attributes
    ----------
    groups : tuple of str
        The groups ``G``.
    shared_GG : ndarray of shape (G, G), int
        Questions that both answered; on the diagonal those that the group answered.
    groups_N : ndarray of shape (N,), int
        How many groups answered each question.
    alone_G : ndarray of shape (G,), int
        Questions of each group that no other group answered.
    """

    groups: tuple[str, ...]
    shared_GG: npt.NDArray[np.int64]
    groups_N: npt.NDArray[np.int64]
    alone_G: npt.NDArray[np.int64]


def overlap(survey: Survey) -> Overlap:
    """Count the questions that groups share.

    Parameters
    ----------
    survey : Survey
        At least one group.

    Returns
    -------
    Overlap
        By group, by pair of groups and by question.
    """
    answered_GN = np.zeros((len(survey.answers), len(survey.questions)), dtype=np.int64)
    for row, answers in enumerate(survey.answers.values()):
        answered_GN[row, answers.question_Q] = 1
    groups_N = answered_GN.sum(0)
    return Overlap(
        tuple(survey.answers),
        answered_GN @ answered_GN.T,
        groups_N,
        answered_GN[:, groups_N == 1].sum(1),
    )


def expected_roles(
    seen_questions: Mapping[str, int], config: Config
) -> tuple[dict[str, str], str | None]:
    """Say what would become of each group.

    Parameters
    ----------
    seen_questions : mapping of str to int
        Seen questions of every group of the file.
    config : Config
        The run's configuration. What it lists need not be in the file: in a federation other nodes
        may have it.

    Returns
    -------
    roles : dict of str to str
        By group: ``"training"``, ``"held out"``, ``"too few questions"`` or ``"no part"``.
    problem : str or None
        Why a run on this file alone would not start.
    """
    data, needed = config.data, questions_needed(config)
    known = dict.fromkeys(seen_questions, "no part")
    problem = None
    try:
        strange = strange_populations(seen_questions, data)
        if strange:
            raise ConfigError(f"data.populations lists {strange[0]!r}, which is no group here")
        drawn = assign_roles(seen_questions, config).by_group
    except ConfigError as error:
        problem = str(error)
        drawn = dict.fromkeys(data.train_groups, "train")
        drawn |= dict.fromkeys(data.held_out_groups, "held_out")
    known |= {name: _ROLES[role] for name, role in drawn.items() if name in known}
    known |= {name: "too few questions" for name, seen in seen_questions.items() if seen < needed}
    return known, problem


def print_inspection(config: Config, console: Console) -> None:
    """Read the survey that the configuration names and print what is in it.

    Parameters
    ----------
    config : Config
        With the file as ``data.path``.
    console : Console
        Where to print.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    """
    survey = load_survey(config.data)
    seen_questions = count_seen(survey, config)
    table_RD = survey_table(survey, config)
    roles, problem = expected_roles(seen_questions, with_populations(survey, config))
    found = overlap(survey)
    for line in _facts(survey):
        console.print(line, highlight=False, soft_wrap=True)
    if isinstance(config.data, RespondentData):
        _, census = read_respondents(settings_text(config.data), data_state(config.data))
        for line in census_lines(census):
            console.print(line, highlight=False, soft_wrap=True)
        for table in census_tables(census):
            console.print(table)
    console.print(_group_table(found, seen_questions, roles))
    console.print(_option_table(survey))
    if len(found.groups) > 1:
        console.print(_overlap_table(found))
    lines = (
        *_overlap_lines(found),
        *_role_lines(roles, problem, config),
        *map(escape, _identity_lines(survey, table_RD, config)),
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _facts(survey: Survey) -> list[str]:
    answers = sum(len(own.question_Q) for own in survey.answers.values())
    ordered = sum(question.position is not None for question in survey.questions)
    lines = [
        survey.source,
        f"Layout: {survey.layout}.",
        f"{_number(len(survey.answers), 'group')}, {_number(len(survey.questions), 'question')}, "
        f"{_number(answers, 'answer')} of a group to a question.",
        f"Questions with ordinal values that differ, which data.distance=wasserstein takes: "
        f"{ordered}.",
    ]
    lines += _doubt_lines(survey)
    left_out = [f"Left out: {count} x {reason}." for reason, count in survey.dropped.items()]
    return [escape(line) for line in [*lines, *(left_out or ["Nothing was left out."])]]


def _doubt_lines(survey: Survey) -> list[str]:
    """The first doubts of each kind, and how many more there are."""
    kinds: dict[str, list[str]] = {}
    for doubt in survey.doubts:
        kind = doubt.partition(": question ")[2].partition("' ")[2][:20]
        kinds.setdefault(kind, []).append(doubt)
    lines = []
    for doubts in kinds.values():
        lines += [f"Warning: {doubt}." for doubt in doubts[:DOUBTS_SHOWN]]
        if len(doubts) > DOUBTS_SHOWN:
            lines.append(f"Warning: the same of {len(doubts) - DOUBTS_SHOWN} more questions.")
    return lines


def _identity_lines(survey: Survey, table_RD: Tensor, config: Config) -> list[str]:
    """What was taken for one, or nearly is: groups, populations, questions."""
    lines = [
        f"One group, {name!r}, written as {', '.join(map(repr, spellings))}."
        for name, spellings in survey.joined.items()
    ]
    lines += tell_parentheses(survey.answers, config.data)
    ids: dict[str, list[str]] = {}
    for question, identity in zip(survey.questions, survey.identities, strict=True):
        ids.setdefault(identity, []).append(question.id)
    several = [own for own in ids.values() if len(own) > 1]
    if several:
        fate = (
            "are seen or unseen together" if config.data.split_by == "text" else "are split by id"
        )
        lines.append(
            f"{_number(len(several), 'question')} with equal text and options under several ids "
            f"{fate}, such as {', '.join(several[0])}."
        )
    copies = near_copy_counts(survey, table_RD, config)
    lines.append(
        f"{copies['near']} of {copies['unseen']} unseen questions have a near copy among the seen "
        f"ones (embedding={config.embedding.name}, cosine at least {copies['cosine']:g}); a run "
        "scores them with and without."
    )
    return lines


def _group_table(
    found: Overlap, seen_questions: Mapping[str, int], roles: Mapping[str, str]
) -> Table:
    questions_G = found.shared_GG.diagonal()
    least, middle, most = np.percentile(questions_G, [0, 50, 100])
    table = Table(
        title="Groups",
        caption=f"Questions of a group: at least {least:g}, median {middle:g}, at most {most:g}.",
    )
    table.add_column("group", no_wrap=True)
    for heading in ("questions", "seen", "unseen", "answered by no other group"):
        table.add_column(heading, justify="right")
    table.add_column("role", no_wrap=True)
    for row in sorted(range(len(found.groups)), key=lambda row: -questions_G[row]):
        group = found.groups[row]
        seen = seen_questions[group]
        numbers = (questions_G[row], seen, questions_G[row] - seen, found.alone_G[row])
        table.add_row(escape(group), *map(str, numbers), roles[group])
    return table


def _option_table(survey: Survey) -> Table:
    table = Table(title="Options of a question")
    for heading in ("options", "questions", "with ordinal values"):
        table.add_column(heading, justify="right")
    widths = Counter(len(question.options) for question in survey.questions)
    ordered = Counter(len(q.options) for q in survey.questions if q.ordinal is not None)
    for width in sorted(widths):
        table.add_row(str(width), str(widths[width]), str(ordered[width]))
    return table


def _overlap_table(found: Overlap) -> Table:
    table = Table(title="Questions that several groups answered")
    for heading in ("at least so many groups", "questions", "share"):
        table.add_column(heading, justify="right")
    everyone = len(found.groups)
    for least in sorted({2, 3, 5, 10, (everyone + 1) // 2, everyone}):
        if least <= everyone:
            count = int((found.groups_N >= least).sum())
            table.add_row(str(least), str(count), f"{count / len(found.groups_N):.0%}")
    return table


def _overlap_lines(found: Overlap) -> list[str]:
    groups = len(found.groups)
    if groups == 1:
        return ["One group: overlap shows only where the others' files are at hand."]
    shared = found.shared_GG[np.triu_indices(groups, 1)]
    lines = [
        f"Questions that two groups share: at least {shared.min()}, median {np.median(shared):g}, "
        f"at most {shared.max()}; pairs that share none: {(shared == 0).sum()} of {len(shared)}."
    ]
    with_others_G = found.shared_GG.diagonal() - found.alone_G
    least = sorted(range(groups), key=lambda row: with_others_G[row])[:LEAST_OVERLAPPING]
    named = ", ".join(f"{found.groups[row]} ({with_others_G[row]})" for row in least)
    return [*lines, escape(f"Fewest questions that another group answered too: {named}.")]


def _role_lines(roles: Mapping[str, str], problem: str | None, config: Config) -> list[str]:
    data, needed = config.data, questions_needed(config)
    count = Counter(roles.values())
    lines = [
        f"Roles: {', '.join(f'{role} {number}' for role, number in count.items())}. A group takes "
        f"part with at least {needed} seen questions."
    ]
    listed = [*data.train_groups, *data.held_out_groups]
    if any(roles[name] in _ROLES.values() and name not in listed for name in roles):
        lines.append("Not listed, so drawn by the seed: in a federation among all nodes' groups.")
    absent = [name for name in dict.fromkeys([*data.group_list, *listed]) if name not in roles]
    if absent:
        lines.append(f"Listed, but not in this file: {', '.join(absent)}.")
    if problem is not None:
        lines.append(f"A run on this file alone would not start: {problem}.")
    return [escape(line) for line in lines]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
