"""No path from a run with experts may hand out predictions that ignore the group."""

import copy
import json
from itertools import pairwise

import pytest
from bundle import export_tiny
from fastapi.testclient import TestClient
from safetensors.torch import load_file
from tiny import TINY

from plurallm.config.compose import load_config, load_tool_config
from plurallm.config.randomness import generator
from plurallm.config.services import ServeConfig
from plurallm.data.context import survey_context
from plurallm.data.preferences import split_context
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.experts import expert_predictors
from plurallm.federate.in_process import run_in_process
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.reward import PreferenceRewardModel
from plurallm.reward.http.app import make_app
from plurallm.reward.scorer import Item, Scorer


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle")
    settings = [
        "data.num_groups=6",
        "federation.rounds=2",
        "personal=experts",
        "personal.steps=100",
    ]
    overrides = [*TINY, *settings, f"output_dir={folder / 'run'}", f"cache_dir={folder}"]
    run_in_process(overrides)
    export_tiny(folder / "run", folder / "bundle")
    return folder, load_config(overrides, None)


@pytest.fixture
def model(exported):
    loaded = PreferenceRewardModel.from_pretrained(exported[0] / "bundle")
    survey, trained = load_survey(exported[1].data), loaded.expert_groups[0]
    held_out = sorted(set(survey.answers) - set(loaded.expert_groups))
    loaded.contexts = {
        group: survey_context(survey, group, survey.answers[group].question_Q[:10].tolist())
        for group in (*held_out, trained)
    }
    return loaded


QUESTION = ("Is the economy doing well?", ("Very well", "Badly", "Do not know"))


def apart(first, second):
    return max(abs(a - b) for a, b in zip(first, second, strict=True))


def test_groups_are_predicted_apart(model):
    told = [model.predict(*QUESTION, group).shares for group in model.groups]
    assert all(apart(*both) > 1e-3 for both in pairwise(told))


def test_contexts_without_a_name_are_predicted_apart(model):
    told = [model.predict(*QUESTION, context).shares for context in model.contexts.values()]
    assert all(apart(*both) > 1e-3 for both in pairwise(told))


def test_the_bundle_predicts_what_the_run_s_experts_predict(model, exported):
    folder, config = exported
    survey = load_survey(config.data)
    roles = assign_roles(count_seen(survey, config), config)
    tasks = group_tasks(survey, roles.groups, config)
    table = survey_table(survey, config)
    weights = load_file(folder / "run" / "experts" / "model.safetensors")
    names = json.loads((folder / "run" / "experts" / "config.json").read_text())["groups"]
    network = PreferenceTransformer(table.shape[1], config.model, config.seed)
    predict = expert_predictors(network, weights, names, roles.groups, table)
    for group in (roles.held_out[0], roles.train[0]):
        draws = generator(config.seed, "evaluation", group, 0)
        context, rest = split_context(tasks[group].seen, 10, draws)
        share = predict[group](context, rest.without_shares())
        released = survey_context(survey, group, context.question_Q.tolist())
        model.contexts[group] = released
        for row in range(3):
            question = survey.questions[int(rest.question_Q[row])]
            told = model.predict(question.text, question.options, group)
            expected = share[row][: len(question.options)].tolist()
            assert told.shares == pytest.approx(expected, abs=1e-5)
            largest = [(p * (1 - p)) ** 0.5 + 1e-9 for p in told.shares]
            assert all(s <= m for s, m in zip(told.spread, largest, strict=True))


def test_a_training_group_has_its_own_expert_and_a_nameless_context_the_mixture(model):
    trained = next(group for group in model.groups if group in model.expert_groups)
    own = model.predict(*QUESTION, trained).shares
    mixed = model.predict(*QUESTION, model.contexts[trained]).shares
    assert apart(own, mixed) > 1e-4


def test_a_question_that_the_context_holds_is_answered_by_it(model):
    answered = model.contexts[model.groups[0]][0]
    told = model.predict(answered.question, answered.options, model.groups[0])
    assert told.shares == answered.shares
    assert set(told.spread) == {0.0}


def test_rewards_of_a_policy_depend_on_the_group(model):
    scorer = Scorer(model, measure="share")
    items = [Item("Badly", *QUESTION, group=group) for group in model.groups]
    rewards = {score.reward for score in scorer.score(items)}
    assert len(rewards) == len(model.groups)


def test_the_server_s_predictions_depend_on_the_group(model):
    app = make_app(model, load_tool_config("serve", ["bundle=unused"], ServeConfig), None)
    texts = {"question": QUESTION[0], "options": list(QUESTION[1])}
    queries = [{**texts, "group": group} for group in model.groups]
    with TestClient(app, base_url="http://127.0.0.1") as client:
        told = client.post("/v1/predict", json={"queries": queries}).json()["predictions"]
    assert all(apart(a["shares"], b["shares"]) > 1e-3 for a, b in pairwise(told))


def test_copies_predict_the_same_and_free_texts_have_means(model):
    copied = copy.deepcopy(model)
    assert copied.predict(*QUESTION, model.groups[0]) == model.predict(*QUESTION, model.groups[0])
    means = model.raw_means([("Do tell.", "Well")] * 2, model.groups[:2])
    assert means[0] != means[1]


def test_the_card_names_the_experts_and_what_they_tell(exported):
    card = (exported[0] / "bundle" / "README.md").read_text(encoding="utf-8")
    assert "Experts of these groups" in card
    assert "tell groups apart" in card or "tells groups apart" in card
