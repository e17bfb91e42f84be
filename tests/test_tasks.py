"""Roles of groups, the split of the questions, and a group's answers as tensors."""

import math
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from plurallm.config.compose import load_config
from plurallm.config.directories import cache_directory
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.reading import read_survey
from plurallm.data.roles import (
    Roles,
    assign_roles,
    count_seen,
    groups_of_node,
    is_unseen,
    questions_needed,
)
from plurallm.data.survey import Answers, Question, Survey
from plurallm.data.synthetic import generate_survey
from plurallm.data.tasks import group_tasks, load_survey, plan_nodes, survey_table

NAMES = [f"group {number:02}" for number in range(20)]


@pytest.fixture(scope="module")
def default() -> Config:
    return load_config([], None)


@pytest.fixture
def changed(default: Config) -> Callable[..., Config]:
    """Change values of ``data``, and the seed."""

    def change(seed: int = 1, **data: Any) -> Config:
        data = {"join_parentheses": True, "split_by": "id"} | data
        return replace(default, seed=seed, data=replace(default.data, **data))

    return change


def many(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1000)


# Roles


def test_listed_groups_have_the_listed_role_and_order(changed: Callable[..., Config]) -> None:
    config = changed(groups=None, train_groups=["b", "a"], held_out_groups=["d", "c"])
    roles = assign_roles(many("a", "b", "c", "d", "e"), config)
    assert roles == Roles(("b", "a"), ("d", "c"), {})
    assert roles.groups == ("b", "a", "d", "c")
    assert roles.by_group == {"a": "train", "b": "train", "c": "held_out", "d": "held_out"}


def test_all_takes_the_others_too(changed: Callable[..., Config]) -> None:
    config = changed(groups="all", train_groups=["b"], held_out_groups=["c"], held_out_fraction=0.0)
    roles = assign_roles(many("d", "a", "b", "c", "e"), config)
    assert roles == Roles(("b", "a", "d", "e"), ("c",), {})


def test_without_listed_training_groups_all_others_train_or_are_drawn(
    changed: Callable[..., Config],
) -> None:
    config = changed(groups=None, held_out_groups=["a"], held_out_fraction=0.0)
    assert assign_roles(many("a", "b", "c"), config) == Roles(("b", "c"), ("a",), {})


@pytest.mark.parametrize(
    ("fraction", "held_out"), [(0.0, 0), (0.1, 2), (0.43, 9), (0.5, 10), (0.9, 18)]
)
def test_the_fraction_is_held_out_of_all_groups(
    changed: Callable[..., Config], fraction: float, held_out: int
) -> None:
    roles = assign_roles(many(*NAMES), changed(held_out_fraction=fraction))
    assert len(roles.held_out) == held_out
    assert sorted(roles.groups) == NAMES
    assert roles.train == tuple(sorted(roles.train))
    assert roles.held_out == tuple(sorted(roles.held_out))


def test_listed_held_out_groups_count_towards_the_fraction(
    changed: Callable[..., Config],
) -> None:
    config = changed(held_out_groups=NAMES[:4], held_out_fraction=0.3)
    roles = assign_roles(many(*NAMES), config)
    assert len(roles.held_out) == 6
    assert roles.held_out[:4] == tuple(NAMES[:4])
    more = changed(held_out_groups=NAMES[:8], held_out_fraction=0.3)
    assert assign_roles(many(*NAMES), more).held_out == tuple(NAMES[:8])


def test_the_seed_draws_the_held_out_groups(changed: Callable[..., Config]) -> None:
    draws = [
        assign_roles(many(*NAMES), changed(seed=seed, held_out_fraction=0.3)).held_out
        for seed in range(30)
    ]
    assert draws[1] == assign_roles(many(*NAMES), changed(1, held_out_fraction=0.3)).held_out
    assert len(set(draws)) > 25
    assert {name for drawn in draws for name in drawn} == set(NAMES)


def test_roles_do_not_depend_on_the_order_in_which_groups_are_met(
    changed: Callable[..., Config],
) -> None:
    config = changed(held_out_fraction=0.4, train_groups=["group 07"])
    expected = assign_roles(many(*NAMES), config)
    shuffled = NAMES.copy()
    random.Random(1).shuffle(shuffled)
    assert assign_roles(many(*shuffled), config) == expected


def test_labels_of_one_population_share_a_role(changed: Callable[..., Config]) -> None:
    pairs = [f"{name} ({year})" for name in NAMES for year in (1999, 2020)]
    for seed in range(10):
        roles = assign_roles(many(*pairs), changed(seed=seed, held_out_fraction=0.3))
        held = [name.partition(" (")[0] for name in roles.held_out]
        assert len(roles.held_out) == 12
        assert all(held.count(name) == 2 for name in held)


def test_a_population_follows_its_listed_label(changed: Callable[..., Config]) -> None:
    names = ["Chad", "India (A)", "India (B)", "Peru (A)", "Peru (B)", "Togo"]
    listed = {"train_groups": ["India (A)"], "held_out_groups": ["Peru (B)"]}
    for seed in range(10):
        roles = assign_roles(many(*names), changed(seed=seed, held_out_fraction=0.4, **listed))
        assert "India (B)" in roles.train
        assert "Peru (A)" in roles.held_out


def test_a_population_listed_in_both_roles_is_held_out_where_not_listed(
    changed: Callable[..., Config],
) -> None:
    config = changed(
        train_groups=["India (A)"], held_out_groups=["India (B)"], held_out_fraction=0.0
    )
    roles = assign_roles(many("India (A)", "India (B)", "India (C)", "Togo"), config)
    assert roles == Roles(("India (A)", "Togo"), ("India (B)", "India (C)"), {})


def test_labels_that_are_listed_as_one_population_share_a_role(
    changed: Callable[..., Config],
) -> None:
    same = [["Great Chad", "N. Chad"], ["Togo", "Togoland"]]
    names = ["Great Chad", "Great Chad (old)", "N. Chad", "Mali", "Peru", "Togo", "Togoland (1)"]
    for seed in range(20):
        config = changed(seed=seed, held_out_fraction=0.4, populations=same)
        held = assign_roles(many(*names), config).held_out
        for one, *others in (names[:3], names[5:]):
            assert all((name in held) == (one in held) for name in others)
    pinned = changed(held_out_groups=["N. Chad"], held_out_fraction=0.0, populations=same)
    assert assign_roles(many(*names), pinned).held_out == ("N. Chad", *names[:2])
    alone = changed(held_out_groups=["N. Chad"], held_out_fraction=0.0)
    assert assign_roles(many(*names), alone).held_out == ("N. Chad",)


def test_a_list_of_groups_takes_part_as_far_as_there_are_such_groups(
    changed: Callable[..., Config],
) -> None:
    config = changed(groups=["e", "x", "a", "d", "y"], held_out_fraction=0.0, train_groups=["b"])
    roles = assign_roles({**many("a", "b", "c", "d"), "e": 3}, config)
    assert roles == Roles(("b", "a", "d"), (), {"e": 3}, ("x", "y"))
    half = changed(groups=NAMES[:10], held_out_fraction=0.5)
    assert len(assign_roles(many(*NAMES), half).held_out) == 5
    with pytest.raises(
        ConfigError, match=r"none of the groups that data\.groups lists; it has a, b"
    ):
        assign_roles(many("b", "a"), changed(groups=["x", "y"]))


@pytest.mark.parametrize("role", ["train_groups", "held_out_groups"])
def test_an_unknown_listed_group_is_told_with_near_names(
    changed: Callable[..., Config], role: str
) -> None:
    config = changed(groups=None, **{"train_groups": ["Chad"], role: ["Germny"]})
    with pytest.raises(ConfigError, match=r"'Germny'.*near it: .*Germany") as error:
        assign_roles(many("Chad", "Germany", "Togo"), config)
    assert "Togo" not in str(error.value)
    with pytest.raises(ConfigError, match=r"'Germny', which the survey does not have$"):
        assign_roles(many("Chad", "Togo"), config)


def test_a_listed_group_of_too_few_questions_is_an_error(changed: Callable[..., Config]) -> None:
    config = changed(groups="all", train_groups=["small"])
    needed = questions_needed(config)
    with pytest.raises(ConfigError, match=rf"'small' has {needed - 1} seen .* take {needed}:"):
        assign_roles({"small": needed - 1, "large": 1000}, config)
    assert "small" in assign_roles({"small": needed, "large": 1000}, config).train


def test_other_groups_of_too_few_questions_are_dropped_and_counted(
    changed: Callable[..., Config],
) -> None:
    config = changed(groups="all", held_out_fraction=0.5)
    needed = questions_needed(config)
    seen = {"few": needed - 1, "none": 0, "enough": needed, "many": 1000}
    roles = assign_roles(seen, config)
    assert roles.dropped == {"few": needed - 1, "none": 0}
    assert sorted(roles.groups) == ["enough", "many"]
    assert len(roles.held_out) == 1  # half of those that are left


def test_without_a_training_group_nothing_starts(changed: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=r"no training group.* 2 groups have fewer than the 21"):
        assign_roles({"a": 3, "b": 4}, changed(groups="all"))
    with pytest.raises(ConfigError, match=r"no training group.* 1 are held out"):
        assign_roles(many("a"), changed(groups=None, held_out_groups=["a"]))


@pytest.mark.parametrize(
    ("context", "target", "evaluation", "needed"),
    [([10, 50], [10, 50], 20, 21), ([10, 50], [15, 20], 20, 25), ([1, 9], [1, 9], 1, 2)],
)
def test_a_group_needs_questions_for_training_and_for_scoring(
    default: Config, context: list[int], target: list[int], evaluation: int, needed: int
) -> None:
    config = replace(
        default,
        training=replace(default.training, context_questions=context, target_questions=target),
        evaluation=replace(default.evaluation, context_questions=evaluation),
    )
    assert questions_needed(config) == needed


def test_all_countries_keep_the_held_out_ones_out_of_training() -> None:
    project = Path(__file__).resolve().parent.parent
    folder = project / os.environ.get("PLURALLM_TEST_DATA", "../shared/data")
    path = (folder / "globalopinionqa" / "global_opinions_dev.csv.gz").resolve()
    if not path.is_file():
        pytest.skip(f"no {path}: set PLURALLM_TEST_DATA to the folder of the test data")
    overrides = ["data=globalopinionqa", "data.groups=all", f"data.path={path}"]
    survey = load_survey(load_config(overrides, None).data)
    for seed in range(5):
        config = load_config([*overrides, f"seed={seed}"], None)
        data = config.data
        # Every label that the rules rely on is one of the file.
        assert {name for names in data.populations for name in names} <= set(survey.answers)
        roles = assign_roles(count_seen(survey, config), config)
        assert roles.train[:8] == tuple(data.train_groups)
        assert roles.held_out[:6] == tuple(data.held_out_groups)
        assert len(roles.groups) + len(roles.dropped) == 134
        # A third of the labels, and at most the other labels of the last country drawn.
        third = len(roles.groups) / 3
        assert third - 1 < len(roles.held_out) < third + 3
        assert {"China (Non-national sample)", "Hong Kong SAR", "Macau SAR"} < set(roles.held_out)
        assert "Brazil (Non-national sample)" in roles.held_out
        assert {"Puerto Rico", "India (Old national sample)"} < set(roles.train)
        same = {name: names[0] for names in data.populations for name in names}
        trained, held = (
            {same.get(name, name) for label in part for name in [label.partition(" (")[0]]}
            for part in (roles.train, roles.held_out)
        )
        assert not trained & held


@pytest.mark.parametrize("nodes", range(1, 9))
def test_nodes_part_the_groups_among_them(nodes: int) -> None:
    roles = Roles(("d", "a", "c"), ("e", "b", "f", "g"), {})
    parts = [groups_of_node(roles, node, nodes) for node in range(nodes)]
    assert sorted(name for part in parts for name in part) == list("abcdefg")
    for number, group in enumerate(roles.groups):
        assert group in parts[number % nodes]


def test_a_simulation_plans_a_node_for_every_group_or_as_many_as_told(
    tiny_config: Callable[..., Config],
) -> None:
    assert plan_nodes(tiny_config()) == 6
    assert plan_nodes(tiny_config("federation.nodes=3")) == 3


# Questions


def identities(count: int) -> list[str]:
    return [f"question {number}" for number in range(count)]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.9])
def test_about_the_right_fraction_of_questions_is_unseen(
    changed: Callable[..., Config], fraction: float
) -> None:
    config = changed(unseen_questions=fraction)
    unseen = sum(is_unseen(name, config) for name in identities(4000))
    assert unseen / 4000 == pytest.approx(fraction, abs=0.03)  # four standard deviations
    if fraction == 0:
        assert unseen == 0


def test_the_seed_draws_the_unseen_questions(changed: Callable[..., Config]) -> None:
    def drawn(seed: int) -> list[bool]:
        config = changed(seed=seed, unseen_questions=0.5)
        return [is_unseen(name, config) for name in identities(200)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_larger_fraction_only_adds_unseen_questions(changed: Callable[..., Config]) -> None:
    few, more = (
        {n for n in identities(500) if is_unseen(n, changed(unseen_questions=fraction))}
        for fraction in (0.1, 0.3)
    )
    assert few < more


def test_surveys_that_hold_a_question_agree_on_it(changed: Callable[..., Config]) -> None:
    config = changed(unseen_questions=0.3)
    whole = generate_survey(num_groups=4, num_questions=80)
    # A node's own file: every second question, in another order, of one group.
    group = next(iter(whole.answers))
    answers = whole.answers[group]
    kept = [row for row, position in enumerate(answers.question_Q) if position % 2][::-1]
    questions = tuple(whole.questions[answers.question_Q[row]] for row in kept)
    own = Survey(
        "own",
        questions,
        {group: replace(answers, question_Q=np.arange(len(kept)), share_QO=answers.share_QO[kept])},
    )
    tasks = [group_tasks(survey, [group], config)[group] for survey in (whole, own)]
    for part in ("seen", "unseen"):
        in_whole, in_own = (
            {survey.questions[n].id for n in getattr(task, part).question_Q.tolist()}
            for survey, task in zip((whole, own), tasks, strict=True)
        )
        assert in_own
        assert in_own < in_whole


def test_seen_and_unseen_part_every_groups_questions_alike(default: Config) -> None:
    survey = generate_survey(num_groups=5, num_questions=100)
    tasks = group_tasks(survey, list(survey.answers), default)
    trained: set[int] = set()
    withheld: set[int] = set()
    for name, task in tasks.items():
        seen, unseen = (set(part.question_Q.tolist()) for part in (task.seen, task.unseen))
        assert not seen & unseen
        assert seen | unseen == set(survey.answers[name].question_Q.tolist())
        trained |= seen
        withheld |= unseen
    assert not trained & withheld
    assert count_seen(survey, default) == {name: len(task.seen) for name, task in tasks.items()}


# Tensors


def test_tensors_hold_the_surveys_shares_and_rows(
    make_survey: Callable[..., Survey], changed: Callable[..., Config]
) -> None:
    survey = make_survey(
        {
            "A": {"q1": [0.25, 0.75], "q2": [0.5, 0.25, 0.25], "q4": [1, 0]},
            "B": {"q3": [0, 0, 0, 1], "q2": [0, 1, 0]},
        }
    )
    tasks = group_tasks(survey, ["B", "A"], changed(unseen_questions=0.0))
    assert list(tasks) == ["B", "A"]
    a, b = tasks["A"].seen, tasks["B"].seen
    assert tasks["A"].name == "A"
    assert len(tasks["A"].unseen) == 0
    # Positions in the survey: q1, q2, q4 as A brings them, then q3.
    assert a.question_Q.tolist() == [0, 1, 2]
    assert a.share_QO.tolist() == [[0.25, 0.75, 0, 0], [0.5, 0.25, 0.25, 0], [1, 0, 0, 0]]
    assert a.mask_QO.sum(-1).tolist() == [2, 3, 2]
    assert a.row_QO.tolist() == [[0, 1, 0, 0], [2, 3, 4, 0], [5, 6, 0, 0]]
    assert b.question_Q.tolist() == [1, 3]
    assert b.share_QO.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert b.row_QO.tolist() == [[2, 3, 4, 0], [7, 8, 9, 10]]
    assert b.share_QO.dtype == torch.float32


def test_a_whole_survey_comes_through_in_double_precision(changed: Callable[..., Config]) -> None:
    survey = generate_survey(num_groups=4, num_questions=60)
    config = replace(changed(), precision="float64")
    for name, task in group_tasks(survey, list(survey.answers), config).items():
        both = task.seen.join(task.unseen)
        both = both.take(both.question_Q.argsort())
        expected = survey.answers[name].share_QO
        assert both.share_QO.dtype == torch.float64
        assert np.array_equal(both.share_QO[:, : expected.shape[1]].numpy(), expected)
        assert not both.share_QO[~both.mask_QO].any()


def test_rows_point_at_the_questions_own_texts(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config()
    survey = load_survey(config.data)
    table = survey_table(survey, config)
    name = next(iter(survey.answers))
    task = group_tasks(survey, [name], config)[name]
    rows, mask = task.seen.row_QO, task.seen.mask_QO
    alone = Survey("alone", tuple(survey.questions[n] for n in task.seen.question_Q.tolist()), {})
    assert torch.equal(table[rows[mask]], survey_table(alone, config))


def test_a_text_that_two_questions_share_has_one_row(changed: Callable[..., Config]) -> None:
    survey = generate_survey(num_groups=2, num_questions=3)
    first = survey.questions[0]
    twice = replace(survey, questions=(*survey.questions[:2], replace(first, id="again")))
    everyone = {
        name: replace(answers, question_Q=np.arange(3), share_QO=np.eye(3, 6))
        for name, answers in survey.answers.items()
    }
    task = group_tasks(
        replace(twice, answers=everyone), list(everyone), changed(unseen_questions=0.0)
    )[next(iter(everyone))]
    assert torch.equal(task.seen.row_QO[0], task.seen.row_QO[2])


def test_positions_are_ordinal_values_scaled_to_a_unit(changed: Callable[..., Config]) -> None:
    questions = (
        Question("q1", "Safer?", ("Safer", "Less", "Neither"), (1, 2, 1.5)),
        Question("q2", "Which?", ("A", "B")),
        Question("q3", "How far?", ("Much", "Some", "Little", "Not"), (8, 6, 4, 0)),
        Question("q4", "Equal?", ("A", "B"), (1, 1)),
    )
    answers = Answers(np.arange(4), np.full((4, 4), 0.25))
    survey = Survey("made up", questions, {"A": answers})
    task = group_tasks(survey, ["A"], changed(unseen_questions=0.0))["A"]
    expected = [[0, 1, 0.5, 0], [math.nan] * 2 + [0, 0], [1, 0.75, 0.5, 0], [math.nan] * 2 + [0, 0]]
    np.testing.assert_array_equal(task.seen.position_QO.numpy(), expected)
    assert task.seen.position_QO.dtype == torch.float64


# Where data come from


ROW: dict[str, Any] = {
    "question": "How far?",
    "options": ["Far", "Not"],
    "group": "A",
    "shares": [0.5, 0.5],
}


def test_the_wasserstein_distance_leaves_out_what_has_no_order(
    write_survey: Callable[..., Path],
) -> None:
    rows = [
        {"question_id": "q1", **ROW, "ordinal": ""},
        {"question_id": "q2", **ROW, "ordinal": [1, 2]},
        {"question_id": "q3", **ROW, "ordinal": [2, 2]},
        {"question_id": "q4", **ROW, "ordinal": [3, 1], "shares": [0.25, 0.75]},
        {"question_id": "q1", **ROW, "ordinal": "", "group": "B"},
        {"question_id": "q4", **ROW, "ordinal": [3, 1], "group": "B"},
    ]
    overrides = ["data=custom", f"data.path={write_survey(rows)}"]
    assert len(load_survey(load_config(overrides, None).data).questions) == 4
    ordered = load_config([*overrides, "data.distance=wasserstein"], None)
    survey = load_survey(ordered.data)
    assert [question.id for question in survey.questions] == ["q2", "q4"]
    assert survey.dropped == {
        "question without ordinal values": 1,
        "question whose ordinal values are all equal": 1,
    }
    assert survey.answers["A"].question_Q.tolist() == [0, 1]
    assert survey.answers["A"].share_QO.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert survey.answers["B"].question_Q.tolist() == [1]
    none = [*overrides[:1], f"data.path={write_survey(rows[:1], 'none.csv')}"]
    with pytest.raises(ConfigError, match=r"none\.csv has none: give .* data.distance=jensen"):
        load_survey(load_config([*none, "data.distance=wasserstein"], None).data)


def test_the_configured_survey_is_loaded(
    tmp_path: Path, write_survey: Callable[..., Path], default: Config
) -> None:
    path = write_survey(
        [
            {
                "question_id": "q1",
                "question": "Good?",
                "options": ["Yes", "No"],
                "group": "A",
                "shares": [0.5, 0.5],
            }
        ]
    )
    own = load_config(["data=custom", f"data.path={path}"], None).data
    survey = load_survey(own)
    assert survey.questions == (Question("q1", "Good?", ("Yes", "No")),)
    assert list(survey.answers) == list(read_survey(path, "custom").answers)
    assert len(load_survey(default.data).answers) == 14
    with pytest.raises(SurveyError, match="'selections' is missing"):
        load_survey(load_config(["data=globalopinionqa", f"data.path={path}"], None).data)


def test_tables_lie_in_the_configured_folder_or_the_users_cache(
    tmp_path: Path, default: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_directory(replace(default, cache_dir="/some/where")) == Path("/some/where")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_directory(default) == tmp_path / "xdg" / "plurallm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory(default) == tmp_path / ".cache" / "plurallm"


def test_a_survey_file_is_read_once_and_anew_when_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "survey.csv"
    head = "question_id,question,options,group,shares\n"
    path.write_text(head + 'q,Why?,"[""a"", ""b""]",G,"[0.5, 0.5]"\n')
    config = load_config(["data=custom", f"data.path={path}"], None).data
    first = load_survey(config)
    assert load_survey(config) is first
    path.write_text(path.read_text().replace("Why", "How"))
    os.utime(path, ns=(0, 0))
    assert load_survey(config).questions[0].text == "How?"
