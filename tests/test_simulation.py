"""Whole runs of the two apps in one process."""

import itertools
import json
import math

import numpy as np
import pytest
import tiny
import torch
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.tasks import group_tasks, load_survey, survey_table
from plurallm.federate.client_app import app as client_app
from plurallm.federate.in_process import InProcessGrid, run_in_process
from plurallm.federate.round_report import FederationError
from plurallm.federate.server_app import app as server_app
from plurallm.learn.batched import train_groups
from plurallm.learn.local import train_group
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.results.report.tables import notes, print_result

TINY = [
    *tiny.TINY,
    "data.num_groups=7",
    "training.steps_per_round=2",
    "evaluation.every=2",
    "federation.rounds=5",
    "federation.checkpoint_every=2",
    "threads=1",
]


def run(tmp_path, name, *overrides, app=client_app):
    folder = tmp_path / name
    run_in_process(
        [*TINY, f"cache_dir={tmp_path}", f"output_dir={folder}", *overrides], client_app=app
    )
    return folder


def lines(folder, file="metrics.jsonl"):
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def same_result(one, other):
    """Metrics and both models, to the bit."""
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for model in ("model", "model-best"):
        file = f"{model}/model.safetensors"
        assert (one / file).read_bytes() == (other / file).read_bytes()


class Spoiled(ClientApp):
    """The real client, with its reply to some messages changed."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def __call__(self, message: Message, context: Context) -> Message:
        return self.spoil(message, client_app(message, context))


def is_training(message):
    return message.metadata.message_type == "train"


def round_of(message):
    return message.content["config"]["round"]


def test_a_run_leaves_the_folder_that_others_rely_on(tmp_path):
    folder = run(tmp_path, "run")
    rounds = lines(folder)
    assert [line["round"] for line in rounds] == [1, 2, 3, 4, 5]
    assert [line["step"] for line in rounds] == [2, 4, 6, 8, 10]
    assert ["cells" in line for line in rounds] == [False, True, False, True, True]
    cells = {
        f"{group}_groups.{q}_questions"
        for group in ("train", "held_out")
        for q in ("seen", "unseen")
    }
    for line in rounds:
        assert math.isfinite(line["train_loss"])
        assert len(line["groups_trained"]) == 4
        assert line["groups_refused"] == {}
    assert set(rounds[-1]["cells"]) == cells
    for cell in rounds[-1]["cells"].values():
        assert {"alignment", "alignment_e", "worst", "gap", "cov", "fi"} <= set(cell)
    assert len(rounds[-1]["groups"]) == 7
    for timing in lines(folder, "timings.jsonl"):
        assert timing["bytes_up"] == timing["bytes_down"] / (
            1 if timing["round"] % 2 and timing["round"] < 5 else 11 / 4
        )
    _check_times(lines(folder, "timings.jsonl"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cells"] == rounds[-1]["cells"]
    baselines = {"uniform", "context_mean", "mean", "mixture", "neighbours"}
    assert set(summary["baselines"]) == baselines
    assert summary["seed"] == 1
    assert {"plurallm", "flwr", "torch", "python"} <= set(summary["versions"])
    assert summary["devices"]["clients"].endswith("cpu") or "cuda" in summary["devices"]["clients"]
    model = load_file(folder / "model/model.safetensors")
    assert model["first.weight"].shape == (16, 33)
    assert json.loads((folder / "model/config.json").read_text())["embedding_width"] == 32
    assert summary["best"]["round"] in (2, 4, 5)


def _check_times(timings):
    for line, following in itertools.pairwise(timings):
        whole = following["began"] - line["began"]
        training = sum(group["seconds"] for group in line["groups"].values())
        assert 0 < training < line["seconds"]["train"]
        assert sum(line["seconds"].values()) < whole


def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    one, again, other = (
        run(tmp_path, name, *more) for name, *more in (("a",), ("b",), ("c", "seed=2"))
    )
    same_result(one, again)
    assert (one / "metrics.jsonl").read_bytes() != (other / "metrics.jsonl").read_bytes()


def test_the_number_of_nodes_changes_no_bit(tmp_path):
    folders = [run(tmp_path, f"{nodes}", f"federation.nodes={nodes}") for nodes in (1, 2, 7)]
    same_result(folders[0], folders[1])
    same_result(folders[0], folders[2])


def test_a_federation_of_one_group_is_plain_local_training(tmp_path):
    name = "Avaria"
    overrides = [f"data.train_groups=[{name}]", "data.groups=null", "data.held_out_groups=[]"]
    folder = run(tmp_path, "one", *overrides)
    config = load_config([*TINY, f"cache_dir={tmp_path}", *overrides], None)
    survey = load_survey(config.data)
    table = survey_table(survey, config)
    task = group_tasks(survey, [name], config)[name]
    model = PreferenceTransformer(table.shape[1], config.model, config.seed)
    losses = []
    for round_number in range(1, config.federation.rounds + 1):
        losses.append(float(np.mean(train_group(model, task, table, config, round_number).losses)))
    assert [line["train_loss"] for line in lines(folder)] == losses
    federated = load_file(folder / "model/model.safetensors")
    for key, value in model.state_dict().items():
        assert np.array_equal(federated[key], value.numpy()), key


def dies_in_round(number):
    def spoil(message, reply):
        if is_training(message) and round_of(message) == number:
            raise RuntimeError("the power went out")
        return reply

    return Spoiled(spoil)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_resumed_run_ends_like_an_uninterrupted_one(tmp_path, damaged):
    whole = run(tmp_path, "whole", "federation.rounds=7")
    with pytest.raises(FederationError, match=r"round 6.*the power went out"):
        run(tmp_path, "cut", "federation.rounds=7", app=dies_in_round(6))
    cut = tmp_path / "cut"
    assert not (cut / "summary.json").exists()
    assert [line["round"] for line in lines(cut)] == [1, 2, 3, 4, 5]
    if damaged:
        newest = cut / "checkpoint/round-000004.safetensors"
        newest.write_bytes(newest.read_bytes()[:-100])
    run_in_process([f"resume={cut}"])
    same_result(whole, cut)
    ends = [json.loads((folder / "summary.json").read_text()) for folder in (whole, cut)]
    assert ends[0]["bytes_up"] == ends[1]["bytes_up"]
    assert ends[0]["best"] == ends[1]["best"]


def test_what_cannot_be_resumed_says_why(tmp_path):
    with pytest.raises(FederationError):
        run(tmp_path, "cut", app=dies_in_round(4))
    cut = tmp_path / "cut"
    with pytest.raises(ConfigError, match=r"training.learning_rate: 0.001 -> 0.1"):
        run_in_process([f"resume={cut}", "training.learning_rate=0.1"])
    with pytest.raises(ConfigError, match="not the folder of a run"):
        run_in_process([f"resume={tmp_path / 'nowhere'}"])
    run_in_process([f"resume={cut}"])
    with pytest.raises(ConfigError, match="finished its 5 rounds"):
        run_in_process([f"resume={cut}"])
    with pytest.raises(FederationError):
        run(tmp_path, "early", app=dies_in_round(1))
    with pytest.raises(ConfigError, match="no complete checkpoint"):
        run_in_process([f"resume={tmp_path / 'early'}"])


def test_a_folder_that_holds_a_run_is_not_written_to(tmp_path):
    folder = run(tmp_path, "run")
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="already holds a run"):
        run(tmp_path, "run", "seed=2")
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_a_client_that_sends_nan_is_left_out_and_named(tmp_path):
    def spoil(message, reply):
        if is_training(message) and "Belora" in message.content["config"]["groups"]:
            arrays = reply.content.array_records["arrays"]
            spoiled = arrays["first.weight"].numpy().copy()
            spoiled[0, 0, 0] = math.nan
            arrays["first.weight"] = Array(spoiled)
        return reply

    folder = run(
        tmp_path, "nan", "data.train_groups=[Belora]", "data.groups=all", app=Spoiled(spoil)
    )
    for line in lines(folder):
        assert line["groups_refused"] == {"Belora": "update refused: first.weight is not finite"}
        assert "Belora" not in line["groups_trained"]
        assert len(line["groups_trained"]) >= 3
    for values in load_file(folder / "model/model.safetensors").values():
        assert np.isfinite(values).all()


def test_a_client_that_raises_in_every_round_is_left_out_with_its_reason(tmp_path):
    def spoil(message, reply):
        if is_training(message) and "Belora" in message.content["config"]["groups"]:
            raise OSError("disk is full")
        return reply

    folder = run(
        tmp_path, "raises", "data.train_groups=[Belora]", "data.groups=all", app=Spoiled(spoil)
    )
    assert all(
        line["groups_refused"] == {"Belora": "OSError: disk is full"} for line in lines(folder)
    )


def test_all_clients_failing_stops_the_run_at_once(tmp_path):
    with pytest.raises(FederationError, match=r"round 1: 0 of 4 groups.*the power went out"):
        run(tmp_path, "dead", app=dies_in_round(1))
    assert not (tmp_path / "dead/summary.json").exists()


def test_too_little_memory_on_a_gpu_names_the_groups_and_the_key(tmp_path, monkeypatch):
    def too_little(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")  # no GPU is this small

    monkeypatch.setattr("plurallm.federate.client_app.train_groups", too_little)
    expected = r"training Dalimuna: the GPU has too little .*lower training\.groups_at_once"
    with pytest.raises(FederationError, match=expected):
        run(tmp_path, "full")


def test_fewer_nodes_than_expected_is_an_error_that_names_those_that_came(tmp_path):
    overrides = [*TINY, f"cache_dir={tmp_path}", f"output_dir={tmp_path / 'few'}"]
    overrides += ["federation.nodes=3", "federation.wait_seconds=0.5"]
    run_config = {"overrides": " ".join(overrides)}
    grid = InProcessGrid(client_app, 2, run_config)
    context = Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
    )
    with pytest.raises(FederationError, match=r"2 of 3 nodes were there.*Avaria"):
        server_app(grid, context)


def test_a_node_that_cannot_start_ends_the_run_with_its_reason(tmp_path):
    def spoil(message, reply):
        if message.metadata.message_type == "query.groups":
            raise ValueError("answers.csv, row 7: negative share")
        return reply

    with pytest.raises(FederationError, match=r"cannot take part.*answers.csv, row 7"):
        run(tmp_path, "broken", app=Spoiled(spoil))


def test_a_held_out_group_refuses_to_train():
    config = [*TINY, "federation.nodes=7"]
    grid = InProcessGrid(client_app, 7, {"overrides": " ".join(config)})
    loaded = load_config(config, None)
    roles = assign_roles(count_seen(load_survey(loaded.data), loaded), loaded)
    held_out = roles.held_out[0]
    from flwr.app import ConfigRecord

    content = RecordDict(
        {
            "arrays": ArrayRecord(),
            "config": ConfigRecord({"round": 1, "groups": [held_out]}),
        }
    )
    node = 1 + roles.groups.index(held_out)
    (reply,) = grid.send_and_receive([Message(content, node, "train")])
    assert "held-out group" in reply.error.reason
    content["config"]["groups"] = ["Nobody"]
    (reply,) = grid.send_and_receive([Message(content, node, "train")])
    assert "does not host" in reply.error.reason


def test_messages_carry_no_answer_text_or_embedding(tmp_path):
    seen = []

    def spoil(message, reply):
        seen.append(reply)
        return reply

    run(tmp_path, "spied", app=Spoiled(spoil))
    kinds = {reply.metadata.message_type for reply in seen}
    assert kinds == {"query.groups", "train", "evaluate"}
    expected = {
        "query.groups": {
            "groups",
            "seen-questions",
            "embedding-width",
            "device",
            "threads",
            "partitions",
            "score-only",
            "config",
            "embedder",
            "probe",
            "survey",
        },
        "train": {"num-examples", "train-loss", "seconds", "groups"},
        "evaluate": {
            "seen-distance",
            "unseen-distance",
            "novel-distance",
            "novel-questions",
            "seen-questions",
            "unseen-questions",
            "groups",
        },
    }
    weights = set(load_file(tmp_path / "spied/model/model.safetensors"))
    for reply in seen:
        kind = reply.metadata.message_type
        records = [*reply.content.metric_records.values(), *reply.content.config_records.values()]
        assert {key for record in records for key in record} == expected[kind]
        arrays = {key for record in reply.content.array_records.values() for key in record}
        assert arrays == (weights if kind == "train" else set())


def test_wandb_offline_and_the_folder_hold_the_same(tmp_path):
    folder = run(tmp_path, "wandb", "tracking=wandb", "tracking.mode=offline")
    assert list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    same_result(folder, run(tmp_path, "plain"))


def test_groups_that_train_together_give_the_same_run_in_float64(tmp_path):
    double = ("precision=float64", "federation.nodes=1")
    apart = run(tmp_path, "apart", *double)
    together = run(tmp_path, "together", *double, "training.groups_at_once=3")
    for one, other in zip(lines(apart), lines(together), strict=True):
        assert one["train_loss"] == pytest.approx(other["train_loss"], abs=1e-8)
        for cell, scores in one.get("cells", {}).items():
            assert scores == pytest.approx(other["cells"][cell], abs=1e-8)


@pytest.mark.parametrize(
    ("configured", "calls"),
    [("1", [(1, 1)] * 4), ("3", [(2, 3), (2, 3)]), ("null", [(1, 1)] * 4)],
)
def test_a_node_trains_as_many_groups_together_as_configured_and_as_memory_holds(
    tmp_path, monkeypatch, configured, calls
):
    taken = []

    def train(model, tasks, *others, at_once):
        taken.append((len(tasks), at_once))
        return train_groups(model, tasks, *others, at_once=at_once)

    monkeypatch.setattr("plurallm.federate.client_app.train_groups", train)
    monkeypatch.setattr("plurallm.federate.client_app.groups_in_memory", lambda model: 2)
    overrides = (f"training.groups_at_once={configured}", "federation.nodes=1")
    run(tmp_path, "chunks", *overrides, "federation.rounds=1", "device=cpu")
    assert taken == calls


def test_float64_runs_in_float64(tmp_path):
    folder = run(tmp_path, "double", "precision=float64", "federation.rounds=1")
    assert load_file(folder / "model/model.safetensors")["first.weight"].dtype == np.float64


@pytest.mark.slow
def test_the_model_learns_what_uniform_and_the_own_context_do_not_tell(tmp_path):
    folder = tmp_path / "learn"
    run_in_process([f"cache_dir={tmp_path}", f"output_dir={folder}", "federation.rounds=40"])
    summary = json.loads((folder / "summary.json").read_text())
    for cell in ("held_out_groups.seen_questions", "held_out_groups.unseen_questions"):
        trained = summary["cells"][cell]["alignment"]
        for baseline in ("uniform", "context_mean"):
            assert trained > summary["baselines"][baseline]["cells"][cell]["alignment"] + 0.02
    losses = [line["train_loss"] for line in lines(folder)]
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


def test_groups_with_too_few_questions_are_counted_in_the_result(tmp_path):
    rows = ["question_id,question,options,group,counts"]
    for group, questions in (("North", 40), ("East", 40), ("South", 5)):
        rows += [
            f'q{number},Question {number}?,"[""Yes"", ""No""]",{group},"[{number + 1}, 7]"'
            for number in range(questions)
        ]
    survey = tmp_path / "answers.csv"
    survey.write_text("\n".join(rows))
    custom = ["data=custom", f"data.path={survey}", "data.unseen_questions=0.0"]
    overrides = [item for item in TINY if not item.startswith("data.")]
    folder = tmp_path / "few"
    run_in_process([*overrides, *custom, f"cache_dir={tmp_path}", f"output_dir={folder}"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["groups_dropped"] == {"South": 5}
    assert set(summary["groups"]) == {"North", "East"}
    assert "Groups left out, with too few seen questions: South (5)." in notes(summary)


def test_more_groups_than_are_asked_cannot_be_required(tmp_path):
    with pytest.raises(ConfigError, match=r"min_groups is 5, but only 4 groups are asked"):
        run(tmp_path, "many", "federation.min_groups=5")
    with pytest.raises(ConfigError, match=r"min_groups is 3, but only 2 groups are asked"):
        run(tmp_path, "part", "federation.min_groups=3", "federation.fraction=0.5")


def test_a_run_scored_by_the_wasserstein_distance_names_it_and_has_no_base(tmp_path, capsys):
    groups = "data.groups=[Avaria,Belora,Coreneth,Atlantis]"
    folder = run(tmp_path, "ordinal", "data.distance=wasserstein", groups, "federation.rounds=1")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["distance"] == "wasserstein"
    assert summary["groups_absent"] == ["Atlantis"]
    assert set(summary["groups"]) == {"Avaria", "Belora", "Coreneth"}
    assert summary["survey"]["rows_dropped"]["question without ordinal values"] > 0
    for part in (summary, *summary["baselines"].values()):
        for cell in part["cells"].values():
            assert 0 < cell["alignment"] < 1
            assert not [key for key in cell if key.endswith("_e")]
    print_result(folder)
    printed = capsys.readouterr().out
    assert "base" not in printed.replace("it has no base", "")
    assert "Wasserstein" in printed
    assert "not in the survey: Atlantis." in printed
