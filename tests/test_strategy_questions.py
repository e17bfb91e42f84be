"""A node that has not answered is asked nothing else, with the real apps and slow nodes."""

import json
import shlex
from functools import partial

import pytest
from flwr.app import Error, Message, RecordDict
from test_deployment import RUN, deploy, lines, nodes, surveys  # noqa: F401

from plurallm.config.compose import load_config
from plurallm.config.digest import config_digest
from plurallm.data.roles import Roles
from plurallm.federate.attendance import Attendance
from plurallm.federate.client_app import app as client_app
from plurallm.federate.in_process import InProcessGrid
from plurallm.federate.members import meet_nodes
from plurallm.federate.outstanding import PatientGrid
from plurallm.federate.round_report import FederationError


class Slow(InProcessGrid):
    """Node 2 answers the questions of `late` types only when they are pulled for the nth time."""

    def __init__(self, late, pulls, *arguments):
        super().__init__(*arguments)
        self.late, self.pulls = list(late), pulls
        self.held: dict[str, list] = {}
        self.asked, self.lives = [], []

    def send_and_receive(self, messages, *, timeout=None):
        for message in messages:
            kind, node = message.metadata.message_type, message.metadata.dst_node_id
            if node == 2:
                assert not self.held, "it was asked while its answer was due"
                self.asked.append(kind)
                self.lives.append(message.metadata.ttl)
            reply = self._call(message)
            if node == 2 and self.late[:1] == [kind]:
                self.late.pop(0)
                self.held[message.metadata.message_id] = [self.pulls, reply]
            else:
                yield reply

    def pull_messages(self, message_ids):
        for name in message_ids:
            self.held[name][0] -= 1
            if not self.held[name][0]:
                yield self.held.pop(name)[1]


def made(made_grids, *arguments):
    """An engine like `Slow` that the test can look at after the run."""
    made_grids.append(Slow(*arguments))
    return made_grids[-1]


def test_a_slow_node_is_asked_again_when_it_has_answered(deploy):  # noqa: F811
    grids = []
    folder = deploy("slow", grid=partial(made, grids, ["train"], 3))
    rounds = lines(folder)
    assert [line["groups_refused"] for line in rounds[:3]] == [
        {"South": "no reply from node 2"},
        {"South": "its node has an earlier question to answer"},
        {},
    ]
    # Rounds 2 and 4 are scored; its answer came before round 2's scores were asked for.
    assert grids[0].asked == ["query.groups", "train", "evaluate", "train", "train", "evaluate"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["participation"]["South"] == {"trained": "3-4", "missed": "1-2"}


def test_a_node_that_never_answers_is_asked_once(deploy):  # noqa: F811
    grids = []
    folder = deploy("silent", grid=partial(made, grids, ["train"], 10**9))
    assert grids[0].asked == ["query.groups", "train"]
    busy = "its node has an earlier question to answer"
    assert [line["groups_refused"]["South"] for line in lines(folder)[1:]] == [busy] * 3
    assert lines(folder)[1]["groups_unscored"] == {"South": busy}


def test_a_round_waits_for_nodes_that_have_to_answer(deploy):  # noqa: F811
    """Too few groups are free in round 2 until node 2 has answered round 1's question."""
    everyone = ("federation.min_groups=3", "federation.failed_rounds=1")
    folder = deploy("waits", *everyone, grid=partial(made, [], ["train"], 4))
    assert ["failed" in line for line in lines(folder)] == [True, False, False, False]
    never = partial(made, [], ["train"], 10**9)
    with pytest.raises(FederationError, match=r"round 2: 2 of 3 .*earlier question to answer"):
        deploy("fails", *everyone, "federation.wait_seconds=0.5", grid=never)


def question(node=2, kind="query.groups"):
    return Message(RecordDict(), node, kind)


@pytest.fixture
def slow(nodes):  # noqa: F811
    def start(late, pulls, *overrides):
        run_config = {"overrides": shlex.join([*RUN, *overrides])}
        inner = Slow(late, pulls, client_app, nodes, run_config)
        return inner, PatientGrid(inner)

    return start


def test_questions_live_longer_each_time_and_one_that_is_gone_frees_the_node(slow, monkeypatch):
    inner, grid = slow(["query.groups"] * 3, 1)
    monkeypatch.setattr(inner, "pull_messages", lambda ids: [gone(held(inner, i)) for i in ids])
    for _ in range(3):
        assert list(grid.send_and_receive([question()], timeout=10)) == []
    (reply,) = grid.send_and_receive([question()], timeout=10)
    assert not reply.has_error()
    list(grid.send_and_receive([question()], timeout=10))
    assert inner.lives == [20, 40, 80, 160, 20]
    list(grid.send_and_receive([question()], timeout=10**6))
    assert inner.lives[-1] == 12 * 3600


def held(inner, message_id):
    del inner.held[message_id]
    return message_id


def gone(message_id):
    """What Flower says of a question that has expired, or whose node it has lost."""
    asked = Message(RecordDict(), 1, "train")
    asked.metadata.__dict__["_message_id"] = message_id
    asked.metadata.__dict__["_src_node_id"] = 1
    return Message(Error(code=8, reason="Message Unavailable"), reply_to=asked)


def test_a_node_has_one_question_even_of_one_call(slow, caplog):
    inner, grid = slow([], 1)
    replies = list(grid.send_and_receive([question(), question(1), question()], timeout=10))
    assert len(replies) == 2
    assert inner.asked == ["query.groups"]
    assert "node 2 is not asked: it has a question to answer" in caplog.text


def test_a_node_that_was_lost_while_it_was_asked_is_free(slow, monkeypatch):
    inner, grid = slow([], 1)

    def lost(messages, *, timeout=None):
        messages = list(messages)
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = str(number)
        return [gone(message.metadata.message_id) for message in messages]

    with monkeypatch.context() as patched:
        patched.setattr(inner, "send_and_receive", lost)
        (reply,) = grid.send_and_receive([question()], timeout=10)
    assert reply.has_error()
    assert grid.busy() == set()


def test_who_joins_is_not_asked_for_its_groups_again_before_it_has_answered(slow):
    overrides = [*RUN, "federation.min_groups=2", "federation.wait_seconds=1"]
    inner, grid = slow(["query.groups"], 10**9, *overrides[len(RUN) :])
    config = load_config(overrides, None)
    digest = config_digest(config)
    met = meet_nodes(grid, config, digest)
    assert list(met) == [3, 1, 4]
    assert inner.asked == ["query.groups"]
    for held in inner.held.values():
        held[0] = 2  # its answer comes when it is pulled for the second time from now on
    late = Attendance(config, digest, {1: met[1]}, Roles(("North",), (), {}))
    for number in range(2, 5):
        late.follow(grid, number)
    assert set(late.nodes) == {1, 2, 3, 4}
    assert inner.asked == ["query.groups", "query.groups"]


def test_late_answers_change_no_bit_of_the_others_model(deploy, nodes):  # noqa: F811
    slow = deploy("slow", grid=partial(made, [], ["train"], 10**9))
    never = deploy("never", "federation.nodes=3", nodes=[nodes[0], nodes[2], nodes[3]])
    file = "model/model.safetensors"
    assert (slow / file).read_bytes() == (never / file).read_bytes()
