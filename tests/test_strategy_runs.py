"""Whole runs with each strategy: any number of nodes, and resumed in the middle."""

import json

import numpy as np
import pytest
import tiny
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from plurallm.config.error import ConfigError
from plurallm.federate.client_app import app as client_app
from plurallm.federate.in_process import run_in_process
from plurallm.federate.round_report import FederationError
from plurallm.results.report.tables import print_result

TINY = [
    *tiny.TINY,
    *("data.num_groups=7", "data.held_out_fraction=0.28", "model.layers=1", "threads=1"),
    *("training.steps_per_round=1", "evaluation.every=2", "federation.rounds=4"),
    *("federation.checkpoint_every=2", "federation.fraction=1.0"),
]
STRATEGIES = [
    *(["strategy=fedprox"], ["strategy=fedavgm"], ["strategy=fedadam"], ["strategy=fedyogi"]),
    *(["strategy=qfedavg"], ["strategy=afl"], ["strategy=term"], ["strategy=adaptive"]),
    *(["strategy=median"], ["strategy=trimmed_mean"], ["strategy=multikrum"]),
]
RUNS = [
    ["strategy=fedyogi"],
    ["strategy=afl", "federation.fraction=0.6"],
    ["strategy=adaptive", "personal=ditto", "federation.fraction=0.6"],
    *(
        pytest.param(overrides, marks=pytest.mark.slow)
        for overrides in [*STRATEGIES, ["personal=ditto"]]
        if overrides != ["strategy=fedyogi"]
    ),
]
"""A strategy's state alone is tested for all of them in test_strategy_rules.py."""


class DiesInRound(ClientApp):
    """The real client until a round."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __call__(self, message, context):
        if message.metadata.message_type == "train":
            assert message.content["config"]["round"] < self.number, "the power went out"
        return client_app(message, context)


class LosesGroupsInRound(ClientApp):
    """The real client, but in one round all nodes save the first two are broken."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.seen = set()

    def __call__(self, message, context):
        if message.metadata.message_type == "train":
            self.seen.add(context.node_id)
            broken = message.content["config"]["round"] == self.number
            assert not broken or sorted(self.seen).index(context.node_id) < 2, "the disk is full"
        return client_app(message, context)


def run(tmp_path, name, *overrides, app=client_app):
    folders = (f"cache_dir={tmp_path}", f"state_dir={tmp_path / 'state'}")
    run_in_process([*TINY, *folders, f"output_dir={tmp_path / name}", *overrides], client_app=app)
    return tmp_path / name


def result(folder):
    model = (folder / "model/model.safetensors").read_bytes()
    return (folder / "metrics.jsonl").read_bytes(), model


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("overrides", RUNS, ids=" ".join)
def test_nodes_and_an_interruption_change_no_bit(tmp_path, overrides):
    whole = run(tmp_path, "whole", *overrides, "federation.nodes=7")
    with pytest.raises(FederationError, match=r"round 4.*the power went out"):
        run(tmp_path, "cut", *overrides, "federation.nodes=2", app=DiesInRound(4))
    run_in_process([f"resume={tmp_path / 'cut'}"])
    assert result(whole) == result(tmp_path / "cut")
    assert result(whole) == result(run(tmp_path, "one", *overrides, "federation.nodes=1"))


def test_fedprox_pulls_its_clients_and_at_mu_zero_is_fedavg(tmp_path):
    short = ("federation.rounds=2", "training.steps_per_round=2")
    fedavg, pulled, limit = (
        run(tmp_path, name, *short, *overrides)
        for name, *overrides in (
            ("fedavg",),
            ("fedprox", "strategy=fedprox"),
            ("limit", "strategy=fedprox", "strategy.mu=0"),
        )
    )
    assert result(limit) == result(fedavg)
    assert result(pulled)[1] != result(fedavg)[1]


def test_a_fair_run_tells_its_weights_and_distances(tmp_path):
    for line in lines(run(tmp_path, "term", "strategy=term")):
        assert list(line["strategy"]) == ["weights", "distances"]
        assert list(line["strategy"]["weights"]) == line["groups_trained"]
        assert sum(line["strategy"]["weights"].values()) == pytest.approx(1)
        assert all(0 < value < 1 for value in line["strategy"]["distances"].values())


def test_personal_scores_stand_beside_the_global_ones(tmp_path, capsys):
    plain = lines(run(tmp_path, "plain"))
    folder = run(tmp_path, "ditto", "personal=ditto")
    ditto = lines(folder)
    print_result(folder)
    assert capsys.readouterr().out.count("personal models") == 2  # of the training groups' cells
    for one, other in zip(plain, ditto, strict=True):
        personal = {key: other.pop(key) for key in list(other) if key.startswith("personal_")}
        assert one == other  # the global model is the same
        assert set(personal) == ({"personal_cells", "personal_groups"} if "cells" in one else set())
    assert set(personal["personal_cells"]) == {
        "train_groups.seen_questions",
        "train_groups.unseen_questions",
    }
    assert set(personal["personal_groups"]) == set(ditto[-1]["groups_trained"])
    assert personal["personal_cells"] != {
        name: cell for name, cell in ditto[-1]["cells"].items() if name.startswith("train")
    }


def test_before_a_group_has_trained_its_personal_score_is_the_global_one(tmp_path):
    few = ["personal=ditto", "federation.fraction=0.4", "federation.rounds=2"]
    apart = lines(run(tmp_path, "apart", *few, "federation.nodes=7"))
    together = lines(run(tmp_path, "together", *few, "federation.nodes=1"))
    assert apart == together
    trained = {group for line in apart for group in line["groups_trained"]}
    last = apart[-1]
    waiting = set(last["personal_groups"]) - trained
    assert waiting
    for group in last["personal_groups"]:
        same = last["personal_groups"][group] == last["groups"][group]
        assert same == (group in waiting)


def test_personal_models_at_mu_zero_are_local_training_alone(tmp_path):
    name = "Avaria"
    alone = [f"data.train_groups=[{name}]", "data.groups=null", "data.held_out_groups=[]"]
    local = lines(run(tmp_path, "local", *alone))
    ditto = lines(
        run(tmp_path, "ditto", "personal=ditto", "personal.mu=0", f"data.train_groups=[{name}]",
            "data.groups=all")
    )  # fmt: skip
    assert len(ditto[-1]["groups_trained"]) > 1
    for one, other in zip(local, ditto, strict=True):
        if "cells" in one:
            assert other["personal_groups"][name] == one["groups"][name]


def test_attackers_are_left_out_of_the_honest_cells(tmp_path):
    attack = ["data.train_groups=[Belora]", "data.groups=all", "attack.groups=[Belora]"]
    honest = run(tmp_path, "honest", *attack[:2])
    for name in ("scaled", "flipped", "shuffled"):
        attacked = run(tmp_path, name, f"attack={name}", *attack)
        assert result(attacked)[1] != result(honest)[1]
        last = lines(attacked)[-1]
        trained = len(last["groups_trained"])
        assert last["cells"]["train_groups.seen_questions"]["groups"] == trained
        assert last["honest_cells"]["train_groups.seen_questions"]["groups"] == trained - 1
        held_out = "held_out_groups.seen_questions"
        assert last["honest_cells"][held_out] == last["cells"][held_out]


def test_a_robust_strategy_is_not_led_by_one_scaled_update(tmp_path):
    attack = [
        *("data.train_groups=[Belora]", "data.groups=all", "attack=scaled"),
        *("attack.groups=[Belora]", "attack.factor=1e5", "federation.rounds=1"),
    ]
    largest = {}
    for name in ("fedavg", "median", "trimmed_mean", "multikrum"):
        folder = run(tmp_path, name, f"strategy={name}", *attack)
        model = load_file(folder / "model/model.safetensors")
        largest[name] = max(float(np.abs(array).max()) for array in model.values())
    assert largest.pop("fedavg") > 10
    assert all(value < 2 for value in largest.values())


def test_multikrum_keeps_the_attacker_out(tmp_path):
    folder = run(
        *(tmp_path, "krum", "strategy=multikrum", "data.train_groups=[Belora]", "data.groups=all"),
        *("attack=flipped", "attack.factor=-20", "attack.groups=[Belora]"),
    )
    for line in lines(folder):
        assert "Belora" not in line["strategy"]["kept"]
        assert len(line["strategy"]["kept"]) == len(line["groups_trained"]) - 1


@pytest.mark.parametrize("name", ["multikrum", "trimmed_mean"])
def test_a_round_with_too_few_updates_for_the_strategy_fails_and_the_run_goes_on(tmp_path, name):
    strategy = [f"strategy={name}", "federation.nodes=7", "federation.min_groups=1"]
    overrides = [*strategy, *(["strategy.trim=0.3"] if name == "trimmed_mean" else [])]
    reason = rf"round 3: 2 of \d groups.*strategy={name} needs \d; .*the disk is full"
    with pytest.raises(FederationError, match=reason):
        run(tmp_path, "ends", *overrides, app=LosesGroupsInRound(3))
    every = "federation.failed_rounds=1"
    folder = run(tmp_path, "goes on", *overrides, every, app=LosesGroupsInRound(3))
    written = lines(folder)
    assert [line["round"] for line in written if "failed" in line] == [3]
    assert written[-1]["round"] == 4


def test_a_run_that_cannot_work_stops_before_it_asks_for_training(tmp_path):
    with pytest.raises(ConfigError, match=r"strategy.attackers=2 needs 7 groups"):
        run(tmp_path, "few", "strategy=multikrum", "strategy.attackers=2")
