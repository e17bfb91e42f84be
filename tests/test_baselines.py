"""Predictors without a network: numbers worked by hand on tiny surveys."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from measures.bench import peak_memory
from scipy.spatial.distance import jensenshannon
from torch.nn.functional import normalize

from plurallm.config.compose import load_config
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences
from plurallm.data.roles import Roles, is_unseen
from plurallm.data.survey import Survey
from plurallm.data.tasks import GroupTask, group_tasks
from plurallm.evaluate.baselines.neighbours import neighbours
from plurallm.evaluate.baselines.plain import context_mean, uniform
from plurallm.evaluate.baselines.pooled_answers import (
    answer_pool,
    mixture,
    training_mean,
    unanswered_pairs,
)
from plurallm.evaluate.baselines.scoring import baseline_predictors, score_baselines

MakeSurvey = Callable[..., Survey]

# Base 2: half of a distribution in one option against all of it there.
HALF_AND_WHOLE = math.sqrt((math.log(4 / 3) / 2 + math.log(4 / 3) / 4) / math.log(2))


@pytest.fixture(scope="module")
def config() -> Config:
    """All questions seen, contexts of one question."""
    default = load_config([], None)
    return replace(
        default,
        precision="float64",
        data=replace(default.data, unseen_questions=0.0),
        training=replace(default.training, context_questions=[1, 1], target_questions=[1, 1]),
        evaluation=replace(default.evaluation, context_questions=1),
    )


@pytest.fixture
def tasks(make_survey: MakeSurvey, config: Config) -> dict[str, GroupTask]:
    survey = make_survey(
        {
            "A": {"q1": [1, 0], "q2": [0.5, 0.5], "q3": [0.2, 0.3, 0.5]},
            "B": {"q1": [0, 1], "q2": [0.25, 0.75], "q3": [0.4, 0.3, 0.3]},
            "C": {"q1": [0.5, 0.5], "q3": [0.6, 0, 0.4]},
            "D": {"q1": [0.3, 0.7], "q2": [0.9, 0.1], "q4": [0, 0, 0, 1]},
        }
    )
    return group_tasks(survey, list(survey.answers), config)


def rows(task: GroupTask, *positions: int) -> Preferences:
    return task.seen.take(torch.tensor(positions, dtype=torch.int64))


def test_uniform_spreads_over_the_options_that_exist(tasks: dict[str, GroupTask]) -> None:
    target = tasks["D"].seen
    assert uniform(rows(tasks["D"], 0), target).tolist() == [
        [0.5, 0.5, 0, 0],
        [0.5, 0.5, 0, 0],
        [0.25, 0.25, 0.25, 0.25],
    ]
    (third,) = uniform(rows(tasks["A"], 0), rows(tasks["A"], 2)).tolist()
    assert third == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


def test_the_own_context_is_averaged_over_questions_of_as_many_options(
    tasks: dict[str, GroupTask],
) -> None:
    a = tasks["A"]
    both = context_mean(rows(a, 0, 1, 2), rows(tasks["D"], 0, 2))
    # Two options: mean of (1, 0) and (1/2, 1/2). Four options: no such context, so uniform.
    assert both.tolist() == [[0.75, 0.25, 0, 0], [0.25, 0.25, 0.25, 0.25]]
    (third,) = context_mean(rows(a, 0, 2), rows(tasks["B"], 2)).tolist()
    assert third == pytest.approx([0.2, 0.3, 0.5, 0])


def test_the_own_context_does_not_look_at_the_targets_answers(
    tasks: dict[str, GroupTask],
) -> None:
    context, target = rows(tasks["A"], 0), rows(tasks["B"], 0, 1, 2)
    assert torch.equal(
        context_mean(context, target), context_mean(context, target.without_shares())
    )


def test_training_groups_are_averaged_question_by_question(tasks: dict[str, GroupTask]) -> None:
    predict = training_mean(answer_pool(tasks, ["A", "B", "C"]))
    predicted = predict(rows(tasks["D"], 0), tasks["D"].seen).tolist()
    assert predicted[0] == pytest.approx([0.5, 0.5, 0, 0])  # A, B, C
    assert predicted[1] == pytest.approx([0.375, 0.625, 0, 0])  # A, B
    assert predicted[2] == [0.25, 0.25, 0.25, 0.25]  # nobody else was asked


def test_a_training_group_is_left_out_of_its_own_prediction(tasks: dict[str, GroupTask]) -> None:
    predict = training_mean(answer_pool(tasks, ["A", "B", "C"]).without("A"))
    predicted = predict(rows(tasks["A"], 0), tasks["A"].seen).tolist()
    assert predicted[0] == pytest.approx([0.25, 0.75, 0, 0])  # B, C
    assert predicted[1] == pytest.approx([0.25, 0.75, 0, 0])  # B
    assert predicted[2] == pytest.approx([0.5, 0.15, 0.35, 0])  # B, C
    alone = training_mean(answer_pool(tasks, ["A"]).without("A"))
    assert torch.equal(
        alone(rows(tasks["A"], 0), tasks["A"].seen), uniform(tasks["A"].seen, tasks["A"].seen)
    )


def test_scores_worked_by_hand(make_survey: MakeSurvey, config: Config) -> None:
    # A group answers all its questions alike: whichever become context, the scores are these.
    survey = make_survey(
        {
            "A": {f"q{n}": [1, 0] for n in range(4)},  # the last one was asked of nobody else
            "B": {f"q{n}": [0.5, 0.5] for n in range(3)},
            "C": {f"q{n}": [0, 1] for n in range(3)},
        }
    )
    tasks = group_tasks(survey, list(survey.answers), config)
    scores = score_baselines(tasks, Roles(("A", "B"), ("C",), {}), torch.eye(8), config)
    # C's (0, 1) against the mean (3/4, 1/4) of A and B: the middle is (3/8, 5/8).
    divergence = (math.log(8 / 5) + 0.75 * math.log(2) + 0.25 * math.log(2 / 5)) / 2
    expected = {
        "uniform": {"A": HALF_AND_WHOLE, "B": 0, "C": HALF_AND_WHOLE},
        "context_mean": {"A": 0, "B": 0, "C": 0},
        "mean": {
            "A": HALF_AND_WHOLE,  # B alone, and where B was not asked uniform
            "B": HALF_AND_WHOLE,  # A alone
            "C": math.sqrt(divergence / math.log(2)),
        },
    }
    assert set(scores) == set(expected) | {"mixture", "neighbours"}
    for baseline, distances in expected.items():
        for group, distance in distances.items():
            assert scores[baseline]["groups"][group] == {
                "role": "held_out" if group == "C" else "train",
                "seen_questions": pytest.approx(
                    {
                        "alignment": 1 - distance,
                        "alignment_e": 1 - distance * math.sqrt(math.log(2)),
                        "questions": 3 if group == "A" else 2,
                    },
                    abs=1e-7,
                ),
            }
        cells = scores[baseline]["cells"]
        assert set(cells) == {"train_groups.seen_questions", "held_out_groups.seen_questions"}
        assert cells["train_groups.seen_questions"]["alignment"] == pytest.approx(
            1 - (distances["A"] + distances["B"]) / 2, abs=1e-7
        )


def test_unseen_questions_have_their_own_cell(make_survey: MakeSurvey, config: Config) -> None:
    config = replace(config, data=replace(config.data, unseen_questions=0.5, split_by="id"))
    names = [f"q{number}" for number in range(40)]
    seen = [name for name in names if not is_unseen(name, config)][:3]
    unseen = [name for name in names if is_unseen(name, config)][:2]
    answers = {name: [1, 0] for name in seen} | {name: [0.75, 0.25] for name in unseen}
    survey = make_survey({"A": answers, "B": answers})
    tasks = group_tasks(survey, ["A", "B"], config)
    scores = score_baselines(tasks, Roles(("A",), ("B",), {}), torch.eye(10), config)
    # The mean knows the withheld answers; the own context, of seen questions, does not.
    to_uniform, to_seen = (
        float(jensenshannon([0.75, 0.25], other, base=2)) for other in ([0.5, 0.5], [1, 0])
    )
    for baseline, seen_distance, unseen_distance in (
        ("uniform", HALF_AND_WHOLE, to_uniform),
        ("context_mean", 0, to_seen),
        ("mean", 0, 0),
    ):
        of_group = scores[baseline]["groups"]["B"]
        for column, distance in (("seen", seen_distance), ("unseen", unseen_distance)):
            cell = of_group[f"{column}_questions"]
            assert cell["alignment"] == pytest.approx(1 - distance, abs=1e-7)
            assert cell["questions"] == 2


def test_the_mixture_fits_its_weights_to_the_context(
    make_survey: MakeSurvey, config: Config
) -> None:
    survey = make_survey(
        {
            "A": {"q1": [1, 0], "q2": [0.2, 0.8], "q3": [0, 1]},
            "B": {"q1": [0, 1], "q2": [0.6, 0.4], "q4": [1, 0]},
            "C": {"q1": [0.75, 0.25], "q2": [0.5, 0.5], "q3": [1, 0], "q5": [0.5, 0.5]},
        }
    )
    tasks = group_tasks(survey, list(survey.answers), config)
    predict = mixture(answer_pool(tasks, ["A", "B"]))
    predicted = predict(rows(tasks["C"], 0), tasks["C"].seen).tolist()
    # 2 (a - 3/4)^2 + 0.3 * 2 (a - 1/2)^2 is least at a = 0.9 / 1.3, the weight of A.
    a = 0.9 / 1.3
    assert predicted[0] == pytest.approx([a, 1 - a], abs=1e-4)
    assert predicted[1] == pytest.approx(
        [0.2 * a + 0.6 * (1 - a), 0.8 * a + 0.4 * (1 - a)], abs=1e-4
    )
    assert predicted[2] == pytest.approx([0, 1])  # A alone answered
    assert predicted[3] == [0.5, 0.5]  # nobody did


def test_a_mixture_of_one_who_answers_alike_is_that_one(
    make_survey: MakeSurvey, config: Config
) -> None:
    answers = {f"q{n}": [n / 50, 1 - n / 50] for n in range(50)}
    other = {name: [1 - p, 1 - q] for name, (p, q) in answers.items()}
    survey = make_survey({"A": answers, "B": other, "C": answers})
    tasks = group_tasks(survey, ["A", "B", "C"], config)
    predict = mixture(answer_pool(tasks, ["A", "B"]))
    predicted = predict(tasks["C"].seen, tasks["C"].seen)
    assert torch.allclose(predicted, tasks["C"].seen.share_QO.double(), atol=0.02)


def test_unanswered_pairs_are_those_that_nobody_else_answered(tasks: dict[str, GroupTask]) -> None:
    pool = answer_pool(tasks, ["A", "B"])
    assert unanswered_pairs(tasks, pool) == {"D": (3,)}
    assert unanswered_pairs(tasks, answer_pool(tasks, ["A"])) == {"A": (0, 1, 2), "D": (3,)}


def test_neighbours_use_the_nearest_known_point_and_seen_questions_only(
    make_survey: MakeSurvey, config: Config
) -> None:
    config = replace(config, data=replace(config.data, unseen_questions=0.5, split_by="id"))
    names = [f"q{number}" for number in range(40)]
    seen = [name for name in names if not is_unseen(name, config)][:3]
    unseen = next(name for name in names if is_unseen(name, config))
    own = {seen[0]: [0.5, 0.5], seen[1]: [0.5, 0.5], seen[2]: [0.5, 0.5], unseen: [0.5, 0.5]}
    others = {seen[0]: [0.9, 0.1], seen[1]: [0.3, 0.7], seen[2]: [0.4, 0.6], unseen: [0, 1]}
    survey = make_survey({"A": others, "B": own})
    tasks = group_tasks(survey, ["A", "B"], config)
    (unseen_rows,), seen_rows = tasks["B"].unseen.row_QO.tolist(), tasks["B"].seen.row_QO.tolist()
    table_RD = torch.zeros(8, 8)
    for question, question_rows in enumerate([*seen_rows, unseen_rows]):
        for option, row in enumerate(question_rows):
            # Options point in two directions; the unseen question lies on the first seen one.
            table_RD[row, 4 * option + question % 3] = 1.0
    predict = neighbours(answer_pool(tasks, ["A"]), normalize(table_RD))
    (predicted,) = predict(rows(tasks["B"], 2), tasks["B"].unseen.without_shares()).tolist()
    assert predicted == pytest.approx([0.9, 0.1], abs=1e-6)  # the unseen answer itself is (0, 1)
    # A context answer of the group's own stands in for the others' answer to that question.
    (predicted,) = predict(rows(tasks["B"], 0), tasks["B"].unseen.without_shares()).tolist()
    assert predicted == pytest.approx([0.5, 0.5], abs=1e-6)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
def test_baselines_of_many_groups_share_one_table(make_survey: MakeSurvey, config: Config) -> None:
    names = [f"group {number}" for number in range(40)]
    survey = make_survey({name: {"q1": [0.5, 0.5], "q2": [0.9, 0.1]} for name in names})
    tasks = group_tasks(survey, names, config)
    table_RD = torch.ones(2000, 2500)
    with peak_memory(torch.device("cpu")) as found:
        predictors = baseline_predictors(tasks, Roles(tuple(names), (), {}), table_RD)
    assert len(predictors["neighbours"]) == 40
    assert found[0] < 5 * table_RD.nbytes / 1e6
