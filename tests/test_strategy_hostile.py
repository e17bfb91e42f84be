"""Whatever a malicious node sends: it is refused with a reason, and the round goes on.

Every message goes over Flower's wire and back, so that only what can be sent is tried.
"""

import math
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_strategy import ONE_EACH, ROLES, ask, failure, model, record, reply, score_reply

from plurallm.config.compose import load_config
from plurallm.config.digest import config_digest
from plurallm.federate.aggregators.choice import make_aggregator
from plurallm.federate.fedavg import GroupFedAvg
from plurallm.federate.in_process import InProcessGrid
from plurallm.federate.members import Node, ask_groups, meet_nodes

LONGEST = 600  # characters of a reason
MANY = 3000

hostile = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

extremes = st.sampled_from(
    [
        *(0, -1, 1, 10**9, 10**9 + 1, -(2**63), 2**63 - 1, 0.0, -0.0, 1.5, -1.0, 1e308),
        *(math.nan, math.inf, -math.inf),
    ]
)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=True, allow_infinity=True)
texts = st.text(max_size=20) | st.sampled_from(["a", "b\n\x1b[2J", "x" * 10**5, "\0", "\u202eb"])
numbers = integers | floats | extremes
metric_values = (
    numbers
    | st.lists(integers, max_size=4)
    | st.lists(floats, max_size=4)
    | st.builds(lambda value: [value] * MANY, extremes)
    | st.builds(lambda value: [value], numbers)
)
config_values = (
    metric_values
    | texts
    | st.booleans()
    | st.binary(max_size=20)
    | st.lists(texts, max_size=4)
    | st.lists(st.booleans(), max_size=4)
    | st.lists(st.binary(max_size=4), max_size=4)
    | st.just([f"group {number}" for number in range(MANY)])
    | st.just(["b"] * MANY)
)
names = st.sampled_from(
    [
        *("num-examples", "train-loss", "seconds", "received-distance", "personal-groups"),
        *("groups", "seen-distance", "unseen-distance", "seen-questions", "unseen-questions"),
    ]
)


def as_array(dtype, shape, stype, data):
    return Array(dtype, tuple(shape), stype, data)


shapes = st.lists(st.sampled_from([0, 1, 2, 3, 2**20, 2**31 - 1, -1]), max_size=4)
real_arrays = st.builds(
    lambda values, dtype: Array(np.array(values).astype(dtype)),
    st.sampled_from([[[0.0, 1.0]], [0.0, 1.0], [[math.nan, 0.0]], [[math.inf, 0.0]], [[1e30, 0]]])
    | st.just(np.zeros((1, 2, 3)))
    | st.just(np.zeros((MANY, 2))),
    st.sampled_from(["float32", "float64", ">f4", "complex64"]),
)
false_arrays = st.builds(
    as_array,
    st.sampled_from(["float32", "object", "float64", "U9", "", "nonsense", "V8", "<f4"]),
    shapes | st.just([1, 2]),
    st.sampled_from(["numpy.ndarray", "pickle", ""]),
    st.binary(max_size=200) | st.just(Array(np.zeros((1, 2), np.float32)).data),
)
array_records = st.dictionaries(
    st.sampled_from(["w", "v", ""]), real_arrays | false_arrays, max_size=2
).map(ArrayRecord)
metric_records = st.dictionaries(names, metric_values, max_size=4).map(MetricRecord)
config_records = st.dictionaries(names, config_values, max_size=4).map(ConfigRecord)
records = array_records | metric_records | config_records
keys = st.sampled_from(["arrays", "metrics", "config", "personal", "node", "more"])
contents = st.dictionaries(keys, records, max_size=4)
changes = st.dictionaries(names, config_values, max_size=3)


RULES = load_config(["federation.min_groups=1", "evaluation.every=1"], None)


def make_strategy():
    aggregator = make_aggregator(RULES, ROLES, Path("unused"))
    return GroupFedAvg(RULES, ROLES, ONE_EACH, aggregator, run="run")


def over_the_wire(content):
    return recorddict_from_proto(recorddict_to_proto(RecordDict(content)))


def is_told(reason):
    assert isinstance(reason, str)
    assert 0 < len(reason) < LONGEST
    assert not any(ord(char) < 32 for char in reason)


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0


def spoiled(good, replaced, changed):
    """A good reply with whole records replaced, or single entries changed."""
    content = dict(good.content.items()) | replaced
    for own in content.values():
        if isinstance(own, MetricRecord | ConfigRecord):
            for name, value in changed.items():
                with suppress(TypeError):  # a MetricRecord holds numbers only
                    own[name] = value
    return Message(over_the_wire(content), reply_to=good.__dict__["asked"])


def good_reply(message, update):
    made = reply(message, [update])
    made.__dict__["asked"] = message
    return made


def round_with(third):
    """Average of a round in which node 12 replies what a function makes of its message."""
    strategy = make_strategy()
    messages = ask(strategy)
    replies = [
        reply(messages[0], [model(1, 2)]),
        third(messages[1]),
        reply(messages[2], [model(3, 4)]),
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    return strategy.report, {name: array.numpy() for name, array in arrays.items()}


def check_round(third):
    report, average = round_with(third)
    assert {"a", "c"} <= set(report.losses)
    assert all(np.isfinite(values).all() for values in average.values())
    assert average["w"].shape == (2,)
    if "b" in report.losses:
        assert math.isfinite(report.losses["b"])
        return
    is_told(report.refused["b"])
    assert average["w"].tobytes() == without()


@cache
def without():
    """The average of a round in which node 12 fails."""
    return round_with(lambda message: failure(message, "it broke"))[1]["w"].tobytes()


@hostile
@given(contents, changes)
def test_a_hostile_update_changes_no_bit_of_the_others(replaced, changed):
    check_round(lambda message: spoiled(good_reply(message, model(9, 9)), replaced, changed))


@hostile
@given(contents)
def test_a_reply_that_is_anything_at_all_is_refused(content):
    check_round(lambda message: Message(over_the_wire(content), reply_to=message))


@hostile
@given(st.sampled_from(["num-examples", "train-loss"]), metric_values)
def test_every_count_and_loss_is_in_range_or_refused(name, value):
    report, _ = round_with(
        lambda message: spoiled(good_reply(message, model(9, 9)), {}, {name: value})
    )
    fits = isinstance(value, list) and len(value) == 1 and math.isfinite(value[0])
    if name == "num-examples":
        fits = fits and isinstance(value[0], int) and 1 <= value[0] <= 10**9
    else:
        fits = fits and abs(value[0]) <= 1e6
    assert ("b" in report.losses) == fits


def test_what_a_node_sent_for_another_question_is_refused():
    """Its scores for a training message; and another node's reply, or one nobody asked for."""
    check_round(lambda message: score_reply(message, [0.1], [0.1], ([5], [5])))
    other = make_strategy()
    for index in (0, 2):
        foreign = reply(ask(other)[index], [model(9, 9)])
        report, _ = round_with(lambda _, foreign=foreign: foreign)
        assert set(report.losses) == {"a", "c"}
        assert "no reply from node 12" in report.refused["b"]


@hostile
@given(contents, changes)
def test_hostile_scores_cost_that_group_only(replaced, changed):
    strategy = make_strategy()
    ask(strategy)
    messages = strategy.configure_evaluate(1, record(model(0, 0)), ConfigRecord(), None)
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
    replies = [score_reply(message, [0.25], [0.5], ([7], [3])) for message in messages]
    replies[1].__dict__["asked"] = messages[1]
    replies[1] = spoiled(replies[1], replaced, changed)
    strategy.aggregate_evaluate(1, replies)
    report = strategy.report
    assert {"a", "c", "d"} <= set(report.scores)
    if "b" in report.scores:
        score = report.scores["b"]
        own = (*score.seen_distance, *score.unseen_distance)
        assert all(0 <= value <= 1 for value in own)
    else:
        is_told(report.unscored["b"])


SETTINGS = ["data=nodes", "federation.nodes=2", "federation.min_groups=1"]
CONFIG = load_config([*SETTINGS, "federation.wait_seconds=5"], None)
DIGEST = config_digest(CONFIG)
GOOD = {
    "groups": ["North"],
    "seen-questions": [30],
    "score-only": [False],
    "embedding-width": 32,
    "device": "cpu",
    "threads": 1,
    "partitions": 0,
    "config": DIGEST,
    "embedder": "hashing",
    "probe": [0.5, -0.5],
}


class Says(ClientApp):
    """Node 1 says what is good, node 2 something else; over the wire."""

    def __init__(self, content):
        super().__init__()
        self.content = content

    def __call__(self, message: Message, context: Context) -> Message:
        good = {"node": ConfigRecord(dict(GOOD))}
        own = good if message.metadata.dst_node_id == 1 else self.content
        return Message(over_the_wire(own), reply_to=message)


answers_of_itself = st.dictionaries(st.sampled_from(list(GOOD)), config_values, max_size=8).map(
    lambda changed: {"node": ConfigRecord({**GOOD, "groups": ["South"], **changed})}
)


@hostile
@given(answers_of_itself | contents)
def test_whatever_a_node_says_of_itself_the_others_meet(content):
    grid = InProcessGrid(Says(content), 2, {})
    met = meet_nodes(grid, CONFIG, DIGEST)
    assert met[1].seen_questions == {"North": 30}
    said = dict(ask_groups(grid, [2], 5))[2]
    if isinstance(said, Node):
        assert all(count >= 0 for count in said.seen_questions.values())
        assert all(0 < len(group) <= 300 for group in said.seen_questions)
        assert 1 <= said.embedding_width <= 2**16
    else:
        is_told(said)
        assert 2 not in met
