"""Nodes with surveys of their own, in one process: what they may be asked, and what leaves them."""

import csv
import json
import logging
import math
import os
import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from safetensors.numpy import load_file

from plurallm.config.compose import load_config
from plurallm.config.digest import config_digest
from plurallm.config.error import ConfigError
from plurallm.config.overrides import config_directory
from plurallm.data.roles import Roles
from plurallm.federate import registration
from plurallm.federate.attendance import Attendance
from plurallm.federate.client_app import app as client_app
from plurallm.federate.in_process import InProcessGrid, run_in_process
from plurallm.federate.local_data import local_data
from plurallm.federate.members import meet_nodes
from plurallm.federate.node.permission import ALLOWED, LARGEST, RefusalError, check_overrides
from plurallm.federate.node.settings import node_settings
from plurallm.federate.node_roles import assign_roles_of_nodes, extend_roles
from plurallm.federate.round_report import FederationError
from plurallm.federate.server_app import app as server_app
from plurallm.record.checkpoint import load_checkpoint
from plurallm.results.report.tables import notes

QUESTIONS = 40
GROUPS = ("North", "South", "East", "West, far")
RUN = [
    *(override for override in tiny.TINY if not override.startswith("data.")),
    *("data=nodes", "training.steps_per_round=2", "evaluation.every=2", "federation.rounds=4"),
    *("federation.nodes=4", "federation.checkpoint_every=1", "threads=1"),
    *("data.train_groups=[North,East,South]", "data.held_out_groups=['West, far']"),
]


def question_text(number):
    return f"What do you think of matter {number}?"


@pytest.fixture
def surveys(tmp_path, write_survey):
    """A file for each group, and one with all; questions in the same order in all of them."""
    draws = np.random.default_rng(0)

    def rows(groups, counts):
        return [
            {
                "question_id": f"q{number}",
                "question": question_text(number),
                "options": [f"option {number}.{option}" for option in range(2 + number % 3)],
                "group": group,
                "counts": counts[group, number],
            }
            for number in range(QUESTIONS)
            for group in groups
        ]

    counts = {
        (group, number): draws.integers(1, 90, size=2 + number % 3).tolist()
        for group in GROUPS
        for number in range(QUESTIONS)
    }
    files = {group: write_survey(rows([group], counts), f"{group}.csv") for group in GROUPS}
    return files | {"all": write_survey(rows(GROUPS, counts), "all.csv")}


def csv_name(group):
    return f'"{group}"' if "," in group else group


@pytest.fixture
def nodes(surveys, tmp_path):
    return [
        {"survey": str(surveys[group]), "groups": csv_name(group), "cache-dir": str(tmp_path / "c")}
        for group in GROUPS
    ]


@pytest.fixture
def deploy(tmp_path, nodes):
    """Run a deployment in this process; what concerns the server alone stays with the server."""

    def start(name, *overrides, nodes=nodes, grid=InProcessGrid, app=client_app, server=()):
        folder = tmp_path / name
        run_config = {
            "overrides": shlex.join([*RUN, *overrides]),
            "server-overrides": shlex.join(server or [f"output_dir={folder}"]),
        }
        context = Context(
            run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=run_config
        )
        server_app(grid(app, nodes, run_config), context)
        return folder

    return start


def lines(folder, file="metrics.jsonl"):
    return [json.loads(line) for line in (folder / file).read_text().splitlines()]


def weights(folder):
    return load_file(folder / "model/model.safetensors")


class Spoiled(ClientApp):
    """The real client, with its reply to some messages changed."""

    def __init__(self, spoil):
        super().__init__()
        self.spoil = spoil

    def __call__(self, message: Message, context: Context) -> Message:
        return self.spoil(message, client_app(message, context))


def is_training_of(message, group):
    return message.metadata.message_type == "train" and group in message.content["config"]["groups"]


def with_update(reply, value):
    arrays = reply.content.array_records["arrays"]
    spoiled = arrays["first.weight"].numpy().copy()
    spoiled[0, 0, 0] = value
    arrays["first.weight"] = Array(spoiled)
    return reply


def test_nodes_with_their_own_files_give_the_run_of_one_file_to_the_bit(deploy, surveys, tmp_path):
    apart = deploy("apart")
    common = [override for override in RUN if override != "data=nodes"]
    run_in_process(
        [
            *common,
            *("data=custom", f"data.path={surveys['all']}"),
            *(f"output_dir={tmp_path / 'one'}", f"cache_dir={tmp_path / 'c'}"),
        ]
    )
    file = "model/model.safetensors"
    assert (apart / file).read_bytes() == (tmp_path / "one" / file).read_bytes()
    # Only where one place has all answers is there a score of two groups' answers.
    of_one = [{**line, "plurality": None} for line in lines(tmp_path / "one")]
    assert [{**line, "plurality": None} for line in lines(apart)] == of_one


def test_a_deployment_reports_who_took_part_and_no_fact_of_a_survey(deploy, surveys):
    folder = deploy("run")
    text = (folder / "summary.json").read_text()
    summary = json.loads(text)
    assert summary["participation"]["North"] == {"trained": "1-4", "missed": ""}
    assert "West, far" not in summary["participation"]
    assert "North: trained in rounds 1-4." in notes(summary)
    assert "survey" not in summary
    assert "baselines" not in summary
    assert str(surveys["North"]) not in text
    timing = lines(folder, "timings.jsonl")[0]
    assert set(timing["groups"]) == {"North", "South", "East"}
    assert timing["groups"]["North"]["bytes_up"] == timing["bytes_up"] // 3
    assert timing["nodes"]["West, far"] == "4"


# What leaves a node


ALLOWED_KEYS = {
    "query.groups": {
        *("groups", "seen-questions", "embedding-width", "device", "threads", "partitions"),
        *("score-only", "config", "embedder", "probe"),
    },
    "train": {"num-examples", "train-loss", "seconds", "groups"},
    "evaluate": {
        "seen-distance",
        "unseen-distance",
        "seen-questions",
        "novel-distance",
        "novel-questions",
        "unseen-questions",
        "groups",
    },
}


def every_value(reply):
    for records in (reply.content.metric_records, reply.content.config_records):
        for record in records.values():
            for key, value in record.items():
                yield from ((key, item) for item in (value if isinstance(value, list) else [value]))


def test_only_weights_counts_scores_and_group_names_leave_a_node(deploy, surveys, tmp_path):
    replies = []

    def record(message, reply):
        replies.append((reply.metadata.src_node_id, reply))
        return reply

    folder = deploy("spied", app=Spoiled(record))
    assert {reply.metadata.message_type for _, reply in replies} == set(ALLOWED_KEYS)
    shapes = {name: value.shape for name, value in weights(folder).items()}
    secrets = [part for n in range(QUESTIONS) for part in (question_text(n), f"option {n}.0")]
    table_rows = np.concatenate([np.load(file) for file in tmp_path.glob("c/embeddings/*.npy")])
    shares = {
        round(count / sum(json.loads(row)), 6)
        for group in GROUPS
        for row in counts_of(surveys[group])
        for count in json.loads(row)
    }
    for node, reply in replies:
        kind = reply.metadata.message_type
        assert not reply.has_error()
        arrays = {
            name: array.numpy()
            for record in reply.content.array_records.values()
            for name, array in record.items()
        }
        assert {name: array.shape[1:] for name, array in arrays.items()} == (
            shapes if kind == "train" else {}
        )
        for array in arrays.values():
            # No row of the embedding table stands in any array.
            if array.shape[-1] == table_rows.shape[1]:
                flat = array.reshape(-1, array.shape[-1])
                assert not (flat[:, None] == table_rows[None]).all(-1).any()
        for key, value in every_value(reply):
            assert key in ALLOWED_KEYS[kind]
            if isinstance(value, str):
                assert key in ("groups", "device", "config", "embedder")
                known = (*GROUPS, "cpu", "hashing")
                assert value in known or (key == "config" and len(value) == 16)
            if isinstance(value, float) and key not in ("seconds", "probe"):
                assert value == 0 or round(value, 6) not in shares
        whole = repr(reply.content).encode() + b"".join(a.tobytes() for a in arrays.values())
        assert not [secret for secret in secrets if secret.encode() in whole]
        assert set(reply.content["config" if kind != "query.groups" else "node"]["groups"]) == {
            GROUPS[node - 1]
        }


def counts_of(file):
    with file.open() as stream:
        return [row["counts"] for row in csv.DictReader(stream)]


def test_of_a_broken_file_the_server_learns_only_that_it_is_broken(deploy, nodes, surveys, caplog):
    secret = "a very private answer"
    text = surveys["South"].read_text()
    surveys["South"].write_text(
        text.replace('["option 3.0"', f'["{secret}"', 1).replace("[", "{", 1)
    )
    with (
        caplog.at_level(logging.INFO, "plurallm"),
        pytest.raises(FederationError) as error,
    ):
        deploy("broken")
    assert "SurveyError on the node" in str(error.value)
    assert "South.csv" not in str(error.value)
    assert "South.csv, row" in caplog.text  # the node's own log says where


def test_a_broken_file_in_mid_run_costs_that_group_only(deploy, surveys):
    def spoil(message, reply):
        if is_training_of(message, "North") and message.content["config"]["round"] == 2:
            surveys["South"].write_text("no,survey\n")
        return reply

    folder = deploy("mid", app=Spoiled(spoil))
    rounds = lines(folder)
    assert [sorted(line["groups_refused"]) for line in rounds] == [
        [],
        ["South"],
        ["South"],
        ["South"],
    ]
    assert "SurveyError on the node" in rounds[1]["groups_refused"]["South"]


# What a node may be asked


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("data.path=/etc/passwd", "data.path is not among the keys"),
        ("data=custom data.path=/etc/passwd", "data.path is not among the keys"),
        ("data=synthetic", "it reads its own survey"),
        ("data=globalopinionqa", "its own survey"),
        ("+data.path=/etc/passwd", "does not have the form"),
        ("~model", "does not have the form"),
        ("output_dir=/tmp/x", "output_dir is not among"),
        ("cache_dir=/tmp/x", "cache_dir is not among"),
        ("resume=/tmp/x", "resume is not among"),
        ("device=cpu", "device is not among"),
        ("tracking=wandb", "tracking is not among"),
        ("state_dir=/tmp/x", "state_dir is not among"),
        ("attack=flipped", "attack is not among"),
        ("embedding=table embedding.path=/etc/passwd", "embedding.path is not among"),
        ("data.num_groups=3", "data.num_groups is not among"),
        ("hydra.run.dir=/tmp/x", "hydra.run.dir is not among"),
        ("hydra/launcher=basic", "hydra/launcher is not among"),
        ("seed='${oc.env:HOME}'", "no value may refer"),
        ("embedding=sentence_transformer embedding.model=/etc", "embedding.model is not among"),
        ("embedding=hashing@data", "embedding"),
    ],
)
def test_a_run_that_asks_for_more_is_refused_by_the_node(nodes, override, reason, caplog):
    run_config = {"overrides": " ".join(["data=nodes", override])}
    grid = InProcessGrid(client_app, nodes, run_config)
    with caplog.at_level(logging.INFO, "plurallm"):
        (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query.groups")])
    assert reply.has_error()
    assert reason in reply.error.reason
    assert "root:" not in reply.error.reason
    assert reason in caplog.text  # in the node's log too


@pytest.mark.parametrize("group", ["federation", "strategy", "experiment"])
@pytest.mark.parametrize("form", ["{}", "[{}]", "'{}'", "{}.yaml"])
def test_a_run_reads_no_file_outside_conf(nodes, tmp_path, group, form, caplog):
    for content in ("- a private line\n", "defaults: a private line\n", "rounds: a private line\n"):
        (tmp_path / "list.yaml").write_text(content)
        for way in (Path(os.path.relpath(tmp_path, config_directory() / group)), tmp_path):
            override = f"{group}={form.format(way / 'list')}"
            run_config = {"overrides": shlex.join(["data=nodes", override])}
            grid = InProcessGrid(client_app, nodes, run_config)
            (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query.groups")])
            assert f"{group} must be the name of a file" in reply.error.reason
            assert "private" not in reply.error.reason + caplog.text
            with pytest.raises(ConfigError, match=f"{group} must be the name"):
                load_config([override], None)


def asked_groups(nodes, *overrides):
    """The first node's answer when a run asks it for its groups."""
    grid = InProcessGrid(client_app, nodes, {"overrides": shlex.join(["data=nodes", *overrides])})
    (reply,) = grid.send_and_receive([Message(RecordDict(), 1, "query.groups")])
    return reply


@pytest.mark.parametrize("key", LARGEST)
def test_no_number_of_a_run_exhausts_a_node(nodes, key):
    embedder = "embedding=minilm" if key == "embedding.batch_tokens" else "embedding=hashing"
    more = LARGEST[key] + 2  # an even number
    value = f"[1,{more}]" if key.startswith("training.") and "questions" in key else more
    # A model's width is a multiple of its heads.
    heads = f"model.width={LARGEST['model.heads'] + 2}" if key == "model.heads" else "model.heads=2"
    reply = asked_groups(nodes, embedder, heads, f"{key}={value}")
    assert reply.has_error()
    assert f"the node refuses {key}=" in reply.error.reason
    assert f"at most {LARGEST[key]}, unless its data holder" in reply.error.reason


def test_a_data_holder_can_allow_larger_numbers(nodes):
    assert asked_groups(nodes, "training.steps_per_round=201").has_error()
    assert not asked_groups(nodes, "training.steps_per_round=200").has_error()
    allowing = [nodes[0] | {"allow": "training.steps_per_round"}]
    assert not asked_groups(allowing, "training.steps_per_round=201").has_error()


def test_a_key_that_a_run_may_set_is_no_folder(nodes):
    for override in ("model.x/y=z", "model@training=gpo", "training={a: b}"):
        with pytest.raises(RefusalError):
            check_overrides([override], node_settings(nodes[0]))
    with pytest.raises(ConfigError, match="federation must be the name"):
        load_config(["federation@training=../../x"], None)


def test_the_reason_of_a_refusal_stands_in_the_servers_error(deploy, nodes):
    for node in nodes:
        node["groups"] = "Nowhere"
    with pytest.raises(FederationError, match=r"0 of 4 nodes.*SurveyError on the node"):
        deploy("refused")
    with pytest.raises(FederationError, match=r"node 1: RefusalError: .*cache_dir is not among"):
        deploy("refused", "cache_dir=/tmp/x")


def test_a_node_can_allow_more(nodes):
    allowing = node_settings(nodes[0] | {"allow": "data.num_groups, embedding.model"})
    check_overrides(["data.num_groups=3", "embedding.model=x"], allowing)
    with pytest.raises(ConfigError, match=r"data\.path"):
        check_overrides(["data.path=x"], allowing)


def test_a_group_that_may_only_be_scored_is_never_trained(deploy, nodes):
    nodes[1]["role"] = "score"
    folder = deploy("score", "data.train_groups=[North,East]", "data.groups=all")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["held_out_groups"] == ["West, far", "South"]
    assert "South" in summary["groups"]
    with pytest.raises(FederationError, match="refuses to train group 'South'"):
        deploy("train")


def test_a_node_refuses_groups_that_are_not_its_own(nodes):
    run_config = {"overrides": shlex.join(RUN)}
    grid = InProcessGrid(client_app, nodes, run_config)
    for kind, group, reason in (
        ("train", "South", "does not host"),
        ("evaluate", "South", "does not host"),
    ):
        content = RecordDict(
            {"arrays": ArrayRecord(), "config": ConfigRecord({"round": 1, "groups": [group]})}
        )
        (reply,) = grid.send_and_receive([Message(content, 1, kind)])
        assert reason in reply.error.reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"survey": "answers.csv"}, "absolute path"),
        ({"survey": ""}, "survey=..."),
        ({"groups": " "}, "groups=..."),
        ({"groups": '""'}, "groups=..."),
        ({"threads": 0}, "threads must be >= 1"),
        ({"role": "spy"}, "role must be one of"),
        ({"layout": "excel"}, "layout must be one of"),
        ({"grups": "A"}, "'grups'"),
    ],
)
def test_wrong_settings_of_a_node_are_named(nodes, change, reason):
    with pytest.raises(ConfigError, match=reason):
        node_settings(nodes[0] | change)


# Joining and leaving


class Presence(InProcessGrid):
    """Nodes that are there in some rounds only: ``rounds_of[node]`` are a node's rounds."""

    def __init__(self, rounds_of, *arguments):
        super().__init__(*arguments)
        self.rounds_of = rounds_of
        self.round = 1

    def get_node_ids(self):
        return [
            node
            for node in super().get_node_ids()
            if self.round in self.rounds_of.get(node, range(1, 99))
        ]

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        there = set(self.get_node_ids())
        for message in messages:
            if message.metadata.dst_node_id in there:
                yield self._call(message)
        if messages and messages[0].metadata.message_type == "train":
            self.round = messages[0].content["config"]["round"] + 1


def presence(**rounds_of):
    return partial(Presence, {int(name[1:]): rounds for name, rounds in rounds_of.items()})


def test_a_node_that_comes_late_takes_part_from_the_next_round(deploy):
    grid = presence(n2=range(3, 99))
    folder = deploy("late", "federation.min_groups=2", "federation.nodes=3", grid=grid)
    rounds = lines(folder)
    assert [line["groups_trained"] for line in rounds] == [
        *[["North", "East"]] * 2,
        *[["North", "East", "South"]] * 2,
    ]
    assert lines(folder, "timings.jsonl")[2]["joined"] == {"South": "2"}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["participation"]["South"] == {"trained": "3-4", "missed": ""}


def test_a_key_brings_the_groups_it_is_registered_for_and_no_other(
    deploy, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv(registration.FOLDER, str(tmp_path))
    for node, groups in (("1", ["North"]), ("2", ["East"]), ("3", None)):
        registration.bind(tmp_path, node, groups)
    folder = deploy("bound", "federation.min_groups=2")
    assert all(line["groups_trained"] == ["North", "East"] for line in lines(folder))
    said = "node 2 cannot take part: its key is not registered for group 'South', but for East"
    assert said in caplog.text
    assert (
        "node 4 cannot take part: its key is not registered for group 'West, far', but for no"
        in (caplog.text)
    )
    entries = lines(tmp_path, registration.AUDIT)
    assert {(entry["what"], entry.get("node")) for entry in entries} == {
        *(("run started", None), ("node admitted", 1), ("node admitted", 3)),
        *(("node refused", 2), ("node refused", 4)),
    }
    assert all(entry["time"] and entry["who"] for entry in entries)


class WithKeys(InProcessGrid):
    keyless = False  # as Flower's own


def test_a_deployment_that_does_not_know_whose_keys_bring_what_is_refused(
    deploy, tmp_path, monkeypatch
):
    monkeypatch.delenv(registration.FOLDER, raising=False)
    with pytest.raises(registration.RegistrationError, match=r"PLURALLM_OPERATOR is not set"):
        deploy("open", grid=WithKeys)
    operator = tmp_path / "operator"
    operator.mkdir()
    monkeypatch.setenv(registration.FOLDER, str(operator))
    with pytest.raises(registration.RegistrationError, match=r"groups\.json is missing"):
        deploy("open", grid=WithKeys)
    assert not (tmp_path / "open").exists()
    assert [entry["what"] for entry in lines(operator, registration.AUDIT)] == ["run refused"]
    for node in ("1", "2", "3", "4"):
        registration.bind(operator, node, None)
    deploy("open", grid=WithKeys)


HOSTILE_ANSWERS = [
    *({"groups": names} for names in ("South", ["South\n\x1b[2Jround 3"], ["S" * 10**6], [])),
    {"groups": ["South", "South"], "seen-questions": [9, 9], "score-only": [False, False]},
    *({"seen-questions": counts} for counts in ([], ["many"], [-1], [2**62], [math.nan])),
    {"score-only": [3]},
    *({"embedding-width": width} for width in ("x", 10**8, -1, 32.5)),
    *({"device": 3.0}, {"device": "\x1b[2J"}, {"threads": "x"}, {"partitions": -3}),
    {"config": 3},
]


@pytest.mark.parametrize("answer", [None, {}, *HOSTILE_ANSWERS])
def test_a_node_that_says_nonsense_of_itself_is_done_without(nodes, answer, caplog):
    def spoil(message, reply):
        if message.metadata.dst_node_id == 2:
            record = reply.content.config_records["node"]
            if answer is None:
                reply.content.clear()
            elif not answer:
                record.clear()
            else:
                record |= answer
        return reply

    overrides = [*RUN, "federation.min_groups=2"]
    grid = InProcessGrid(Spoiled(spoil), nodes, {"overrides": shlex.join(overrides)})
    config = load_config(overrides, None)
    digest = config_digest(config)
    met = meet_nodes(grid, config, digest)
    assert list(met) == [3, 1, 4]
    (warning,) = [line for line in caplog.messages if "cannot take part" in line]
    assert "node 2" in warning
    assert warning.isprintable()
    assert len(warning) < 600
    # The same of one that joins a run.
    roles = Roles(train=("North",), held_out=(), dropped={})
    late = Attendance(config, digest, {1: met[1]}, roles)
    late.follow(grid, 2)
    assert set(late.nodes) == {1, 3, 4}


def test_a_late_node_changes_nothing_before_it_comes(deploy, nodes):
    grid = presence(n2=range(5, 99))
    late = deploy("late", "federation.min_groups=2", "federation.nodes=3", grid=grid)
    never = deploy("never", "federation.nodes=3", nodes=[nodes[0], nodes[2], nodes[3]])
    assert (late / "metrics.jsonl").read_bytes() == (never / "metrics.jsonl").read_bytes()


def test_a_node_that_leaves_is_missed_and_may_come_back(deploy):
    folder = deploy("away", grid=presence(n2=(1, 4)))
    rounds = lines(folder)
    assert [line["groups_refused"] for line in rounds] == [
        {},
        {"South": "its node is away"},
        {"South": "its node is away"},
        {},
    ]
    timings = lines(folder, "timings.jsonl")
    assert timings[1]["left"] == {"South": "2"}
    assert timings[3]["joined"] == {"South": "2"}
    assert rounds[1]["groups_unscored"] == {"South": "its node is away"}
    summary = json.loads((folder / "summary.json").read_text())
    assert "South: trained in rounds 1, 4, missed 2-3." in notes(summary)


def test_rounds_with_too_few_groups_fail_as_many_times_as_is_allowed(deploy):
    grid = presence(n1=(1, 4), n2=(1, 4))
    few = ("federation.min_groups=3", "federation.wait_seconds=0.3")
    with pytest.raises(FederationError, match=r"round 2: 1 of 3 groups.*North: its node is away"):
        deploy("stops", *few, grid=grid)
    folder = deploy("goes-on", *few, "federation.failed_rounds=2", grid=grid)
    rounds = lines(folder)
    assert ["failed" in line for line in rounds] == [False, True, True, False]
    assert rounds[1]["train_loss"] is None
    assert rounds[1]["groups_trained"] == []
    assert rounds[1]["groups_refused"]["East"] == "the round failed"


def test_a_failed_round_keeps_the_weights(deploy):
    gone = ("federation.min_groups=3", "federation.wait_seconds=0.3", "federation.failed_rounds=9")
    one = deploy("one", *gone, grid=presence(n1=(1,)))
    # Without node 1 every later round fails: the model is that of the first.
    checkpoint = load_checkpoint(one / "checkpoint")
    for name, value in weights(one).items():
        assert np.array_equal(value, checkpoint.arrays[name])
    two = deploy("two", "federation.min_groups=3")
    assert not np.array_equal(weights(one)["first.weight"], weights(two)["first.weight"])


def test_a_group_of_two_nodes_is_refused_naming_both(deploy, nodes):
    double = [*nodes, nodes[0]]
    with pytest.raises(FederationError, match=r"group 'North' is hosted by two nodes, 1 and 5"):
        deploy("start", "federation.nodes=5", nodes=double)
    folder = deploy("late", nodes=double, grid=presence(n5=range(2, 99)))
    assert all("North" in line["groups_trained"] for line in lines(folder))
    assert lines(folder, "timings.jsonl")[-1]["nodes"]["North"] == "1"


def test_without_a_number_of_nodes_or_groups_nobody_knows_when_to_start(deploy):
    with pytest.raises(ConfigError, match=r"federation\.nodes"):
        deploy("open", "federation.nodes=null")
    folder = deploy("least", "federation.nodes=null", "federation.min_groups=3")
    assert len(lines(folder)) == 4


def test_a_resumed_deployment_ends_like_an_uninterrupted_one(deploy, tmp_path):
    whole = deploy("whole")

    def spoil(message, reply):
        if message.metadata.message_type == "train" and message.content["config"]["round"] == 3:
            raise RuntimeError("the power went out")
        return reply

    with pytest.raises(FederationError):
        deploy("cut", app=Spoiled(spoil))
    cut = deploy("cut", server=[f"resume={tmp_path / 'cut'}"])
    for file in ("metrics.jsonl", "model/model.safetensors"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()


def roles_of(*overrides, train=(), held_out=(), new=(), score_only=()):
    config = load_config(["data=nodes", *overrides], None)
    known = Roles(tuple(train), tuple(held_out), {})
    return extend_roles(known, dict.fromkeys(new, 99), set(score_only), config)


def test_roles_of_groups_that_come_later():
    listed = ("data.train_groups=[a,b]", "data.held_out_groups=[h]")
    assert roles_of(*listed, train=["a"], new=["b", "h", "z"]).by_group == {
        **{"a": "train", "b": "train", "h": "held_out"}
    }
    everyone = roles_of(train=["India (Delhi)"], held_out=["Peru (x)"], new=["India (all)", "Peru"])
    assert everyone.by_group["India (all)"] == "train"
    assert everyone.by_group["Peru"] == "held_out"
    assert roles_of(train=["a"], new=["b"], score_only=["b"]).held_out == ("b",)
    many = [f"group {number}" for number in range(300)]
    drawn = roles_of("data.held_out_fraction=0.3", train=["a"], new=many)
    assert 60 < len(drawn.held_out) < 120
    assert drawn == roles_of("data.held_out_fraction=0.3", train=["a"], new=many)


def test_listed_groups_may_be_missing_at_the_start():
    config = load_config(
        ["data=nodes", "data.train_groups=[a,b]", "data.held_out_groups=[h]"], None
    )
    assert assign_roles_of_nodes({"a": 99}, set(), config).train == ("a",)
    with pytest.raises(ConfigError, match=r"none of data\.train_groups"):
        assign_roles_of_nodes({"h": 99}, set(), config)


# Bad updates


@pytest.mark.parametrize(
    ("value", "reason"),
    [(math.nan, "not finite"), (1e9, "its norm is 1e+09, the bound 10000"), (3e38, "its norm is")],
)
def test_a_bad_update_is_left_out_and_named(deploy, nodes, value, reason):
    def spoil(message, reply):
        return with_update(reply, value) if is_training_of(message, "South") else reply

    folder = deploy("bad", app=Spoiled(spoil))
    for line in lines(folder):
        assert reason in line["groups_refused"]["South"]
    without = deploy("without", "federation.nodes=3", nodes=[nodes[0], nodes[2], nodes[3]])
    for name, value in weights(folder).items():
        assert np.array_equal(value, weights(without)[name])


def test_without_a_bound_any_finite_update_is_taken(deploy):
    def spoil(message, reply):
        return with_update(reply, 1e6) if is_training_of(message, "South") else reply

    folder = deploy(
        "any", "federation.max_update_norm=null", "federation.rounds=1", app=Spoiled(spoil)
    )
    assert lines(folder)[0]["groups_refused"] == {}


def test_a_node_noises_its_answers_whatever_the_run_asks(deploy, nodes, tmp_path):
    plain = deploy("plain", "federation.rounds=1")
    pinned = [{**node, "epsilon": "1", "state-dir": str(tmp_path / "state")} for node in nodes]
    one, again = (deploy(name, "federation.rounds=1", nodes=pinned) for name in ("one", "again"))
    assert (one / "metrics.jsonl").read_text() != (plain / "metrics.jsonl").read_text()
    assert all(np.array_equal(value, weights(again)[name]) for name, value in weights(one).items())
    assert len(list((tmp_path / "state/respondent").glob("*.safetensors"))) == len(GROUPS)


def test_the_run_may_ask_for_noise_but_not_weaken_it(nodes, tmp_path):
    def local(*overrides, **settings):
        node = {**nodes[0], "state-dir": str(tmp_path / "state"), **settings}
        run_config = {"overrides": shlex.join([*RUN, *overrides])}
        return local_data(Context(1, 1, node, RecordDict(), run_config))

    assert local("privacy=respondent", "privacy.epsilon=9").config.privacy.epsilon == 9
    assert local("privacy=respondent", "privacy.epsilon=9", epsilon="2").config.privacy.epsilon == 2
    with pytest.raises(RefusalError, match=r"promises epsilon 1 at delta 1e-06, but .* for 2 at"):
        local("privacy=respondent", "privacy.epsilon=1", epsilon="2")
    assert local(epsilon=0.5).config.privacy.epsilon == 0.5
    for weaker in ("questions_per_respondent=1", "respondents=9", "true_scores=true"):
        with pytest.raises(RefusalError, match="is not among the keys"):
            local("privacy=respondent", f"privacy.{weaker}")
    for refused in ("attack=scaled", "state_dir=/tmp"):
        with pytest.raises(RefusalError, match="is not among the keys"):
            local(refused)
    with pytest.raises(ConfigError, match=r"privacy.epsilon must be"):
        local(epsilon="-1")


def test_answers_are_noised_once_whichever_questions_a_run_scores(write_survey, tmp_path):
    rows = [
        {
            "question_id": f"q{number}",
            "question": question_text(number),
            "options": ["no", "perhaps", "yes"],
            "group": "North",
            "counts": [30, 20, 10],
            "ordinal": [1, 2, 3] if number % 3 else "",
        }
        for number in range(QUESTIONS)
    ]
    state = tmp_path / "state"
    node = {"survey": str(write_survey(rows)), "groups": "North", "epsilon": "16"}
    node |= {"cache-dir": str(tmp_path / "c"), "state-dir": str(state)}
    shares = []
    for distance in ("jensen_shannon", "wasserstein"):
        run_config = {"overrides": shlex.join([*RUN, f"data.distance={distance}"])}
        local = local_data(Context(1, 1, node, RecordDict(), run_config))
        seen = local.tasks["North"].seen
        shares.append(dict(zip(seen.question_Q.tolist(), seen.share_QO.tolist(), strict=True)))
    everything, with_scale = shares
    assert 0 < len(with_scale) < len(everything)
    files = len(list((state / "respondent").glob("*.safetensors")))
    assert files == 1


def test_personal_models_stay_in_the_nodes_folder(deploy, nodes, tmp_path):
    own = [{**node, "state-dir": str(tmp_path / "state")} for node in nodes]
    last = lines(deploy("ditto", "personal=ditto", nodes=own))[-1]
    files = (tmp_path / "state/personal").glob("*/*/*.safetensors")
    assert {file.parent.name for file in files} == set(last["personal_groups"])


EXPERTS = "personal=experts"


def test_a_node_sends_an_expert_only_where_its_data_holder_allows_it(deploy, nodes):
    own = [{**node, "allow": "personal.experts"} for node in nodes[1:]]
    folder = deploy("experts", EXPERTS, nodes=[nodes[0], *own])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    (declined,) = summary["experts"]["declined"].values()
    assert "its settings do not allow personal.experts" in declined
    assert len(summary["experts"]["groups"]) == 2
    assert set(summary["groups"]) == set(GROUPS)  # who declined is served by the others' experts
    assert summary["trunk_cells"] != summary["cells"]
    weights = load_file(folder / "experts" / "model.safetensors")
    assert {len(stacked) for stacked in weights.values()} == {2}


def test_without_any_expert_the_global_model_predicts_and_the_run_says_so(deploy, caplog):
    folder = deploy("experts", EXPERTS)
    assert "no group sent an expert" in caplog.text
    assert "allow=personal.experts" in caplog.text
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["experts"]["groups"] == []
    assert set(summary["experts"]["declined"]) == set(summary["train_groups"])
    assert summary["cells"] == lines(folder)[-1]["cells"]
    assert not (folder / "experts").exists()


def test_a_run_may_not_set_how_experts_learn(nodes):
    settings = node_settings(nodes[0])
    with pytest.raises(RefusalError, match=r"personal\.steps is not among the keys"):
        check_overrides([EXPERTS, "personal.steps=100000"], settings)


def test_the_guide_lists_the_bounds_of_what_a_run_may_ask():
    guide = Path(__file__).resolve().parent.parent / "docs/deployment.md"
    table = guide.read_text().split("| key | at most |")[1].split("\n\n")[0]
    rows = re.findall(r"\| `([\w.]+)` \| (\d+) \|", table)
    assert {key: int(most) for key, most in rows} == LARGEST


def test_the_guide_lists_the_keys_that_a_run_may_set():
    guide = Path(__file__).resolve().parent.parent / "docs/deployment.md"
    block = re.search(r"```text\n(.*?)```", guide.read_text(), re.DOTALL)[1]
    assert set(re.sub(r"\(.*?\)", "", block).split()) == set(ALLOWED)
