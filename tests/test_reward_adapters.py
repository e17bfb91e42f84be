"""Adapters: the shapes that RLHF tools send, and scores equal to the core's."""

import importlib.util
import json
import pickle
from pathlib import Path

import pytest
from bundle import GROUPS, export_tiny, train_tiny
from ray import cloudpickle

from plurallm.data.survey import Question, Survey
from plurallm.data.synthetic import generate_survey
from plurallm.reward import Item, PreferenceRewardModel, Scorer, openrlhf, verl
from plurallm.reward.prompt import TASKS, prompt_rows
from plurallm.reward.trl import trl_reward

QUESTION, OPTIONS = "Should taxes rise?", ["Yes", "No", "Unsure"]
COMPLETIONS = ["[0.2, 0.5, 0.3]", "A: 60%\nB: 30%\nC: 10%", "I do not know."]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    return export_tiny(train_tiny(folder), folder / "bundle")


@pytest.fixture
def scorer(bundle):
    return Scorer(PreferenceRewardModel.from_pretrained(bundle))


def core(scorer, group):
    return scorer.score([Item(text, QUESTION, tuple(OPTIONS), group) for text in COMPLETIONS])


def rewards(scores):
    return [score.reward for score in scores]


# TRL


@pytest.mark.parametrize("group", [None, *GROUPS])
def test_trl_gets_the_cores_rewards(scorer, group):
    logged = {}
    reward = trl_reward(scorer)
    result = reward(
        prompts=["..."] * 3,
        completions=COMPLETIONS,
        completion_ids=[[1]] * 3,
        question=[QUESTION] * 3,
        options=[OPTIONS] * 3,
        group=[group] * 3,
        trainer_state=None,
        log_extra=None,
        log_metric=logged.__setitem__,
    )
    scores = core(scorer, group)
    assert result == rewards(scores)
    assert reward.__name__ == "plurallm_jensen_shannon"
    names = GROUPS if group is None else [group]
    means = {
        f"reward/jensen_shannon/{name}": sum(score.by_group.get(name, 0.0) for score in scores) / 3
        for name in names
    }
    assert logged == pytest.approx({"parsed/jensen_shannon": 2 / 3, **means})


def test_trl_conversations_are_read_by_their_last_message(scorer):
    completions = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    result = trl_reward(scorer)(
        completions=completions, question=[QUESTION] * 3, options=[OPTIONS] * 3
    )
    assert result == rewards(core(scorer, None))


@pytest.mark.parametrize(
    ("content", "parsed"),
    [(None, 0), ([{"type": "text", "text": "A"}], 1), ([{"type": "image"}], 0), ([], 0)],
)
def test_trl_messages_without_a_plain_text(scorer, content, parsed):
    logged = {}
    trl_reward(Scorer(scorer.model, "share"))(
        completions=[[{"role": "assistant", "content": content}]],
        question=[QUESTION],
        options=[["None", "Some"]],
        log_metric=logged.__setitem__,
    )
    assert logged["parsed/share"] == parsed


def test_trl_functions_of_two_measures_log_apart(scorer):
    logged = {}
    for measure in ("share", "kendall"):
        trl_reward(Scorer(scorer.model, measure))(
            completions=["A > B > C"],
            question=[QUESTION],
            options=[OPTIONS],
            group=[GROUPS[0]],
            log_metric=logged.__setitem__,
        )
    assert logged["parsed/share"] == 0
    assert logged["parsed/kendall"] == 1
    assert logged["reward/share/Avaria"] == 0
    assert logged["reward/kendall/Avaria"] > 0


def test_trl_columns_that_are_missing_are_named(scorer):
    with pytest.raises(ValueError, match=r"columns question and options; .* are answer, prompts"):
        trl_reward(scorer)(prompts=["..."], completions=["A"], question=[QUESTION], answer=["A"])
    free = trl_reward(Scorer(scorer.model, "raw_mean"))
    assert len(free(completions=["Any text"], question=[QUESTION])) == 1


def test_the_reward_function_travels_as_ray_sends_it(scorer):
    reward = trl_reward(scorer)
    columns = {"completions": COMPLETIONS, "question": [QUESTION] * 3, "options": [OPTIONS] * 3}
    assert pickle.loads(cloudpickle.dumps(reward))(**columns) == reward(**columns)


def test_trl_takes_scales_where_questions_have_them(scorer):
    by_scale = Scorer(scorer.model, "wasserstein")
    columns = {"question": [QUESTION] * 3, "options": [OPTIONS] * 3, "group": [GROUPS[0]] * 3}
    reward = trl_reward(by_scale)
    plain = reward(completions=COMPLETIONS, **columns)
    assert plain == reward(completions=COMPLETIONS, ordinal=[None, [0, 1, 2], None], **columns)
    assert plain != reward(completions=COMPLETIONS, ordinal=[[0, 1, 9]] * 3, **columns)


# veRL


def test_verl_loads_the_file_and_gets_the_cores_rewards(scorer, bundle):
    spec = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    custom = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(custom)
    extra = {"question": QUESTION, "options": OPTIONS, "group": GROUPS[0], "index": 7}
    replies = [
        custom.compute_score(
            data_source="survey",
            solution_str=text,
            ground_truth="",
            extra_info=extra,
            bundle=str(bundle),
        )
        for text in COMPLETIONS
    ]
    scores = core(scorer, GROUPS[0])
    assert [reply["score"] for reply in replies] == pytest.approx(rewards(scores), abs=1e-6)
    assert [reply["parsed"] for reply in replies] == [1, 1, 0]
    assert {tuple(reply) for reply in replies} == {("score", "parsed")}


def test_verl_settings_choose_the_reward(bundle):
    extra = {"question": QUESTION, "options": OPTIONS}
    settings = {"bundle": str(bundle), "measure": "kendall", "over_groups": "min"}
    both = verl.compute_score("survey", "A > B > C", "", extra, **settings)
    alone = [
        verl.compute_score("survey", "A > B > C", "", extra, groups=[group], **settings)
        for group in GROUPS
    ]
    assert both["score"] == min(reply["score"] for reply in alone)
    loops = {"reward_router_address": None, "reward_model_tokenizer": None}
    assert verl.compute_score("survey", "A > B > C", "", extra, **settings, **loops) == both
    with pytest.raises(ValueError, match=r"needs question and options .* it has split"):
        verl.compute_score("survey", "A", "", {"split": "train"}, **settings)


# OpenRLHF


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "<|im_end|>\n",
        " </s></s>",
        "<|eot_id|>",
        "<eos><pad>",
        "<｜end▁of▁sentence｜>",
        "[EOS]",
        "<turn|>",
        "<end_of_turn>\n",
    ],
)
def test_openrlhf_gets_the_cores_rewards(scorer, ending):
    label = json.dumps({"question": QUESTION, "options": OPTIONS, "group": GROUPS[1]})
    prompt = "<|im_start|>user\nShould taxes rise?<|im_end|>\n"
    items = openrlhf.read_items(
        [prompt + text + ending for text in COMPLETIONS], [prompt] * 3, [label] * 3
    )
    reply = openrlhf.write_reply(scorer.score(items))
    assert reply["rewards"] == pytest.approx(rewards(core(scorer, GROUPS[1])))
    assert reply["scores"] == reply["rewards"]
    assert reply["extra_logs"] == {"parsed": [1, 1, 0]}


def test_openrlhf_gets_the_same_keys_for_every_sample(scorer):
    """It sends samples one by one, and joins what it is told to log by key."""
    replies = []
    for group in (None, *GROUPS):
        label = json.dumps({"question": QUESTION, "options": OPTIONS, "group": group})
        for text in COMPLETIONS:
            items = openrlhf.read_items([text], [""], [label])
            replies.append(openrlhf.write_reply(scorer.score(items)))
    assert {tuple(reply["extra_logs"]) for reply in replies} == {("parsed",)}
    assert all(len(values) == 1 for reply in replies for values in reply["extra_logs"].values())


LONG = "".join(f"{number}. An instruction of the prompt.\n" for number in range(20)) + "Answer: "


@pytest.mark.parametrize(
    ("query", "prompt"),
    [
        ("Answer:A", "Answer: "),  # a tokenizer that keeps no space
        (" Answer: A", "Answer: "),
        (LONG + "A", LONG),
        (LONG[50:] + "A", LONG),  # OpenRLHF cuts the front of a long prompt off
        (LONG[-110:] + "A<|im_end|>", LONG),
        (LONG[50:] + "A", LONG + LONG),  # its start stands twice in the prompt
    ],
)
def test_openrlhf_responses_follow_the_prompt_or_what_is_left_of_it(query, prompt):
    label = json.dumps({"question": QUESTION, "options": OPTIONS})
    (item,) = openrlhf.read_items([query], [prompt], [label])
    assert item.completion == "A"


def test_openrlhf_empty_lists_are_answered(scorer):
    reply = openrlhf.write_reply(scorer.score(openrlhf.read_items([], [], [])))
    assert reply == {"rewards": [], "scores": [], "extra_logs": {"parsed": []}}


@pytest.mark.parametrize(
    ("query", "prompts", "labels", "reason"),
    [
        (["a"], [], [], "1, 0, 0"),
        (["ab"], ["b"], ["{}"], "query 0 does not start with its prompt"),
        ([LONG[20:200] + "A"], [LONG], ["{}"], "query 0 does not start with its prompt"),
        (["a"], ["a"], ["Japan"], "label 0 is not JSON"),
        (["a"], ["a"], ["[" * 100_000], "label 0 is not JSON"),
        (["a"], ["a"], ["{}"], "object with question and options"),
        (["a"], ["a"], ['{"question": 1, "options": []}'], "question is a text"),
        (["a"], ["a"], ['{"question": "", "options": [1]}'], "options a list of texts"),
        (["a"], ["a"], ['{"question": "", "options": [], "group": 1}'], "group is a text"),
        (["a"], ["a"], ['{"question": "", "options": [], "ordinal": ["a"]}'], "finite numbers"),
        (["a"], ["a"], [f'{{"question": "", "options": [], "ordinal": [{"9" * 400}]}}'], "finite"),
        (
            ["a"],
            ["a"],
            ['{"question": "", "options": [], "ordinal": [Infinity]}'],
            "finite numbers",
        ),
        (["a"], ["a"], ['{"question": "", "options": ["\\ud800", "b"]}'], "label 0: .* Unicode"),
        (["a"], ["a"], ['{"question": "\\udfff", "options": []}'], "label 0: .* Unicode"),
        (["a"], ["a"], ['{"question": "", "options": [], "group": "\\ud800"}'], "group .* Unicode"),
        (["a"], ["a"], [json.dumps({"question": "", "options": ["x"] * 101})], "101 options, more"),
    ],
)
def test_openrlhf_wrong_requests_are_refused(query, prompts, labels, reason):
    with pytest.raises(ValueError, match=reason):
        openrlhf.read_items(query, prompts, labels)


def test_openrlhf_long_endings_are_cut_in_no_time():
    label = json.dumps({"question": QUESTION, "options": OPTIONS})
    (item,) = openrlhf.read_items(["A" + " <pad>" * 200_000], [""], [label])
    assert item.completion == "A"
    (item,) = openrlhf.read_items(["A" + " " * 200_000 + "x"], [""], [label])
    assert item.completion.endswith("x")
    with pytest.raises(ValueError, match="does not start with its prompt"):
        openrlhf.read_items(["a" * 100_000], ["a" * 99_999 + "b"], [label])


# Prompts


def test_prompts_carry_what_the_adapters_need(scorer):
    survey = generate_survey(2, 3, 100, 0)
    rows = list(prompt_rows(survey, GROUPS, "jensen_shannon"))
    assert len(rows) == len(survey.questions) * len(GROUPS)
    for row in rows:
        assert row["question"] in row["prompt"]
        assert row["group"] in row["prompt"]
        assert row["options"][0] in row["prompt"]
        (item,) = openrlhf.read_items([row["prompt"] + "A: 1"], [row["prompt"]], [row["label"]])
        scale = row["ordinal"] and tuple(row["ordinal"])
        assert item == Item("A: 1", row["question"], tuple(row["options"]), row["group"], scale)
        scorer.check(item)


def test_prompts_bring_the_scale_of_a_survey(scorer):
    question = Question("1", "Safer?", ("Safer", "Less safe", "Neither"), (1, 2, 1.5))
    plain = Question("2", "Fair?", ("Yes", "No"), (1, 1))
    rows = list(prompt_rows(Survey("two", (question, plain), {}), GROUPS[:1], "wasserstein"))
    assert rows[1]["ordinal"] is None
    (item,) = openrlhf.read_items(["[0, 0, 1]"], [""], [rows[0]["label"]])
    by_scale = Scorer(scorer.model, "wasserstein")
    asked = Item("[0, 0, 1]", question.text, question.options, GROUPS[0], question.ordinal)
    assert by_scale.score([item]) == by_scale.score([asked])
    columns = {key: [rows[0][key]] for key in ("question", "options", "ordinal", "group")}
    (score,) = by_scale.score([asked])
    assert trl_reward(by_scale)(completions=["[0, 0, 1]"], **columns) == [score.reward]


@pytest.mark.parametrize(
    ("groups", "measure", "reason"),
    [([], "share", "there are none"), (GROUPS, "raw_mean", "share, .* not 'raw_mean'")],
)
def test_prompts_that_cannot_be_written_are_refused(groups, measure, reason):
    with pytest.raises(ValueError, match=reason):
        list(prompt_rows(generate_survey(2, 3, 100, 0), groups, measure))


@pytest.mark.parametrize(
    ("measure", "answer"), [("share", "A"), ("cosine", "A: 40%\nB: 60%"), ("borda", "B > A")]
)
def test_the_example_in_each_task_can_be_parsed(scorer, measure, answer):
    (score,) = Scorer(scorer.model, measure).score(
        [Item(answer, QUESTION, ("Yes", "No"), GROUPS[0])]
    )
    assert score.parsed
    assert measure in TASKS


# A real trainer


# TRL names what transformers deprecates.
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing` is deprecated:FutureWarning")
def test_grpo_trains_a_tiny_policy_by_the_reward(bundle, tmp_path):
    script = Path(__file__).parent.parent / "scripts" / "trl_example.py"
    spec = importlib.util.spec_from_file_location("trl_example", script)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    log = example.train(bundle, steps=2, questions=4, folder=tmp_path)
    assert len(log) == 2
    for line in log:
        assert {"parsed/share", "reward/share/Avaria", "reward/share/Belora"} <= set(line)
        assert line["reward"] == line["rewards/plurallm_share/mean"]
        assert 0 <= line["reward"] <= 1
        assert line["parsed/share"] >= line["reward"]
    chance, best = example.limits(bundle, questions=4)
    assert 0 < chance < best < 1
    svg = example.draw({"Avaria": [0.1, 0.2]}, {"best option": best, "chance": chance})
    assert svg.count("<polyline") == 1
    assert svg.count("stroke-dasharray") == 2


def test_options_that_are_one_text_are_refused(scorer, bundle):
    text = '["Yes", "No"]'
    with pytest.raises(ValueError, match="not a list of texts"):
        trl_reward(scorer)(["Yes"], question=["Roads?"], options=[text])
    with pytest.raises(ValueError, match="not a list of texts"):
        scorer.model.predict("Roads?", text, GROUPS[0])
    row = {"question": "Roads?", "options": text}
    with pytest.raises(ValueError, match="not a list of texts"):
        verl.compute_score("survey", "Yes", None, row, bundle=str(bundle))
