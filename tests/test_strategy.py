"""The strategy through Flower's own messages: what is averaged, what is refused, when it stops."""

import math
import weakref
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from reference import weighted_mean

from plurallm.config.compose import load_config
from plurallm.data.roles import Roles
from plurallm.federate.aggregators.choice import make_aggregator
from plurallm.federate.aggregators.ordered_mean import OrderedMean
from plurallm.federate.fedavg import GroupFedAvg
from plurallm.federate.round_report import FederationError

ROLES = Roles(train=("a", "b", "c"), held_out=("d",), dropped={})
ONE_EACH = {11: ("a",), 12: ("b",), 13: ("c",), 14: ("d",)}
# What Flower's simulation engine reports of a client that raised, shortened.
RAY_REASON = """<class 'ray.exceptions.RayTaskError(ClientAppException)'>:<'ray::run() (pid=1)
  File "client_app.py", line 103, in train
OSError: the disk is full

flwr.clientapp.client_app.ClientAppException:
Exception ClientAppException occurred. Message: the disk is full'>"""


@pytest.fixture(autouse=True)
def _identity():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0


def make_strategy(*overrides, groups_of=None):
    config = load_config(overrides, None)
    aggregator = make_aggregator(config, ROLES, Path("unused"))
    return GroupFedAvg(config, ROLES, groups_of or ONE_EACH, aggregator, run="run")


def model(*values):
    return {"w": np.array(values, dtype=np.float32)}


def record(arrays):
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def ask(strategy, server_round=1, arrays=None):
    messages = strategy.configure_train(
        server_round, record(arrays or model(0, 0)), ConfigRecord(), None
    )
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
    return list(messages)


def reply(message, updates, examples=None, losses=None, groups=None):
    """Answer for a node's groups with stacked updates."""
    asked = list(message.content["config"]["groups"])
    stacked = {name: np.stack([update[name] for update in updates]) for name in updates[0]}
    content = RecordDict(
        {
            "arrays": record(stacked),
            "metrics": MetricRecord(
                {
                    "num-examples": examples or [1] * len(asked),
                    "train-loss": losses or [1.0] * len(asked),
                    "seconds": [0.1] * len(asked),
                }
            ),
            "config": ConfigRecord({"groups": asked if groups is None else groups}),
        }
    )
    return Message(content, reply_to=message)


def failure(message, reason):
    return Message(Error(code=2, reason=reason), reply_to=message)


def averaged(strategy, replies):
    arrays, _ = strategy.aggregate_train(1, replies)
    return arrays["w"].numpy()


def test_weights_are_the_training_questions_or_uniform():
    for weighting, expected in (("questions", [4.0, 5.0]), ("uniform", [3.0, 4.0])):
        strategy = make_strategy(f"strategy.weighting={weighting}")
        messages = ask(strategy)
        updates = [model(1, 2), model(3, 4), model(5, 6)]
        replies = [
            reply(message, [update], examples=[examples])
            for message, update, examples in zip(messages, updates, (1, 1, 4), strict=True)
        ]
        np.testing.assert_allclose(averaged(strategy, replies), expected)


def test_only_training_groups_are_asked_to_train_and_all_to_be_scored():
    strategy = make_strategy("evaluation.every=1")
    assert [list(m.content["config"]["groups"]) for m in ask(strategy)] == [["a"], ["b"], ["c"]]
    messages = strategy.configure_evaluate(1, record(model(0)), ConfigRecord(), None)
    assert [m.metadata.dst_node_id for m in messages] == [11, 12, 13, 14]


def test_order_of_replies_and_number_of_nodes_change_no_bit():
    draws = np.random.default_rng(0)
    updates = {group: {"w": draws.normal(size=999).astype(np.float32)} for group in "abc"}
    examples = {"a": 7, "b": 31, "c": 13}
    results = []
    for groups_of in (
        ONE_EACH,
        {1: ("a", "b", "c", "d")},
        {1: ("a", "c"), 2: ("b", "d")},
        {5: ("b", "c"), 3: ("a", "d")},
    ):
        for backwards in (False, True):
            strategy = make_strategy(groups_of=groups_of)
            messages = ask(strategy, arrays={"w": np.zeros(999, np.float32)})
            replies = [
                reply(
                    message,
                    [updates[group] for group in message.content["config"]["groups"]],
                    [examples[group] for group in message.content["config"]["groups"]],
                )
                for message in messages
            ]
            results.append(averaged(strategy, replies[::-1] if backwards else replies))
    assert all(np.array_equal(result, results[0]) for result in results)
    expected = weighted_mean({group: (updates[group], examples[group]) for group in "abc"})
    np.testing.assert_allclose(results[0], expected["w"], atol=1e-6)


def test_one_group_is_that_group_to_the_bit():
    draws = np.random.default_rng(1)
    update = {"w": draws.normal(size=1000).astype(np.float32)}
    update["w"][0] = -0.0
    mean = OrderedMean(["a"])
    mean.add("a", update, 317)
    assert mean.average()["w"].astype(np.float32).tobytes() == update["w"].tobytes()


@pytest.mark.parametrize("count", [1, 8, 9, 19])
@pytest.mark.parametrize("skipped", [None, 0, 3])
def test_a_mean_is_the_plain_sum_in_order_to_the_bit(count, skipped):
    """Whatever arrives when, with arrays of no axis, of one value and of more than a block."""
    draws = np.random.default_rng(2)
    shapes = {"long": (3, 30_000), "one": (1,), "number": ()}
    updates = [
        {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(count)
    ]
    weights = draws.uniform(1, 300, count)
    taken = [row for row in range(count) if row != skipped or count == 1]
    for order in (range(count), range(count)[::-1], draws.permutation(count)):
        mean = OrderedMean([str(row) for row in range(count)])
        for row in order:
            if row in taken:
                mean.add(str(row), updates[row], weights[row])
            else:
                mean.skip(str(row))
        result = mean.average()
        for name in shapes:
            total, whole = np.zeros(shapes[name]), 0.0
            for row in taken:
                total = total + updates[row][name].astype(np.float64) * weights[row]
                whole += weights[row]
            assert np.array_equal(result[name], total / whole)
            assert result[name].shape == shapes[name]


def test_a_stream_in_order_takes_the_memory_of_eight_updates():
    mean, alive = OrderedMean([str(row) for row in range(30)]), []
    for row in range(30):
        array = np.full(3, float(row))
        alive.append(weakref.ref(array))
        mean.add(str(row), {"w": array}, 1.0)
        del array
        assert sum(reference() is not None for reference in alive) <= 8


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_not_finite_is_refused_and_the_rest_goes_on(value):
    strategy = make_strategy()
    good, bad, other = ask(strategy)
    replies = [
        reply(good, [model(1, 1)]),
        reply(bad, [model(1, value)]),
        reply(other, [model(3, 3)]),
    ]
    np.testing.assert_array_equal(averaged(strategy, replies), [2, 2])
    assert strategy.report.refused == {"b": "update refused: w is not finite"}
    assert list(strategy.report.losses) == ["a", "c"]


def test_of_a_node_with_several_groups_only_the_bad_one_is_refused():
    strategy = make_strategy(groups_of={1: ("a", "b", "c"), 2: ("d",)})
    (message,) = ask(strategy)
    updates = [model(1, 1), model(math.nan, 1), model(3, 3)]
    np.testing.assert_array_equal(averaged(strategy, [reply(message, updates)]), [2, 2])
    assert list(strategy.report.refused) == ["b"]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m: reply(m, [model(1, 1, 1)]), "w is"),
        (lambda m: reply(m, [{"v": np.ones(2, np.float32)}]), "v is"),
        (lambda m: reply(m, [{"w": np.ones(2)}]), "float64"),
        (lambda m: reply(m, [model(1, 1)], groups=["c"]), "asked for"),
        (lambda m: reply(m, [model(1, 1)], examples=[0]), "0 examples"),
        (lambda m: reply(m, [model(1, 1)], examples=[-5]), "-5 examples"),
        (lambda m: reply(m, [model(1, 1)], examples=[10**9 + 1]), "1000000001 examples"),
        (lambda m: reply(m, [model(1, 1)], examples=[1.5]), "1.5 examples"),
        (lambda m: reply(m, [model(1, 1)], losses=[math.nan]), "loss nan"),
        (lambda m: reply(m, [model(1, 1)], losses=[1e308]), "loss 1e+308"),
        (lambda m: reply(m, [model(1, 1)], losses=[1.0] * 10**5), "100000 instead of 1 values"),
        (lambda m: reply(m, [model(1, 1)], groups=["b" * 10**6]), "asked for"),
        (lambda m: failure(m, "x\x1b[2J" * 10**5), "x [2Jx"),
        (lambda m: reply(m, [model(1, 1)], examples=[1, 1]), "num-examples"),
        (lambda m: Message(RecordDict(), reply_to=m), "not one record each"),
        (lambda m: failure(m, "ValueError: broken file"), "ValueError: broken file"),
        (lambda m: failure(m, RAY_REASON), "the disk is full"),
        (
            lambda m: failure(m, "<class 'ray.ActorDiedError'>:<'It died.\n\tpid: 7'>"),
            "ActorDiedError: It",
        ),
        (lambda m: None, "no reply from node 12"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_reason(spoil, reason):
    strategy = make_strategy()
    first, second, third = ask(strategy)
    spoiled = spoil(second)
    replies = [reply(first, [model(1, 1)]), reply(third, [model(3, 3)])]
    replies += [] if spoiled is None else [spoiled]
    np.testing.assert_array_equal(averaged(strategy, replies), [2, 2])
    assert list(strategy.report.refused) == ["b"]
    assert reason in strategy.report.refused["b"]
    assert "\n" not in strategy.report.refused["b"]


def npy(array):
    return Array(array).data


@pytest.mark.parametrize(
    "spoil",
    [
        {"data": b"no array"},
        {"data": b""},
        {"data": npy(np.zeros((1, 3), np.float32))},
        {"data": npy(np.array(1, np.float32))},
        {"data": npy(np.zeros((1, 1), np.float32))},
        {"data": npy(np.zeros((1, 2), "U5"))},
        {"data": npy(np.zeros((1, 2), np.complex64))},
        {"data": npy(np.zeros((1, 2), np.float32)).replace(b"(1, 2)", b"(1, %d)" % 10**14)},
        {"data": npy(np.zeros((1, 2), np.float32))[:-1]},
        {"data": npy(np.zeros((1, 2), np.float32)) + b"more"},
        {"stype": "other"},
    ],
)
def test_weights_that_are_not_what_they_say_are_refused(spoil):
    strategy = make_strategy()
    first, second, third = ask(strategy)
    spoiled = reply(second, [model(9, 9)])
    array = spoiled.content["arrays"]["w"]
    given = {name: getattr(array, name) for name in ("dtype", "shape", "stype", "data")} | spoil
    spoiled.content["arrays"]["w"] = Array(**given)
    replies = [reply(first, [model(1, 1)]), spoiled, reply(third, [model(3, 3)])]
    np.testing.assert_array_equal(averaged(strategy, replies), [2, 2])
    assert strategy.report.refused == {"b": "update refused: w holds other data than it says"}


@pytest.mark.parametrize("seconds", [[math.nan], [-1.0], [math.inf], [0.1, 0.2], 3.0])
def test_seconds_that_are_none_are_left_out_and_the_update_is_taken(seconds):
    strategy = make_strategy()
    messages = ask(strategy)
    replies = [reply(message, [model(2, 2)]) for message in messages]
    replies[0].content["metrics"]["seconds"] = seconds
    averaged(strategy, replies)
    assert [strategy.report.work[group]["seconds"] for group in "abc"] == [None, 0.1, 0.1]
    assert not strategy.report.refused


def test_too_few_updates_stop_the_run_naming_groups_and_reasons():
    strategy = make_strategy("federation.min_groups=3")
    first, second, third = ask(strategy)
    replies = [
        reply(first, [model(1, 1)]),
        failure(second, "out of memory"),
        reply(third, [model(1, 1)]),
    ]
    with pytest.raises(
        FederationError, match=r"round 1: 2 of 3 groups.*min_groups is 3.*b: out of"
    ):
        strategy.aggregate_train(1, replies)


def test_by_default_half_of_the_groups_must_answer():
    strategy = make_strategy()
    first, second, _ = ask(strategy)
    averaged(strategy, [reply(first, [model(1, 1)]), reply(second, [model(1, 1)])])
    ask(strategy)
    with pytest.raises(FederationError, match="1 of 3 groups"):
        strategy.aggregate_train(1, [reply(first, [model(1, 1)])])


def test_a_round_in_which_nobody_answers_stops_the_run():
    strategy = make_strategy("federation.min_groups=1")
    messages = ask(strategy)
    with pytest.raises(FederationError, match=r"0 of 3 groups.*a: died"):
        strategy.aggregate_train(1, [failure(message, "died") for message in messages])


def test_an_unknown_sender_cannot_bring_an_update():
    strategy = make_strategy(groups_of={11: ("a",), 12: ("b",), 13: ("c",)})
    messages = ask(strategy)
    stranger = ask(make_strategy(groups_of={99: ("a", "b", "c")}))[0]
    replies = [reply(message, [model(2, 2)]) for message in messages]
    replies.insert(0, reply(stranger, [model(9, 9)] * 3))
    np.testing.assert_array_equal(averaged(strategy, replies), [2, 2])


def test_a_fraction_of_the_groups_is_drawn_by_seed_and_round():
    def drawn(seed):
        strategy = make_strategy("federation.fraction=0.34", f"seed={seed}")
        return [ask(strategy, number)[0].content["config"]["groups"] for number in range(1, 20)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert {tuple(groups) for groups in drawn(1)} == {("a",), ("b",), ("c",)}


def test_evaluation_comes_every_so_many_rounds_and_at_the_end():
    strategy = make_strategy("evaluation.every=3", "federation.rounds=7")
    evaluated = []
    for number in range(1, 8):
        ask(strategy, number)
        if strategy.configure_evaluate(number, record(model(0)), ConfigRecord(), None):
            evaluated.append(number)
    assert evaluated == [3, 6, 7]


def score_reply(message, seen, unseen, counts):
    asked = list(message.content["config"]["groups"])
    metrics = {
        "seen-distance": seen,
        "unseen-distance": unseen,
        "seen-questions": counts[0],
        "unseen-questions": counts[1],
    }
    content = RecordDict(
        {"metrics": MetricRecord(metrics), "config": ConfigRecord({"groups": asked})}
    )
    return Message(content, reply_to=message)


def test_scores_are_read_by_group_and_draw_and_bad_ones_named():
    groups_of = {1: ("a", "b"), 2: ("c",), 3: ("d",)}
    strategy = make_strategy("evaluation.every=1", "evaluation.draws=2", groups_of=groups_of)
    ask(strategy)
    messages = strategy.configure_evaluate(1, record(model(0)), ConfigRecord(), None)
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
    good, bad, dead = messages
    replies = [
        score_reply(good, [0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.0, 0.0], ([9, 8], [2, 0])),
        score_reply(bad, [0.1, 1.5], [0.1, 0.1], ([1], [1])),
        failure(dead, "gone"),
    ]
    strategy.aggregate_evaluate(1, replies)
    scores = strategy.report.scores
    assert scores["a"].seen_distance == (0.1, 0.2)
    assert scores["a"].unseen_distance == (0.5, 0.6)
    assert scores["b"].seen_distance == (0.3, 0.4)
    assert scores["b"].unseen_distance == ()
    assert strategy.report.unscored == {"c": "scores are not between 0 and 1", "d": "gone"}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        *(("seen-questions", [count]) for count in (math.nan, math.inf, -5, 0, 1.5, 2**62)),
        *(("unseen-questions", values) for values in ([-1], [], 3)),
        *(("seen-distance", values) for values in ([math.nan], [], [0.1] * 7, 0.2, [-0.1])),
        *(("unseen-distance", values) for values in ([math.nan], [], [0.1] * 7)),
    ],
)
def test_scores_that_cannot_be_cost_that_group_only(key, values):
    strategy = make_strategy("evaluation.every=1", groups_of={1: ("a",), 2: ("b",)})
    ask(strategy)
    messages = list(strategy.configure_evaluate(1, record(model(0)), ConfigRecord(), None))
    replies = []
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
        replies.append(score_reply(message, [0.1], [0.2], ([3], [2])))
    replies[0].content["metrics"][key] = values
    strategy.aggregate_evaluate(1, replies)
    assert list(strategy.report.scores) == ["b"]
    assert "a" in strategy.report.unscored


def test_an_evaluation_without_any_score_stops_the_run():
    strategy = make_strategy("evaluation.every=1", groups_of={1: ("a", "b", "c", "d")})
    ask(strategy)
    strategy.configure_evaluate(1, record(model(0)), ConfigRecord(), None)
    with pytest.raises(FederationError, match=r"no group could be scored.*no reply"):
        strategy.aggregate_evaluate(1, [])
