"""The bundle: what it holds, what it predicts, and that it does so anywhere."""

import json
import pickle
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from bundle import GROUPS, export_tiny, train_tiny
from omegaconf import OmegaConf
from safetensors.torch import load_file

from plurallm.config.compose import load_tool_config, typed_config
from plurallm.config.randomness import generator
from plurallm.config.services import ExportConfig
from plurallm.data.context import read_context, survey_context
from plurallm.data.non_answers import is_non_answer
from plurallm.data.preferences import split_context
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.evaluate.scores import model_predictor
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.reward import AnsweredQuestion, Item, PreferenceRewardModel, Query, Scorer
from plurallm.reward.dispersion import HALVES, half_samples
from plurallm.reward.export import export_bundle


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("reward"))


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    return export_tiny(run, tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def model(bundle):
    return PreferenceRewardModel.from_pretrained(bundle)


@pytest.fixture(scope="module")
def config(run):
    return typed_config(OmegaConf.load(run / "config.yaml"))


QUESTIONS = [
    ("Is the economy doing well?", ("Yes", "No")),
    ("How often do you vote?", ("Always", "Often", "Rarely", "Never")),
    ("Should taxes rise?", ("Yes", "No", "Unsure")),
]


def all_queries(groups=GROUPS):
    return [Query(*question, group) for question in QUESTIONS for group in groups]


# Predictions


def test_the_bundle_predicts_what_the_run_scored(run, config, model):
    survey = load_survey(config.data)
    table_RD = survey_table(survey, config)
    network = PreferenceTransformer(table_RD.shape[1], config.model, seed=0)
    network.load_state_dict(load_file(run / "model" / "model.safetensors"))
    for group, task in group_tasks(survey, GROUPS, config).items():
        draws = generator(config.seed, "evaluation", group, 0)
        context, rest = split_context(task.seen, config.evaluation.context_questions, draws)
        target = rest.join(task.unseen)
        expected_QO = model_predictor(network, table_RD)(context, target.without_shares())
        questions = [survey.questions[position] for position in target.question_Q.tolist()]
        forecasts = model.predict_batch([Query(q.text, q.options, group) for q in questions])
        for expected_O, forecast in zip(expected_QO.tolist(), forecasts, strict=True):
            count = len(forecast.shares)
            assert forecast.shares == pytest.approx(expected_O[:count], abs=1e-5)


def test_a_batch_equals_the_slow_obvious_way_one_by_one(model):
    plain = reference.PlainTransformer(model.embedding_width, model.sizes)
    plain.copy_weights(model.network)
    queries = all_queries()
    for query, forecast in zip(queries, model.predict_batch(queries), strict=True):
        context = model.contexts[query.group]
        pairs = [(a.question, option) for a in context for option in a.options]
        share_P = torch.tensor([share for a in context for share in a.shares])
        targets = [(query.question, option) for option in query.options]
        with torch.no_grad():
            output = plain(
                torch.from_numpy(model.embedding.embed(pairs, "cpu", None)),
                share_P,
                torch.from_numpy(model.embedding.embed(targets, "cpu", None)),
            )
        assert forecast.shares == pytest.approx(output[:, 0].softmax(0).tolist(), abs=1e-5)


def test_contexts_of_different_length_do_not_disturb_each_other(model):
    short = model.contexts[GROUPS[0]][:3]
    together = model.predict_batch(all_queries((*GROUPS, short)))
    for query, forecast in zip(all_queries((*GROUPS, short)), together, strict=True):
        alone = model.predict(query.question, query.options, query.group)
        assert forecast.shares == pytest.approx(alone.shares, abs=1e-6)
        assert forecast.spread == pytest.approx(alone.spread, abs=1e-6)


def test_a_name_and_its_context_are_the_same_group(model):
    for name, context in model.contexts.items():
        by_name = model.predict(*QUESTIONS[0], name)
        assert by_name == model.predict(*QUESTIONS[0], context)


def test_the_order_of_options_changes_nothing_but_the_order(model):
    question, options = QUESTIONS[1]
    forward = model.predict(question, options, GROUPS[0]).shares
    assert model.predict(question, options[::-1], GROUPS[0]).shares == pytest.approx(
        forward[::-1], abs=1e-6
    )


def test_texts_are_embedded_once_and_contexts_encoded_once(model, monkeypatch):
    embedded = []

    def counted(pairs, config, device):
        embedded.extend(pairs)
        return config.embed(pairs, "cpu", None)

    monkeypatch.setattr("plurallm.reward.embedder.embed_pairs", counted)
    first = model.predict_batch(all_queries() * 3)
    asked = {text for text, _ in QUESTIONS}  # what two contexts share is embedded for each
    texts = [pair for pair in embedded if pair[0] in asked]
    assert len(texts) == len(set(texts)) == sum(len(options) for _, options in QUESTIONS)
    done = len(embedded)
    assert model.predict_batch(all_queries() * 3) == first
    assert len(embedded) == done


def made_up_context(number):
    return tuple(
        AnsweredQuestion(f"Question {number}.{n}?", ("Yes", "No"), (0.5, 0.5)) for n in range(2)
    )


def test_more_groups_than_are_kept_are_still_encoded_once(model, monkeypatch):
    model.contexts |= {f"group {n}": made_up_context(n) for n in range(150)}
    visitors = [made_up_context(n) for n in range(1000, 1150)]
    encodings = []
    encode = PreferenceTransformer.encode

    def counted(network, x_CW, *rest):
        encodings.append(x_CW)
        return encode(network, x_CW, *rest)

    monkeypatch.setattr(PreferenceTransformer, "encode", counted)
    everyone = all_queries(model.groups)
    first = model.predict_batch(everyone)
    # A context is encoded whole, and in halves for its dispersion.
    assert len(encodings) == 2 * len(model.groups)
    encodings.clear()
    model.predict_batch(all_queries(visitors))
    assert len(encodings) == 2 * len(visitors)
    encodings.clear()
    assert model.predict_batch(everyone) == first
    assert not encodings


def test_a_name_with_another_context_predicts_anew(model):
    one, another = (model.contexts[group] for group in GROUPS)
    for context in (one, another):
        model.contexts["My group"] = context
        assert model.predict(*QUESTIONS[0], "My group") == model.predict(*QUESTIONS[0], context)


def test_copies_and_pickles_predict_the_same(model):
    scorer = Scorer(model, over_groups="log_mean_exp")
    items = [Item("[0.5, 0.5]", *QUESTIONS[0]), Item("[0.5, 0.5]", *QUESTIONS[0], GROUPS[0])]
    scores = scorer.score(items)
    for other in (deepcopy(scorer), pickle.loads(pickle.dumps(scorer))):
        assert other.score(items) == scores
        assert other.model.texts_embedded[1] > 0  # it starts with nothing computed


def test_what_was_computed_is_forgotten_with_the_weights(model):
    before = model.predict(*QUESTIONS[0], GROUPS[0])
    weights = {name: value * 1.5 for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    assert model.predict(*QUESTIONS[0], GROUPS[0]) != before
    model.double()
    assert model.predict(*QUESTIONS[0], GROUPS[0]).shares != before.shares


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (Query("Q?", ("Yes",), GROUPS[0]), "fewer than two options"),
        (Query("Q?", ("Yes", "Yes"), GROUPS[0]), "lists an option twice"),
        (Query("Q?", ("Yes", "No"), "Nowhere"), "no context of group 'Nowhere'.*Avaria"),
        (Query("Q?", ("Yes", "No"), ()), "at least one answered question"),
    ],
)
def test_what_cannot_be_predicted_is_refused(model, query, reason):
    with pytest.raises(ValueError, match=reason):
        model.predict_batch([query])


# Uncertainty


@pytest.mark.parametrize("questions", [2, 5, 20])
def test_half_samples_are_halves_with_their_complements(questions):
    half_KQ = half_samples(questions)
    assert half_KQ.shape == (HALVES, questions)
    assert torch.equal(half_KQ[1::2], ~half_KQ[::2])
    assert half_KQ[::2].sum(1).tolist() == [questions // 2] * (HALVES // 2)


def test_the_spread_is_cross_validation_by_the_book(model):
    """Predict each half from the other, one question after the other."""
    context = model.contexts[GROUPS[0]]
    errors = expected = 0.0
    for half_Q in half_samples(len(context)).tolist():
        known = tuple(a for a, inside in zip(context, half_Q, strict=True) if inside)
        for answer, inside in zip(context, half_Q, strict=True):
            if inside:
                continue
            shares = np.array(model.predict(answer.question, answer.options, known).shares)
            errors += ((shares - answer.shares) ** 2).sum()
            expected += (shares * (1 - shares)).sum()
    forecast = model.predict(*QUESTIONS[1], GROUPS[0])
    p = np.array(forecast.shares)
    assert forecast.spread == pytest.approx(np.sqrt(errors / expected * p * (1 - p)), rel=1e-4)


def test_one_answered_question_predicts_without_a_spread(model):
    alone = model.contexts[GROUPS[0]][:1]
    forecast = model.predict(*QUESTIONS[0], alone)
    assert sum(forecast.shares) == pytest.approx(1)
    assert forecast.spread is None


# Scores


def test_many_groups_are_scored_as_each_is(model):
    question, options = QUESTIONS[1]
    by_group = {}
    for group in GROUPS:
        (score,) = Scorer(model).score([Item("[0.25,0.25,0.25,0.25]", question, options, group)])
        by_group |= score.by_group
    (score,) = Scorer(model, over_groups="min").score(
        [Item("[0.25,0.25,0.25,0.25]", question, options)]
    )
    assert score.by_group == pytest.approx(by_group)
    assert score.reward == min(score.by_group.values())


def test_a_mixture_of_items_is_scored_as_each_alone(model):
    scorer = Scorer(model, "kendall", unparsable=-1)
    items = [
        Item(text, *question, group)
        for text in ("A > B", "A > B > C > D", "nonsense")
        for question in QUESTIONS
        for group in (*GROUPS, None, model.contexts[GROUPS[0]])
    ]
    together = scorer.score(items)
    for item, score in zip(items, together, strict=True):
        (alone,) = scorer.score([item])
        assert score.reward == pytest.approx(alone.reward, abs=1e-6)
        assert score.parsed == (item.completion.count(">") + 1 == len(item.options))
        assert score.parsed or (score.reward == -1 and not score.by_group)


def test_free_text_earns_the_raw_mean(model):
    scorer = Scorer(model, "raw_mean")
    question, options = QUESTIONS[0]
    yes, no, blank = scorer.score([Item(t, question, group=GROUPS[0]) for t in (*options, " ")])
    # The raw means are the logarithms of the shares, up to a constant.
    shares = model.predict(question, options, GROUPS[0]).shares
    assert yes.reward - no.reward == pytest.approx(np.log(shares[0] / shares[1]), abs=1e-5)
    assert not blank.parsed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"measure": "accuracy"}, "share, jensen_shannon, .*'accuracy'"),
        ({"over_groups": "median"}, "mean, min, .*'median'"),
        ({"groups": ["Nowhere"]}, "'Nowhere'"),
        ({"alpha": 0.0}, "over_groups=mean"),
        ({"alpha": 1e-12}, "over_groups=mean"),
        ({"alpha": float("-inf")}, "over_groups=max, or min"),
        ({"alpha": float("nan")}, "alpha must lie"),
        ({"unparsable": float("nan")}, "unparsable must be a finite reward"),
    ],
)
def test_a_wrong_scorer_is_refused(model, settings, reason):
    with pytest.raises(ValueError, match=reason):
        Scorer(model, **settings)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("A", "Q?", ("Yes",)), "fewer than two options"),
        (Item("A", "Q?", ("Yes", "No"), "Nowhere"), "Nowhere"),
        (Item("A", "Q?", ("Yes", "No"), ordinal=(1,)), "1 ordinal values"),
        (Item("A", "Q?", ("Yes", "No"), ordinal=(1, 1)), "the same ordinal value"),
        (Item("A", "Q?", ("Yes", "No"), ordinal=(1, float("nan"))), "ordinal values"),
        (Item("A", "Q?", ("Yes", "No"), ordinal=(1e308, -1e308)), "ordinal values"),
    ],
)
def test_an_item_that_cannot_be_scored_is_refused(model, item, reason):
    with pytest.raises(ValueError, match=reason):
        Scorer(model).score([item])


# The bundle


def test_a_fresh_process_says_the_same(bundle, model, tmp_path):
    program = (
        "import sys, json\n"
        "from plurallm.reward import PreferenceRewardModel\n"
        "model = PreferenceRewardModel.from_pretrained(sys.argv[1])\n"
        "f = model.predict('Should taxes rise?', ['Yes', 'No', 'Unsure'], 'Avaria')\n"
        "print(json.dumps([f.shares, f.spread]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], cwd=tmp_path, capture_output=True, check=True
    )
    forecast = model.predict(*QUESTIONS[2], "Avaria")
    shares, spread = json.loads(done.stdout.splitlines()[-1])
    assert forecast.shares == pytest.approx(shares, abs=1e-6)
    assert forecast.spread == pytest.approx(spread, abs=1e-6)


def test_saving_and_loading_changes_nothing(model, tmp_path):
    model.save_pretrained(tmp_path / "copy")
    copy = PreferenceRewardModel.from_pretrained(tmp_path / "copy")
    assert copy.predict_batch(all_queries()) == model.predict_batch(all_queries())
    assert copy.contexts == model.contexts
    assert copy.provenance == model.provenance


def test_what_is_saved_is_what_the_model_holds_now(model, tmp_path):
    withdrawn = model.contexts.pop(GROUPS[1])
    model.contexts["My group"] = made_up_context(0)
    model.save_pretrained(tmp_path)
    copy = PreferenceRewardModel.from_pretrained(tmp_path)
    assert copy.contexts == {GROUPS[0]: model.contexts[GROUPS[0]], "My group": made_up_context(0)}
    written = "".join((tmp_path / name).read_text() for name in ("config.json", "README.md"))
    kept = {answer.question for answer in model.contexts[GROUPS[0]]}
    assert not any(a.question in written for a in withdrawn if a.question not in kept)


def test_the_card_says_what_is_in_it(run, bundle, tmp_path):
    card = (bundle / "README.md").read_text()
    assert card.startswith("---\n")
    assert "library_name: plurallm" in card
    assert "\nlicense:" not in card
    assert "Data: `synthetic`. Strategy: `fedavg`, no differential privacy." in card
    private = PreferenceRewardModel.from_pretrained(bundle)
    private.provenance["privacy"] = {"protects": "respondents", "epsilon": 4.0, "delta": 1e-6}
    private.provenance["training"] = "central"
    private.save_pretrained(tmp_path / "private")
    assert "learnt federated" in card
    assert "learnt in one place" in (tmp_path / "private" / "README.md").read_text()
    protected = "differential privacy of respondents, epsilon 4 at delta 1e-06"
    assert protected in (tmp_path / "private" / "README.md").read_text()
    licensed = export_tiny(run, tmp_path / "licensed", "license=cc-by-nc-sa-4.0")
    assert "\nlicense: cc-by-nc-sa-4.0\n" in (licensed / "README.md").read_text()
    for text in ("name hashing, width 32", "- Avaria: 10 answered questions", "cross_entropy"):
        assert text in card
    assert "| unseen groups, unseen questions | 0." in card


def test_nothing_is_released_unless_named(run, tmp_path):
    settings = [f"run={run}", f"folder={tmp_path / 'closed'}", "weights=best"]
    closed = export_bundle(load_tool_config("export", settings, ExportConfig))
    assert closed.groups == ()
    written = (tmp_path / "closed" / "config.json").read_text()
    assert json.loads(written)["contexts"] == {}
    survey = load_survey(typed_config(OmegaConf.load(run / "config.yaml")).data)
    assert not any(question.text in written for question in survey.questions)
    with pytest.raises(ValueError, match="give a group's context"):
        Scorer(closed).score([Item("A", "Q?", ("Yes", "No"))])


def test_a_context_comes_from_a_file_too(run, model, write_survey, config, tmp_path):
    survey = load_survey(config.data)
    answers = tuple(
        answer
        for answer in survey_context(survey, "Avaria")
        if not any(map(is_non_answer, answer.options))
    )[:20]
    rows = [
        {
            "question_id": f"q{number:02}",
            "question": answer.question,
            "options": list(answer.options),
            "group": "a new one",
            "shares": list(answer.shares),
        }
        for number, answer in enumerate(answers)
    ]
    context = read_context(str(write_survey(rows)))
    expected = model.predict(*QUESTIONS[0], answers)
    assert model.predict(*QUESTIONS[0], context).shares == pytest.approx(expected.shares, abs=1e-6)
    # That file is enough to be released, too: it is not split into seen and unseen questions.
    settings = [f"run={run}", f"folder={tmp_path / 'new'}", "context_questions=20"]
    settings += ["release_context=['a new one']", f"survey={write_survey(rows)}"]
    exported = export_bundle(load_tool_config("export", settings, ExportConfig))
    released = {answer.question for answer in exported.contexts["a new one"]}
    assert released == {answer.question for answer in context}
    with pytest.raises(ValueError, match="2 groups"):
        read_context(write_survey([*rows, {**rows[0], "group": "another"}]))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shares": (0.5,)}, "1 shares for 2 options"),
        ({"shares": (0.5, 0.4)}, "sum to 0.9"),
        ({"shares": (-0.1, 1.1)}, "outside 0..1"),
        ({"shares": (float("nan"), 1.0)}, "outside 0..1"),
        ({"options": ("Yes", "Yes")}, "option twice"),
        ({"question": " "}, "no text"),
    ],
)
def test_a_wrong_answer_is_refused(changes, reason):
    right = {"question": "Q?", "options": ("Yes", "No"), "shares": (0.5, 0.5)}
    with pytest.raises(ValueError, match=reason):
        AnsweredQuestion(**right | changes)


@pytest.mark.parametrize(
    ("settings", "error", "reason"),
    [
        (["run=nowhere"], FileNotFoundError, "nowhere is not the folder of a finished run"),
        (["release_context=[Nowhere]"], ValueError, "no group 'Nowhere'"),
        (["release_context=[Avaria]", "context_questions=1000"], ValueError, "lower context_quest"),
        (["weights=first"], ValueError, "weights must be 'last' or 'best'"),
    ],
)
def test_a_wrong_export_is_refused(run, tmp_path, settings, error, reason):
    whole = [f"run={run}", f"folder={tmp_path / 'new'}", *settings]
    with pytest.raises(error, match=reason):
        export_bundle(load_tool_config("export", whole, ExportConfig))


def test_another_export_is_not_overwritten(run, bundle):
    with pytest.raises(FileExistsError, match="choose another folder"):
        export_tiny(run, bundle)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config.pop("embedding"), "config.json with embedding"),
        (lambda config: config["embedding"].update(name="oracle"), "embedder 'oracle'"),
        (lambda config: config["model"].update(width="wide"), "model of the bundle"),
        (lambda config: config.update(precision="int8"), "float32 or float64"),
        (lambda config: config["contexts"]["Avaria"][0].pop("shares"), "question, options and sh"),
        (lambda config: config.update(contexts=[1]), "not that of a bundle"),
        (lambda config: config.update(embedding_width="wide"), "not that of a bundle"),
        (lambda config: config["model"].update(layers=9), r"does not fit .*network\.blocks\.2"),
        (lambda config: config["model"].update(width=256), "does not fit .*size mismatch"),
    ],
)
def test_a_damaged_bundle_is_refused(model, tmp_path, change, reason):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=reason):
        PreferenceRewardModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "a/b/c", "bundel", Path("a/b")])
def test_a_missing_folder_is_named(name):
    with pytest.raises(FileNotFoundError, match=f"{name}: there is no such folder"):
        PreferenceRewardModel.from_pretrained(name)


def test_a_repository_out_of_reach_is_named():
    with pytest.raises(OSError, match="plurallm-tests/nowhere cannot be loaded"):
        PreferenceRewardModel.from_pretrained("plurallm-tests/nowhere", local_files_only=True)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.json", b"{", "config.json is not readable JSON"),
        ("config.json", b"\xff{}", "config.json is not readable JSON"),
        ("config.json", b"[]", "config.json is not that of a bundle"),
        ("model.safetensors", b"\0" * 1000, "model.safetensors is damaged"),
    ],
)
def test_a_damaged_file_is_named(model, tmp_path, file, content, reason):
    model.save_pretrained(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path}: {reason}"):
        PreferenceRewardModel.from_pretrained(tmp_path)


def test_cut_and_missing_weights_are_named(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=f"{tmp_path}: model.safetensors is damaged"):
        PreferenceRewardModel.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(OSError, match=f"{tmp_path} cannot be loaded: .*model.safetensors"):
        PreferenceRewardModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", ["", "model", "model-best"])
def test_a_runs_folder_is_no_bundle(run, part):
    with pytest.raises(ValueError, match=f"{run / part}: not a reward bundle.*plurallm export"):
        PreferenceRewardModel.from_pretrained(run / part)


def test_another_embedder_than_the_trainings_is_named(bundle):
    other = PreferenceRewardModel.from_pretrained(
        bundle, embedding={"name": "hashing", "width": 64}
    )
    with pytest.raises(ValueError, match=r"vectors of width 64, but .* made with width 32"):
        other.predict(*QUESTIONS[0], GROUPS[0])


# The command


def plurallm(cwd, *arguments):
    command = [sys.executable, "-c", "from plurallm.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_export_takes_the_run_and_the_folder(run, tmp_path):
    done = plurallm(tmp_path, "export", str(run), "new", "release_context=[Avaria]", "weights=best")
    assert done.returncode == 0, done.stderr
    assert "new, with the context of Avaria" in done.stdout
    assert PreferenceRewardModel.from_pretrained(tmp_path / "new").groups == ("Avaria",)


def test_help_is_the_file_of_keys_and_errors_are_one_line(tmp_path):
    help_ = plurallm(tmp_path, "export", "--help")
    assert help_.returncode == 0
    assert "release_context: []" in help_.stdout
    for arguments, message in (
        (["export", "a", "b", "c"], "'c' is one value too many"),
        (["serve", "no/such/folder"], "no/such/folder: there is no such folder"),
    ):
        done = plurallm(tmp_path, *arguments)
        assert done.returncode == 2
        assert done.stderr.strip().startswith("plurallm: ")
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
