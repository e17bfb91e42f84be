"""Scores: against the question-by-question form, and cells and fairness by hand."""

import math

import numpy as np
import pytest
import torch
from reference import PlainTransformer, evaluate_by_question, wasserstein
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.config.randomness import generator
from plurallm.data.preferences import split_context
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.baselines.plain import uniform
from plurallm.evaluate.scores import (
    GroupScore,
    fairness,
    model_predictor,
    predict_draws,
    score_group,
    summarize,
)
from plurallm.learn.divergence import SQRT_LN2
from plurallm.learn.transformer import PreferenceTransformer


@pytest.fixture
def local(tmp_path):
    config = load_config([*TINY, f"cache_dir={tmp_path}"], None)
    survey = load_survey(config.data)
    tasks = group_tasks(survey, list(survey.answers), config)
    table = survey_table(survey, config)
    return config, tasks, table, PreferenceTransformer(table.shape[1], config.model, seed=0)


def test_equals_the_question_by_question_form(local):
    config, tasks, table, model = local
    plain = PlainTransformer(table.shape[1], config.model)
    plain.copy_weights(model)
    for name, task in tasks.items():
        score = score_group(task, model_predictor(model, table), config)
        draws = generator(config.seed, "evaluation", name, 0)
        context, rest = split_context(task.seen, config.evaluation.context_questions, draws)
        assert score.seen_questions == len(rest) == len(task.seen) - 10
        slow = [evaluate_by_question(plain, table, context, part) for part in (rest, task.unseen)]
        assert score.seen_distance == pytest.approx([slow[0]], abs=1e-6)
        assert score.unseen_distance == pytest.approx([slow[1]], abs=1e-6)


def test_the_targets_answers_are_hidden_from_the_predictor(local):
    config, tasks, *_ = local
    task = next(iter(tasks.values()))

    def spy(context, target):
        assert context.share_QO.sum() > 0
        assert target.share_QO.abs().sum() == 0
        return target.mask_QO / target.mask_QO.sum(-1, keepdim=True)

    score_group(task, spy, config)


def test_perfect_and_opposite_predictions_score_one_and_zero(local):
    config, tasks, *_ = local
    task = next(iter(tasks.values()))
    everything = task.seen.join(task.unseen)
    truth = dict(zip(everything.question_Q.tolist(), everything.share_QO, strict=True))

    def perfect(_, target):
        return torch.stack([truth[question] for question in target.question_Q.tolist()])

    score = score_group(task, perfect, config)
    assert (*score.seen_distance, *score.unseen_distance) == pytest.approx((0, 0), abs=1e-3)


def test_a_prediction_that_is_not_a_number_raises_and_names_the_group(local):
    config, tasks, *_ = local
    name, task = next(iter(tasks.items()))
    with pytest.raises(ValueError, match=name):
        score_group(task, lambda _, target: target.share_QO * torch.nan, config)


def test_draws_give_one_score_each_and_the_first_is_that_of_one_draw(local):
    config, tasks, table, model = local
    task = next(iter(tasks.values()))
    predict = model_predictor(model, table)
    several = load_config([*TINY, "evaluation.draws=3"], None)
    one, three = score_group(task, predict, config), score_group(task, predict, several)
    assert len(three.seen_distance) == 3
    assert three.seen_distance[0] == one.seen_distance[0]
    assert len(set(three.seen_distance)) == 3


def test_the_wasserstein_distance_is_over_the_questions_own_ordinal_values(tmp_path):
    config = load_config([*TINY, "data.distance=wasserstein", "data.num_questions=100"], None)
    survey = load_survey(config.data)
    name = next(iter(survey.answers))
    task = group_tasks(survey, [name], config)[name]
    (draw,) = predict_draws(task, uniform, config)
    assert len(draw.distance_Q) == len(draw.target) > 20
    for row, number in enumerate(draw.target.question_Q.tolist()):
        ordinal = np.array(survey.questions[number].ordinal)
        place_O = (ordinal - ordinal.min()) / (ordinal.max() - ordinal.min())
        true_O = draw.target.share_QO[row, : len(place_O)].double().numpy()
        even_O = np.full(len(place_O), 1 / len(place_O))
        slow = wasserstein(true_O, even_O, place_O)
        assert draw.distance_Q[row].item() == pytest.approx(slow, abs=1e-6)
    score = score_group(task, uniform, config)
    seen_Q = draw.distance_Q[: draw.seen_questions]
    assert score.seen_distance == pytest.approx([seen_Q.mean().item()])


def test_only_the_jensen_shannon_distance_has_a_base():
    scores = {"a": GroupScore((0.25,), (0.5,), 3, 1), "b": GroupScore((0.75,), (), 1, 0)}
    result = summarize(scores, {"a": "train", "b": "train"}, "wasserstein")
    cell = result["cells"]["train_groups.seen_questions"]
    assert cell["alignment"] == pytest.approx(0.5)
    assert cell["micro"] == pytest.approx(1 - (0.25 * 3 + 0.75) / 4)
    assert result["groups"]["a"]["unseen_questions"] == {"alignment": 0.5, "questions": 1}
    assert "_e" not in "".join(key for key in cell)


def test_fairness_by_hand():
    # Mean 0.7, population standard deviation 0.1.
    assert fairness([0.6, 0.8]) == pytest.approx(
        {"worst": 0.6, "gap": 0.2, "cov": 1 / 7, "fi": 1 / (1 + 1 / 49)}
    )
    assert fairness([0.5]) == pytest.approx({"worst": 0.5, "gap": 0, "cov": 0, "fi": 1})


def test_cells_by_hand():
    scores = {
        "b": GroupScore((0.4, 0.2), (0.5, 0.5), 10, 2),
        "a": GroupScore((0.1, 0.1), (), 30, 0),
        "c": GroupScore((0.2, 0.4), (0.6, 0.2), 5, 5),
    }
    result = summarize(scores, {"a": "train", "b": "train", "c": "held_out"}, "jensen_shannon")
    cells, groups = result["cells"], result["groups"]
    seen = cells["train_groups.seen_questions"]
    assert seen["alignment"] == pytest.approx(0.8)
    assert seen["alignment_e"] == pytest.approx(1 - 0.2 * math.sqrt(math.log(2)))
    assert seen["micro"] == pytest.approx(1 - (0.3 * 10 + 0.1 * 30) / 40)
    assert (seen["worst"], seen["gap"]) == pytest.approx((0.7, 0.2))
    assert (seen["groups"], seen["questions"]) == (2, 40)
    # Macro over the two contexts: 0.75 and 0.85.
    assert seen["spread"] == pytest.approx(0.1 / math.sqrt(2))
    assert cells["train_groups.unseen_questions"]["groups"] == 1
    assert cells["held_out_groups.unseen_questions"]["alignment"] == pytest.approx(0.6)
    assert list(groups) == ["a", "b", "c"]
    assert "unseen_questions" not in groups["a"]
    assert groups["c"]["seen_questions"]["alignment_e"] == pytest.approx(1 - 0.3 * SQRT_LN2)


def test_a_cell_without_groups_is_left_out():
    result = summarize({"a": GroupScore((0.1,), (), 3, 0)}, {"a": "train"}, "jensen_shannon")
    assert list(result["cells"]) == ["train_groups.seen_questions"]
    assert "spread" not in result["cells"]["train_groups.seen_questions"]
