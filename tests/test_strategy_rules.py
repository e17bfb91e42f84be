"""Each strategy against numbers worked by hand, its limit cases, and Flower's own classes."""

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower
from flwr.supercore.task_identity import TaskIdentity

from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.data.roles import Roles
from plurallm.federate.aggregators.choice import make_aggregator
from plurallm.federate.replies import Update
from plurallm.federate.strategies.multikrum import krum_scores
from plurallm.record.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

GROUPS = tuple("abcdefgh")


@cache
def compose(*overrides):
    return load_config(overrides, None)


def aggregator(*overrides, groups=8):
    roles = Roles(train=GROUPS[:groups], held_out=(), dropped={})
    return make_aggregator(compose(*overrides), roles, Path("unused"))


def one_round(rule, received, updates, backwards=False):
    """Updates as {group: (value, examples, distance)} of a model of one weight; the next value."""
    order = list(updates)
    rule.begin(order, {"w": np.array([received])})
    for group in order[::-1] if backwards else order:
        if updates[group] is None:
            rule.skip(group)
        else:
            value, examples, distance = updates[group]
            rule.add(group, Update({"w": np.array([float(value)])}, examples, 1.0, distance))
    return rule.finish()["w"].item()


UNIFORM = "strategy.weighting=uniform"
CENTRAL = ["personal=none", "privacy=central", UNIFORM]


def test_fedavgm_equals_numbers_worked_by_hand():
    rule = aggregator(
        "strategy=fedavgm", UNIFORM, "strategy.server_learning_rate=0.5", "strategy.momentum=0.5"
    )
    # The mean of 2 and 4 is 2 above 1: m = 2, and half of it is gone.
    assert one_round(rule, 1.0, {"a": (2, 1, None), "b": (4, 1, None)}) == 2.0
    # 2 above 2 again: m = 1 + 2.
    assert one_round(rule, 2.0, {"a": (4, 1, None), "b": (4, 1, None)}) == 3.5


@pytest.mark.parametrize(("name", "second_v"), [("fedadam", 0.8125), ("fedyogi", 0.9375)])
def test_adam_and_yogi_equal_numbers_worked_by_hand(name, second_v):
    rule = aggregator(
        *(f"strategy={name}", UNIFORM, "strategy.server_learning_rate=0.1"),
        *("strategy.beta_1=0.5", "strategy.beta_2=0.75", "strategy.tau=0.5"),
    )
    # Change 2: m = 1, v = 0.25 * 4 = 1.
    first = one_round(rule, 0.0, {"a": (1, 1, None), "b": (3, 1, None)})
    assert first == pytest.approx(0.1 / 1.5)
    # Change 0.5: m = 0.5 + 0.25; Adam's v = 0.75 + 0.0625, Yogi's 1 - 0.25 * 0.25.
    second = one_round(rule, 0.0, {"a": (0.5, 1, None), "b": (0.5, 1, None)})
    assert second == pytest.approx(0.1 * 0.75 / (math.sqrt(second_v) + 0.5))


def test_qfedavg_equals_numbers_worked_by_hand():
    rule = aggregator("strategy=qfedavg", "strategy.q=1", "strategy.lipschitz=2")
    # Sum of F d: 0.5 * 1 + 0.25 * 2. Below it: sum of F, 0.75, and of 2 d^2, 2 + 8.
    updates = {"a": (1, 9, 0.5), "b": (2, 1, 0.25)}
    assert one_round(rule, 0.0, updates) == pytest.approx(1 / 10.75)
    assert rule.report()["step"] == pytest.approx(0.75 / 10.75)
    undamped = aggregator("strategy=qfedavg", "strategy.q=2", "strategy.lipschitz=0")
    assert one_round(undamped, 0.0, updates) == pytest.approx((0.25 + 0.125) / 0.3125)


def test_afl_equals_numbers_worked_by_hand_and_keeps_its_weights():
    # exp(step * 0.5) = 2: a doubles each round, b stays.
    rule = aggregator("strategy=afl", f"strategy.step_size={2 * math.log(2)}")
    updates = {"a": (3, 1, 0.5), "b": (0, 9, 0.0)}
    assert one_round(rule, 0.0, updates) == pytest.approx(2.0)
    assert rule.numbers["lambda"] == pytest.approx({"a": 2 / 3, "b": 1 / 3})
    assert one_round(rule, 0.0, updates) == pytest.approx(3 * 4 / 5)
    # A group that was not asked keeps its share of the rest; one that comes late starts at 1/2.
    assert one_round(rule, 0.0, {"b": (1, 1, 0.0), "c": (2, 1, 0.0)}) == pytest.approx(
        (0.2 + 2 * 0.5) / 0.7
    )
    assert rule.numbers["lambda"] == pytest.approx({"a": 0.8 / 1.5, "b": 0.2 / 1.5, "c": 0.5 / 1.5})


def test_afl_does_not_follow_how_often_a_group_is_drawn():
    rule = aggregator("strategy=afl", f"strategy.step_size={2 * math.log(2)}")
    one_round(rule, 0.0, dict.fromkeys("abc", (1, 1, 0.5)))
    for _ in range(5):
        one_round(rule, 0.0, {"a": (1, 1, 0.5), "b": (1, 1, 0.5), "c": None})
    assert rule.numbers["lambda"] == pytest.approx(dict.fromkeys("abc", 1 / 3))
    # a's factor is 2 and b's 1: together they keep their two thirds.
    one_round(rule, 0.0, {"a": (1, 1, 0.5), "b": (1, 1, 0.0)})
    assert rule.numbers["lambda"] == pytest.approx({"a": 4 / 9, "b": 2 / 9, "c": 1 / 3})


def test_term_equals_numbers_worked_by_hand():
    rule = aggregator("strategy=term", f"strategy.tilt={2 * math.log(2)}")
    # Weights 1 * 2 and 3 * 1.
    assert one_round(rule, 0.0, {"a": (3, 1, 0.5), "b": (0, 3, 0.0)}) == pytest.approx(6 / 5)
    assert rule.report()["weights"] == pytest.approx({"a": 2 / 5, "b": 3 / 5})


def test_adaptive_equals_numbers_worked_by_hand_and_fires():
    rule = aggregator("strategy=adaptive", "strategy.decay=0.5", "strategy.temperature=0.1")
    # No history yet: FedAvg's weights, 1 and 2. Histories become 0.6 and 0.8.
    updates = {"a": (3, 1, 0.4), "b": (0, 2, 0.2)}
    assert one_round(rule, 0.0, updates) == pytest.approx(1.0)
    assert rule.report()["adapts"] is False
    # Histories 0.7 and 0.8: weights exp(3) and exp(2). FI of such scores is 0.996.
    updates = {"a": (3, 1, 0.2), "b": (0, 2, 0.2)}
    assert one_round(rule, 0.0, updates) == pytest.approx(3 * math.e / (1 + math.e))
    assert rule.report()["adapts"] is True
    assert rule.numbers["history"] == pytest.approx({"a": 0.7, "b": 0.8})
    # A worse group that is no longer there does not keep the others apart.
    left = aggregator("strategy=adaptive", "strategy.least_gap=0.1")
    one_round(left, 0.0, {"a": (3, 1, 0.2), "b": (0, 2, 0.2), "c": (0, 1, 0.6)})
    one_round(left, 0.0, {"a": (3, 1, 0.2), "b": (0, 2, 0.2)})
    assert left.report()["adapts"] is False
    wide = aggregator("strategy=adaptive", "strategy.least_gap=0.2")
    for _ in range(2):
        assert one_round(wide, 0.0, {"a": (3, 1, 0.4), "b": (0, 2, 0.3)}) == pytest.approx(1.0)


def test_robust_strategies_equal_numbers_worked_by_hand():
    values = dict(zip(GROUPS, (0, 1, 2, 3, 100), strict=False))
    updates = {group: (value, 1000 * value + 1, None) for group, value in values.items()}
    assert one_round(aggregator("strategy=median"), 50.0, updates) == 2.0
    assert one_round(aggregator("strategy=median"), 50.0, {**updates, "e": None}) == 1.5
    assert one_round(aggregator("strategy=trimmed_mean"), 50.0, updates) == 2.0
    krum = aggregator("strategy=multikrum", groups=5)
    assert one_round(krum, 50.0, updates) == 1.5
    assert krum.report() == {"kept": ["a", "b", "c", "d"]}
    # The two nearest others of a: 1 + 4; of b and c: 1 + 1; of d: 1 + 4; of e: 97^2 + 98^2.
    squared = np.subtract.outer([0, 1, 2, 3, 100], [0, 1, 2, 3, 100]) ** 2.0
    np.testing.assert_array_equal(krum_scores(squared, 1), [5, 2, 2, 5, 97**2 + 98**2])
    few = aggregator("strategy=multikrum", "strategy.keep=3", groups=5)
    assert one_round(few, 50.0, updates) == 1.0


def test_attackers_are_left_out_although_honest_groups_are_missing():
    values = dict(zip(GROUPS, (1, 2, 3, 4, 5, 6, 100, 200), strict=True))
    updates = {group: (value, 1, None) for group, value in values.items()}
    trimmed = aggregator("strategy=trimmed_mean", "strategy.trim=0.25")
    # 3, 4, 5, 6, 100, 200: a quarter of the eight that were asked is left out at either end.
    assert one_round(trimmed, 0.0, updates | {"a": None, "b": None}) == 5.5
    assert trimmed.least == 5
    krum = aggregator("strategy=multikrum", "strategy.attackers=2", "strategy.keep=6")
    assert one_round(krum, 0.0, updates | {"f": None}) == 3.0
    assert krum.report() == {"kept": ["a", "b", "c", "d", "e"]}
    assert krum.least == 7


LIMITS = {
    "q is 0": (["strategy=qfedavg", "strategy.q=0", "strategy.lipschitz=7"], "uniform"),
    "step is 0": (["strategy=afl", "strategy.step_size=0"], "uniform"),
    "tilt is 0": (["strategy=term", "strategy.tilt=0"], "questions"),
    "nothing lies apart": (["strategy=adaptive", "strategy.least_gap=1"], "questions"),
    "temperature without end": (["strategy=adaptive", "strategy.temperature=1e300"], None),
    "no momentum": (
        ["strategy=fedavgm", "strategy.momentum=0", "strategy.server_learning_rate=1"],
        "questions",
    ),
    "mu on the server": (["strategy=fedprox", "strategy.mu=5"], "questions"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_limit_cases_are_fedavg(limit):
    overrides, weighting = LIMITS[limit]
    updates = {"a": (1, 1, 0.3), "b": (5, 3, 0.1), "c": (-2, 4, 0.25)}
    rules = [aggregator(*overrides), aggregator(f"strategy.weighting={weighting or 'questions'}")]
    results = [[one_round(rule, 0.5, updates) for _ in range(2)] for rule in rules]
    if weighting is None:  # uniform from the second round on, when there is a history
        assert results[0][1] == pytest.approx(4 / 3)
    else:
        assert results[0] == pytest.approx(results[1])


def test_a_small_tilt_or_step_is_close_to_its_limit():
    updates = {"a": (1, 1, 0.3), "b": (5, 1, 0.1)}
    for key in ("term strategy.tilt", "afl strategy.step_size", "qfedavg strategy.q"):
        name, parameter = key.split()
        rule = aggregator(f"strategy={name}", f"{parameter}=1e-6")
        assert one_round(rule, 0.0, updates) == pytest.approx(3.0, abs=1e-4)
        assert one_round(rule, 0.0, updates) != 3.0


PLAIN = ("fedavg", "fedprox", "qfedavg", "afl", "term", "adaptive", "median", "trimmed_mean")
STRATEGIES = (*PLAIN, "multikrum", "fedavgm", "fedadam", "fedyogi")


@pytest.mark.parametrize("name", PLAIN)
def test_one_group_is_that_group(name):
    lipschitz = ["strategy.lipschitz=0"] if name == "qfedavg" else []
    trim = ["strategy.trim=0.4"] if name == "trimmed_mean" else []
    rule = aggregator(f"strategy={name}", *lipschitz, *trim)
    for _ in range(2):
        assert one_round(rule, 0.25, {"a": (7, 3, 0.4)}) == pytest.approx(7)


def random_round(seed, groups=GROUPS, refused=()):
    draws = np.random.default_rng(seed)
    received = {"w": draws.normal(size=(3, 5)).astype(np.float32), "b": np.float32([seed, 1])}
    updates = {}
    for group in groups:
        arrays = {
            name: (array + draws.normal(size=array.shape) / 10).astype(np.float32)
            for name, array in received.items()
        }
        updates[group] = Update(arrays, draws.integers(1, 99), 1.0, float(draws.random()))
    return received, {g: None if g in refused else update for g, update in updates.items()}


def aggregate(rule, received, updates, arrival=None):
    rule.begin(list(updates), received)
    for group in arrival or updates:
        if updates[group] is None:
            rule.skip(group)
        else:
            rule.add(group, updates[group])
    return rule.finish()


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_strategy_depends_on_who_answers_first_or_changes_the_type(name):
    results = []
    for arrival in (GROUPS, GROUPS[::-1], "cagebhfd"):
        rule = aggregator(f"strategy={name}")
        for number in range(3):
            result = aggregate(rule, *random_round(number, refused="d"), arrival)
        results.append((result, rule.report(), rule.numbers))
    assert results[0][0]["w"].dtype == np.float32
    for result, report, numbers in results[1:]:
        assert same(result, results[0][0])
        assert repr(report) == repr(results[0][1])
        assert repr(numbers) == repr(results[0][2])


@pytest.mark.parametrize("name", STRATEGIES)
def test_state_goes_through_a_checkpoint_to_the_bit(name, tmp_path):
    whole = aggregator(f"strategy={name}")
    results = [
        aggregate(whole, *random_round(number, GROUPS if number % 2 else GROUPS[:6]))
        for number in range(6)
    ]
    cut = aggregator(f"strategy={name}")
    for number in range(3):
        aggregate(cut, *random_round(number, GROUPS if number % 2 else GROUPS[:6]))
    state = {"strategy": cut.numbers}
    save_checkpoint(tmp_path, Checkpoint(3, results[2], state, cut.arrays))
    saved = load_checkpoint(tmp_path)
    assert same(saved.arrays, results[2])
    resumed = aggregator(f"strategy={name}")
    resumed.numbers, resumed.arrays = saved.state["strategy"], saved.strategy_arrays
    for number in range(3, 6):
        received, updates = random_round(number, GROUPS if number % 2 else GROUPS[:6])
        assert same(aggregate(resumed, received, updates), results[number])
    assert resumed.report() == whole.report()


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "afl", "adaptive"])
def test_without_its_state_a_strategy_would_go_on_differently(name):
    rule, fresh = aggregator(f"strategy={name}"), aggregator(f"strategy={name}")
    aggregate(rule, *random_round(0))
    after = [aggregate(one, *random_round(1)) for one in (rule, fresh)]
    assert not same(*after)


# Flower's own classes, one reply for each group


def flower_round(strategy, received, updates, loss_key="train_loss"):
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
    record = ArrayRecord({name: Array(array) for name, array in received.items()})
    if hasattr(strategy, "current_arrays"):
        numpy_kept = isinstance(strategy, flower.FedAdam | flower.FedYogi)
        strategy.current_arrays = dict(received) if numpy_kept else record
    replies = [
        Message(
            RecordDict(
                {
                    "arrays": ArrayRecord({n: Array(a) for n, a in update.arrays.items()}),
                    "metrics": MetricRecord({"num-examples": 1, loss_key: update.distance}),
                    "config": ConfigRecord(),
                }
            ),
            number,
            "train",
        )
        for number, update in enumerate(updates.values(), start=1)
    ]
    arrays, _ = strategy.aggregate_train(1, replies)
    return {name: array.numpy() for name, array in arrays.items()}


FLOWER = {
    "median": ([], flower.FedMedian()),
    "trimmed_mean": (["strategy.trim=0.3"], flower.FedTrimmedAvg(beta=0.3)),
    "multikrum": (
        ["strategy.attackers=2", "strategy.keep=3"],
        flower.MultiKrum(num_malicious_nodes=2, num_nodes_to_select=3),
    ),
    "qfedavg": (
        ["strategy.q=0.7", "strategy.lipschitz=20"],
        flower.QFedAvg(client_learning_rate=0.05, q=0.7),
    ),
    "fedavgm": (
        [UNIFORM, "strategy.server_learning_rate=0.3", "strategy.momentum=0.6"],
        flower.FedAvgM(server_learning_rate=0.3, server_momentum=0.6),
    ),
    "fedyogi": (
        [UNIFORM, "strategy.server_learning_rate=0.02", "strategy.beta_2=0.99"],
        flower.FedYogi(eta=0.02, beta_1=0.5, beta_2=0.99, tau=1e-3),
    ),
}


@pytest.mark.parametrize("name", FLOWER)
def test_flowers_own_class_gives_the_same_on_one_reply_for_each_group(name):
    overrides, theirs = FLOWER[name]
    rule = aggregator(f"strategy={name}", *overrides)
    received, _ = random_round(0)
    for number in range(3):
        _, updates = random_round(number)
        # FedAvgM of Flower takes its own last result for what clients were sent.
        expected = flower_round(theirs, received, updates)
        result = aggregate(rule, received, updates)
        for key, values in expected.items():
            np.testing.assert_allclose(result[key], values, rtol=2e-5, atol=2e-6)
        received = result


# What cannot work


@pytest.mark.parametrize(
    ("overrides", "groups", "reason"),
    [
        (["strategy=multikrum", "strategy.attackers=3"], 8, r"strategy.attackers=3 needs 9 groups"),
        (["strategy=multikrum"], 4, r"needs 5 groups in a round .* asks 4 groups"),
        (["strategy=multikrum", "federation.fraction=0.5"], 8, "raise federation.fraction"),
        (["strategy=multikrum", "strategy.keep=8"], 8, "strategy.keep=8 would keep attackers"),
        (["strategy=trimmed_mean", "strategy.trim=0.1"], 8, "strategy.trim=0.1 leaves out nobody"),
        (["strategy=trimmed_mean"], 3, "give at least 0.334, below 0.5, or take strategy=median"),
        (["strategy=trimmed_mean"], 2, "asks 2 groups; take strategy=median"),
        (["attack=scaled", "attack.groups=[z]"], 8, "'z', which is no training group"),
        (["privacy=central"], 8, "needs strategy.weighting=uniform"),
        *(
            (["privacy=central", f"strategy={name}"], 8, f"does not go with strategy={name}")
            for name in ("qfedavg", "afl", "median", "trimmed_mean", "multikrum")
        ),
        (
            ["personal=none", "privacy=central", UNIFORM, "privacy.max_epsilon=5"],
            8,
            "privacy.max_epsilon=5",
        ),
        (
            [
                "personal=none",
                "privacy=central",
                UNIFORM,
                "federation.fraction=0.5",
                "privacy.max_epsilon=5",
            ],
            *(8, "federation.rounds=100 would spend epsilon"),
        ),
    ],
)
def test_what_cannot_work_is_refused_at_the_start_naming_the_key(overrides, groups, reason):
    with pytest.raises(ConfigError, match=reason):
        aggregator(*overrides, groups=groups)


@pytest.mark.parametrize(
    ("choice", "key", "values"),
    [
        ("strategy=fedprox", "strategy.mu", ("-1", "inf")),
        ("strategy=fedavgm", "strategy.momentum", ("-0.1", "1")),
        ("strategy=fedadam", "strategy.server_learning_rate", ("0", "inf")),
        ("strategy=fedadam", "strategy.beta_1", ("-0.1", "1")),
        ("strategy=fedyogi", "strategy.beta_2", ("-0.1", "1")),
        ("strategy=fedyogi", "strategy.tau", ("0", "inf")),
        ("strategy=qfedavg", "strategy.q", ("-1", "101")),
        ("strategy=qfedavg", "strategy.lipschitz", ("-1", "inf")),
        ("strategy=afl", "strategy.step_size", ("-1", "501")),
        ("strategy=term", "strategy.tilt", ("-501", "501")),
        ("strategy=adaptive", "strategy.temperature", ("0", "inf")),
        ("strategy=adaptive", "strategy.decay", ("-0.1", "1")),
        ("strategy=adaptive", "strategy.least_gap", ("-0.1", "1.1")),
        ("strategy=trimmed_mean", "strategy.trim", ("0", "0.5")),
        ("strategy=multikrum", "strategy.attackers", ("-1",)),
        ("strategy=multikrum", "strategy.keep", ("0",)),
        ("privacy=central", "privacy.noise_multiplier", ("0", "inf")),
        ("privacy=central", "privacy.clipping_norm", ("0", "inf")),
        ("privacy=central", "privacy.delta", ("0", "1")),
        ("privacy=central", "privacy.max_epsilon", ("0",)),
        ("privacy=respondent", "privacy.epsilon", ("0", "101")),
        ("privacy=respondent", "privacy.delta", ("0", "1")),
        ("privacy=respondent", "privacy.questions_per_respondent", ("0",)),
        ("privacy=respondent", "privacy.respondents", ("0",)),
        ("personal=ditto", "personal.mu", ("-1", "inf")),
        ("attack=scaled attack.groups=[a]", "attack.factor", ("nan", "inf")),
        ("attack=shuffled", "attack.groups", ("[]",)),
    ],
)
def test_a_value_out_of_range_names_its_key(choice, key, values):
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{key} must be"):
            load_config([*choice.split(), f"{key}={value}"], None)
