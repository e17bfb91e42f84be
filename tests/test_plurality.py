"""Plurality: against the pair-by-pair form, and by hand."""

import json

import pytest
from reference import plurality_by_pair
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.data.roles import Roles
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.plurality import plurality_lines, score_plurality
from plurallm.evaluate.scores import model_predictor
from plurallm.federate.in_process import run_in_process
from plurallm.learn.transformer import PreferenceTransformer

CELL = "held_out_groups.seen_questions"


@pytest.fixture
def config(tmp_path):
    return load_config([*TINY, f"cache_dir={tmp_path}", "evaluation.context_questions=1"], None)


@pytest.fixture
def two(make_survey, config):
    """Two groups, of which the first always picks one option of two, the second the other."""
    answers = {
        group: {f"q{n}": shares for n in range(40)}
        for group, shares in {"One": (1.0, 0.0), "Two": (0.0, 1.0)}.items()
    }
    return group_tasks(make_survey(answers), ["One", "Two"], config)


ROLES = Roles((), ("One", "Two"), {})


def of_context(context, target):
    """Answer every question as the group answered its context's first one."""
    return context.share_QO[:1].expand(len(target), -1)


def half(_, target):
    return target.mask_QO / 2.0


def test_a_predictor_that_follows_its_context_tells_groups_apart(two, config):
    score = score_plurality(two, ROLES, dict.fromkeys(two, of_context), config)[CELL]
    assert score == pytest.approx(
        {
            **{"own": 1, "swapped": 0, "gain": 1, "low": 1, "high": 1, "correlation": 1},
            **{
                "slope": 1,
                "between": 1,
                "true_between": 1,
                "assigned": 1,
                "pairs": 1,
                "tells_apart": True,
            },
            "questions": score["questions"],
        }
    )
    assert 30 < score["questions"] <= 38  # neither context question, and no unseen one


def test_the_population_s_mean_does_not(two, config):
    scores = score_plurality(two, ROLES, dict.fromkeys(two, half), config)
    score = scores[CELL]
    assert score["own"] == score["swapped"] < 1
    assert (score["gain"], score["low"], score["high"], score["between"]) == (0, 0, 0, 0)
    assert (score["correlation"], score["slope"], score["tells_apart"]) == (0, 0, False)
    (line, *_) = plurality_lines({CELL: score}, {CELL: "held out"})
    assert line.startswith("held out: does not tell groups apart.")


def test_predictions_the_wrong_way_round_have_a_negative_gain(two, config):
    def reverse(context, target):
        return 1 - of_context(context, target)

    score = score_plurality(two, ROLES, dict.fromkeys(two, reverse), config)[CELL]
    assert (score["gain"], score["correlation"], score["slope"]) == pytest.approx((-1, -1, -1))
    assert not score["tells_apart"]


def test_equals_the_pair_by_pair_form(tmp_path):
    settings = ["data.num_groups=5", "precision=float64", f"cache_dir={tmp_path}"]
    config = load_config([*TINY, *settings], None)
    survey = load_survey(config.data)
    tasks = group_tasks(survey, list(survey.answers), config)
    table = survey_table(survey, config)
    model = PreferenceTransformer(table.shape[1], config.model, seed=0).double()
    names = list(tasks)
    roles = Roles(tuple(names[:2]), tuple(names[2:]), {})
    predict = model_predictor(model, table)
    scores = score_plurality(tasks, roles, dict.fromkeys(names, predict), config)
    assert set(scores) == {
        f"{row}.{column}_questions"
        for row in ("train_groups", "held_out_groups")
        for column in ("seen", "unseen")
    }
    for column in ("seen", "unseen"):
        slow = plurality_by_pair([tasks[name] for name in names[2:]], predict, config, column)
        fast = scores[f"held_out_groups.{column}_questions"]
        assert {key: fast[key] for key in slow} == pytest.approx(slow, abs=1e-8)
        assert fast["low"] <= fast["gain"] <= fast["high"]


def test_predictors_of_their_own_give_what_a_shared_one_gives(tmp_path):
    config = load_config([*TINY, f"cache_dir={tmp_path}"], None)
    survey = load_survey(config.data)
    tasks = group_tasks(survey, list(survey.answers), config)
    table = survey_table(survey, config)
    model = PreferenceTransformer(table.shape[1], config.model, seed=0)
    roles = Roles((), tuple(tasks), {})
    shared = score_plurality(
        tasks, roles, dict.fromkeys(tasks, model_predictor(model, table)), config
    )
    own = {name: model_predictor(model, table) for name in tasks}
    assert score_plurality(tasks, roles, own, config)[CELL] == pytest.approx(shared[CELL])


def test_a_simulated_run_records_it(tiny_overrides, tmp_path):
    run_in_process([*tiny_overrides, "data.held_out_fraction=0.5"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(CELL in json.loads(line)["plurality"] for line in lines)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["plurality"] == json.loads(lines[-1])["plurality"]
    assert CELL in summary["baselines"]["mixture"]["plurality"]
    assert summary["baselines"]["uniform"]["plurality"][CELL]["gain"] == 0


def test_no_shared_question_is_no_score(make_survey, config):
    answers = {group: {f"{group}{n}": (1.0, 0.0) for n in range(20)} for group in ("One", "Two")}
    tasks = group_tasks(make_survey(answers), ["One", "Two"], config)
    assert score_plurality(tasks, ROLES, dict.fromkeys(tasks, half), config) == {}
