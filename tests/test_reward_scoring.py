"""Rewards by hand-worked numbers, and against the slow obvious way."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, wasserstein_distance
from torch import Tensor

from plurallm.reward.aggregate import AdaptiveAlpha, log_mean_exp, maximum, mean, minimum
from plurallm.reward.agreement import MEASURES, Comparison

PREDICTED = (0.5, 0.3, 0.2)


def scaled(places):
    return [(place - min(places)) / (max(places) - min(places)) for place in places]


def agreement(
    measure: str, values: tuple[float, ...], shares=PREDICTED, scale=None, pad=0
) -> float:
    def row(numbers, rank) -> Tensor:
        padded = torch.tensor([*numbers, *[0.0] * pad], dtype=torch.float64)
        return padded.view(*[1] * rank, -1)

    count = len(values)
    reward_NG = MEASURES[measure].agreement(
        Comparison(
            row(values, 2),
            row(shares, 2),
            row([1] * count, 2) > 0,
            row(scaled(scale or range(count)), 2),
        )
    )
    return reward_NG.item()


@pytest.mark.parametrize("pad", [0, 2])
@pytest.mark.parametrize(
    ("measure", "values", "reward"),
    [
        ("share", (0, 1, 0), 0.3),
        ("jensen_shannon", (0.5, 0.3, 0.2), 1.0),
        # Half of the mass moves one place, and the scale has two.
        ("wasserstein", (0.0, 0.8, 0.2), 1 - 0.5 / 2),
        ("wasserstein", (0.5, 0.3, 0.2), 1.0),
        ("cosine", (1.0, 0.0, 0.0), 0.5 / math.sqrt(0.38)),
        ("kendall", (0, 1, 2), 1.0),
        ("kendall", (2, 1, 0), 0.0),
        ("kendall", (1, 0, 2), 2 / 3),  # one of three pairs is wrong
        ("borda", (0, 1, 2), 1.0),
        ("borda", (2, 1, 0), 0.0),
        # Points 1, 2, 0 earn 1.1; the best ranking earns 1.3, the worst 0.7.
        ("borda", (1, 0, 2), (1.1 - 0.7) / (1.3 - 0.7)),
    ],
)
def test_rewards_by_hand(measure, values, reward, pad):
    assert agreement(measure, values, pad=pad) == pytest.approx(reward)


def test_disjoint_distributions_earn_nothing():
    assert agreement("jensen_shannon", (0, 0, 1), (1, 0, 0)) == pytest.approx(0)
    assert agreement("wasserstein", (0, 0, 1), (1, 0, 0)) == pytest.approx(0)
    assert agreement("cosine", (0, 0, 1), (1, 0, 0)) == pytest.approx(0)


def test_equal_shares_make_every_ranking_best():
    assert agreement("borda", (1, 0), (0.5, 0.5)) == 1
    assert agreement("kendall", (1, 0), (0.5, 0.5)) == 0.5


distributions = st.lists(st.integers(0, 20), min_size=3, max_size=6).filter(any)


@given(distributions, distributions, st.permutations([-2.0, 0.0, 1.0, 1.5, 4.0, 9.0]))
def test_wasserstein_is_scipys_over_the_scale(first, second, scale):
    count = min(len(first), len(second))
    p, q, scale = first[:count], second[:count], scale[:count]
    if not (any(p) and any(q)):
        return
    distance = wasserstein_distance(scale, scale, p, q) / (max(scale) - min(scale))
    written = tuple(value / sum(p) for value in p)
    shares = tuple(value / sum(q) for value in q)
    assert agreement("wasserstein", written, shares, scale, 1) == pytest.approx(1 - distance)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=5, unique=True), st.data())
def test_kendall_is_scipys(numbers, data):
    places = data.draw(st.permutations(range(len(numbers))))
    tau = kendalltau([-place for place in places], numbers).statistic
    assert agreement("kendall", tuple(places), tuple(numbers), pad=1) == pytest.approx(
        (1 + tau) / 2
    )


@given(st.lists(st.integers(1, 9), min_size=2, max_size=4).filter(lambda n: len(set(n)) > 1))
def test_borda_goes_from_the_worst_ranking_to_the_best(numbers):
    shares = tuple(number / sum(numbers) for number in numbers)
    rewards = [agreement("borda", p, shares, pad=1) for p in permutations(range(len(shares)))]
    assert min(rewards) == pytest.approx(0)
    assert max(rewards) == pytest.approx(1)


def test_aggregates_by_hand():
    reward_NG = torch.tensor([[0.2, 0.6], [0.5, 0.5]], dtype=torch.float64)
    assert mean(reward_NG).tolist() == pytest.approx([0.4, 0.5])
    assert minimum(reward_NG).tolist() == pytest.approx([0.2, 0.5])
    assert maximum(reward_NG).tolist() == pytest.approx([0.6, 0.5])
    expected = math.log((math.exp(-0.4) + math.exp(-1.2)) / 2) / -2
    assert log_mean_exp(reward_NG, -2.0).tolist() == pytest.approx([expected, 0.5])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_log_mean_exp_goes_from_minimum_to_maximum(rewards):
    reward_NG = torch.tensor([rewards], dtype=torch.float64)
    for alpha, limit in (
        (-1e4, min(rewards)),
        (1e-4, sum(rewards) / len(rewards)),
        (1e4, max(rewards)),
    ):
        assert log_mean_exp(reward_NG, alpha).item() == pytest.approx(limit, abs=1e-3)


def test_adaptive_alpha_by_hand():
    aggregate = AdaptiveAlpha(temperature=0.1, memory=2 / math.log(4), gap=0.021)
    first_NG = torch.tensor([[0.9, 0.5], [0.7, 0.7]], dtype=torch.float64)
    # History starts as the batch's means, 0.8 and 0.6: alpha = softmax(2, 4).
    alpha = [1 / (1 + math.e**2), 1 / (1 + math.e**-2)]
    highest = math.log(sum(math.exp(a) for a in alpha) / 2)
    expected = [
        math.log(sum(math.exp(a * r) for a, r in zip(alpha, row, strict=True)) / 2) / highest
        for row in first_NG.tolist()
    ]
    assert aggregate(first_NG).tolist() == pytest.approx(expected)
    assert aggregate.history_G.tolist() == pytest.approx([0.8, 0.6])
    # Two answers later, two of those before count as half of one: (0.5 x 0.8 + 2 x 0.35) / 2.5.
    aggregate(torch.tensor([[0.3, 0.9], [0.4, 0.8]], dtype=torch.float64))
    assert aggregate.history_G.tolist() == pytest.approx([0.44, 0.80])


def test_adaptive_alpha_is_the_mean_while_groups_fare_alike():
    aggregate = AdaptiveAlpha(gap=0.021)
    aggregate(torch.tensor([[0.70, 0.68]], dtype=torch.float64))
    assert aggregate(torch.tensor([[0.9, 0.5]], dtype=torch.float64)).tolist() == [0.7]


def test_adaptive_alpha_does_not_depend_on_how_answers_are_batched():
    """TRL scores a batch at a time, veRL and OpenRLHF one answer."""
    whole, single = AdaptiveAlpha(), AdaptiveAlpha()
    for row in ([0.9, 0.1], [0.2, 0.6]):
        answers_NG = torch.tensor([row] * 64, dtype=torch.float64)
        whole(answers_NG)
        for answer_NG in answers_NG.split(1):
            single(answer_NG)
    assert single.history_G.tolist() == pytest.approx(whole.history_G.tolist())


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5))
def test_adaptive_alpha_stays_in_0_to_1(rewards):
    aggregate = AdaptiveAlpha()
    aggregate(torch.tensor([[0.2, 0.9]], dtype=torch.float64))
    both_NG = torch.tensor([*rewards, (0, 0), (1, 1)], dtype=torch.float64)
    total_N = aggregate(both_NG)
    assert total_N.min() >= -1e-12
    assert total_N.max() <= 1 + 1e-12
    assert total_N[-2:].tolist() == pytest.approx([0, 1])


def test_adaptive_alpha_prefers_what_the_neglected_group_likes():
    aggregate = AdaptiveAlpha()
    aggregate(torch.tensor([[0.9, 0.5]]))
    for_first, for_second = aggregate(torch.tensor([[0.8, 0.4], [0.4, 0.8]])).tolist()
    assert for_second > for_first
