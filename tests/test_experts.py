"""Experts: a run that ends with them, what data holders allow, and what predicts a group."""

import json

import numpy as np
import pytest
import torch
import yaml
from reference import mix_by_hand
from safetensors.torch import load_file
from tiny import TINY

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.config.randomness import generator
from plurallm.data.preferences import split_context
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.baselines.plain import uniform
from plurallm.evaluate.experts import (
    ensemble_predictor,
    expert_config,
    expert_predictors,
    mix_members,
    population_predictor,
)
from plurallm.evaluate.scores import model_predictor, score_group
from plurallm.federate.in_process import run_in_process
from plurallm.learn.ensemble import make_ensemble
from plurallm.learn.transformer import PreferenceTransformer

EXPERTS = ["personal=experts", "personal.steps=100"]


def read_yaml(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def read(folder, name):
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    settings = ["data.num_groups=6", "federation.rounds=2", "evaluation.every=1"]
    overrides = [*TINY, *settings, *EXPERTS, f"output_dir={folder / 'run'}", f"cache_dir={folder}"]
    run_in_process(overrides)
    return folder / "run", overrides


def saved(run):
    """Survey, weights and predictors of a run."""
    folder, overrides = run
    config = load_config(overrides, None)
    survey = load_survey(config.data)
    roles = assign_roles(count_seen(survey, config), config)
    table = survey_table(survey, config)
    model = PreferenceTransformer(table.shape[1], config.model, config.seed)
    weights = load_file(folder / "experts" / "model.safetensors")
    tasks = group_tasks(survey, roles.groups, config)
    groups = read(folder, "experts/config.json")["groups"]
    return config, roles, tasks, table, model, weights, groups


def test_without_a_number_experts_take_as_many_steps_as_the_rounds(tmp_path):
    rounds = ["federation.rounds=7", "training.steps_per_round=3", "personal=experts"]
    training = expert_config(load_config([*TINY, *rounds], None)).training
    assert training.steps_per_round == 21
    given = expert_config(load_config([*TINY, *rounds, "personal.steps=5"], None)).training
    assert given.steps_per_round == 5


def test_every_training_group_has_an_expert_that_differs_from_the_others(run):
    _, roles, _, _, model, weights, groups = saved(run)
    assert groups == list(roles.train)
    final = load_file(run[0] / "model" / "model.safetensors")
    assert set(weights) == set(final) == set(model.state_dict())
    for name, stacked in weights.items():
        assert stacked.shape == (len(groups), *final[name].shape)
    head = weights["head.2.weight"]
    assert len({tuple(own.flatten().tolist()) for own in head}) == len(groups)


def test_the_summary_s_scores_are_those_of_the_saved_experts(run):
    config, roles, tasks, table, model, weights, groups = saved(run)
    summary = read(run[0], "summary.json")
    predict = expert_predictors(model, weights, groups, roles.groups, table)
    for name in roles.groups:
        score = score_group(tasks[name], predict[name], config)
        told = summary["groups"][name]["seen_questions"]["alignment"]
        assert told == pytest.approx(1 - score.seen_distance[0], abs=1e-6)
    lines = (run[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert summary["trunk_cells"] == json.loads(lines[-1])["cells"] != summary["cells"]
    assert summary["experts"]["declined"] == {}


def test_what_a_context_adds_is_known_where_no_group_sees_another(run):
    config, roles, tasks, table, model, weights, _ = saved(run)
    summary = read(run[0], "summary.json")
    alike = population_predictor(model, weights, table)
    cell = [1 - score_group(tasks[name], alike, config).seen_distance[0] for name in roles.held_out]
    told = summary["population_cells"]["held_out_groups.seen_questions"]["alignment"]
    assert told == pytest.approx(sum(cell) / len(cell), abs=1e-6)
    assert told < summary["cells"]["held_out_groups.seen_questions"]["alignment"]


def test_experts_follow_the_context_where_the_trunk_does_not(run):
    summary = read(run[0], "summary.json")
    cell = "held_out_groups.seen_questions"
    assert summary["plurality"][cell]["between"] > 2 * summary["trunk_plurality"][cell]["between"]


def test_one_process_gives_the_same_experts_as_one_node(run, tmp_path):
    folder, overrides = run
    again = [text for text in overrides if not text.startswith("output_dir")]
    run_in_process([*again, f"output_dir={tmp_path / 'run'}", "federation.nodes=1"])
    first, second = (
        load_file(place / "experts" / "model.safetensors") for place in (folder, tmp_path / "run")
    )
    for name, stacked in first.items():
        np.testing.assert_array_equal(stacked.numpy(), second[name].numpy())


def test_mixture_equals_the_slow_form(run):
    config, roles, tasks, table, _model, weights, groups = saved(run)
    members = []
    for row in range(len(groups)):
        member = PreferenceTransformer(table.shape[1], config.model, 0).double()
        member.load_state_dict({name: stacked[row].double() for name, stacked in weights.items()})
        members.append(model_predictor(member, table))
        members_like = member
    task = tasks[roles.held_out[0]]
    context, rest = split_context(task.seen, 10, generator(1, "evaluation", task.name, 0))
    context = context.join(context.take(torch.zeros(0, dtype=torch.int64)))
    double_weights = {name: stacked.double() for name, stacked in weights.items()}
    predict = mix_members(ensemble_predictor(make_ensemble(members_like, double_weights), table))
    double = [part.__class__(*vars(part).values()) for part in (context, rest)]
    for part in double:
        object.__setattr__(part, "share_QO", part.share_QO.double())
    fast, slow = predict(*double), mix_by_hand(members, *double)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-8)


def test_a_question_that_the_context_answers_has_that_answer(run):
    _config, roles, tasks, table, model, weights, groups = saved(run)
    predict = expert_predictors(model, weights, groups, roles.groups, table)
    task = tasks[roles.held_out[0]]
    context, rest = split_context(task.seen, 10, generator(1, "evaluation", task.name, 0))
    share = predict[task.name](context, context.join(rest).without_shares())
    torch.testing.assert_close(share[:10], context.share_QO.double())


@pytest.mark.parametrize("questions", [1, 2, 5, 20, 40])
def test_contexts_of_any_length_predict(run, questions):
    _config, roles, tasks, table, model, weights, groups = saved(run)
    predict = expert_predictors(model, weights, groups, roles.groups, table)
    task = tasks[roles.held_out[0]]
    context, rest = split_context(task.seen, questions, generator(1, "evaluation", "any", 0))
    share = predict[task.name](context, rest.without_shares())
    torch.testing.assert_close(share.sum(-1), torch.ones(len(rest), dtype=torch.float64))


def test_one_expert_predicts_as_it_is(run):
    _config, roles, tasks, *_ = saved(run)
    task = tasks[roles.held_out[0]]
    context, rest = split_context(task.seen, 10, generator(1, "evaluation", task.name, 0))

    def alone(shown, asked):
        return uniform(shown, asked).unsqueeze(0)

    mixed = mix_members(alone)(context, rest.without_shares())
    torch.testing.assert_close(mixed, uniform(context, rest).double())


def test_no_more_groups_fine_tune_than_may_and_the_others_are_predicted_by_the_mixture(tmp_path):
    settings = ["data.num_groups=6", "federation.rounds=1", "personal=experts"]
    few = ["personal.steps=2", "personal.max_experts=2"]
    folder = tmp_path / "run"
    run_in_process([*TINY, *settings, *few, f"output_dir={folder}", f"cache_dir={tmp_path}"])
    summary = read(folder, "summary.json")
    groups = summary["experts"]["groups"]
    assert len(groups) == 2 < len(summary["train_groups"])
    assert groups == [group for group in summary["train_groups"] if group in groups]
    assert set(summary["groups"]) == {*summary["train_groups"], *summary["held_out_groups"]}


def test_experts_are_the_default_and_the_published_experiment_has_none():
    assert load_config([], None).personal.name == "experts"
    assert load_config(["experiment=paper"], None).personal.name == "none"


def test_a_run_of_0_1_0_whose_default_was_none_keeps_it(tmp_path):
    folder = tmp_path / "run"
    keep = [text for text in TINY if not text.startswith("personal")]
    run_in_process([*TINY, "federation.rounds=1", f"output_dir={folder}", f"cache_dir={tmp_path}"])
    (folder / "overrides.yaml").write_text(yaml.safe_dump(keep))
    saved = read_yaml(folder / "config.yaml")
    del saved["data"]["split_by"]  # a key that 0.1.0 did not know
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    assert load_config([f"resume={folder}"], None).personal.name == "none"


def test_central_privacy_and_experts_are_refused():
    with pytest.raises(ConfigError, match=r"personal=experts does not go with privacy=central"):
        load_config(["personal=experts", "privacy=central", "strategy.weighting=uniform"], None)
