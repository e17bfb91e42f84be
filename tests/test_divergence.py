"""Distances and losses against scipy, torch and numbers worked by hand.

Dimension letters: ``Q`` questions, ``O`` options (padded).
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import wasserstein
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from scipy.stats import wasserstein_distance as scipy_wasserstein
from torch import Tensor

from plurallm.learn.divergence import (
    SQRT_LN2,
    cross_entropy,
    gaussian_nll,
    jensen_shannon_distance,
    jensen_shannon_divergence,
    wasserstein_distance,
)


def shares(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_shares(questions: int, options: int, seed: int) -> Tensor:
    """Distributions of which about a third of the shares are zero."""
    rng = np.random.default_rng(seed)
    share_QO = rng.dirichlet(np.ones(options), questions)
    share_QO[rng.random(share_QO.shape) < 1 / 3] = 0
    share_QO[share_QO.sum(1) == 0, 0] = 1
    return torch.from_numpy(share_QO / share_QO.sum(1, keepdims=True))


@pytest.mark.parametrize("options", [2, 3, 18])
def test_distance_is_scipys_in_both_bases(options: int) -> None:
    p_QO, q_QO = random_shares(500, options, 1), random_shares(500, options, 2)
    distance_Q = jensen_shannon_distance(p_QO, q_QO)
    for base, factor in ((2, 1.0), (math.e, SQRT_LN2)):
        expected_Q = jensenshannon(p_QO.numpy(), q_QO.numpy(), base=base, axis=1)
        np.testing.assert_allclose(factor * distance_Q, expected_Q, rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        jensen_shannon_divergence(p_QO, q_QO),
        jensenshannon(p_QO.numpy(), q_QO.numpy(), axis=1) ** 2,
        rtol=0,
        atol=1e-14,
    )


def test_distance_in_float32_is_near_that_in_float64() -> None:
    p_QO, q_QO = random_shares(500, 5, 3), random_shares(500, 5, 4)
    exact_Q = jensen_shannon_distance(p_QO, q_QO)
    single_Q = jensen_shannon_distance(p_QO.float(), q_QO.float())
    assert single_Q.dtype == torch.float32
    assert (single_Q - exact_Q).abs().max() < 1e-3  # the root of a rounding error of 1e-7


@pytest.mark.parametrize(
    ("p", "q", "divergence"),
    [
        ((1, 0), (0, 1), math.log(2)),
        ((0.5, 0.5, 0, 0), (0, 0, 0.25, 0.75), math.log(2)),
        ((0.25, 0.75), (0.25, 0.75), 0.0),
        ((0, 1, 0), (0, 1, 0), 0.0),
        # Middle (3/4, 1/4): half of ln 4/3, and half of (ln 2/3 + ln 2) / 2.
        ((1, 0), (0.5, 0.5), math.log(4 / 3) / 2 + math.log(4 / 3) / 4),
        # Middle (5/8, 3/8).
        (
            (0.75, 0.25),
            (0.5, 0.5),
            (0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)) / 2
            + (0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3)) / 2,
        ),
    ],
)
def test_divergence_worked_by_hand(
    p: tuple[float, ...], q: tuple[float, ...], divergence: float
) -> None:
    assert jensen_shannon_divergence(shares(*p), shares(*q)).item() == pytest.approx(
        divergence, abs=1e-15
    )


def test_the_ends_of_the_distance_are_exact() -> None:
    assert jensen_shannon_distance(shares(1, 0), shares(0, 1)) == 1
    for seed in range(20):
        p_QO = random_shares(50, 7, seed).float()
        assert (jensen_shannon_distance(p_QO, p_QO) == 0).all()
        # Disjoint: the options of one come after those of the other.
        left_QO = torch.nn.functional.pad(p_QO, (0, 7))
        right_QO = torch.nn.functional.pad(p_QO, (7, 0))
        distance_Q = jensen_shannon_distance(left_QO, right_QO)
        assert (distance_Q <= 1).all()
        assert (distance_Q > 1 - 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearly_equal_distributions_have_a_distance(dtype: torch.dtype) -> None:
    # The divergence is all rounding here, and a negative one has no root.
    p_QO = random_shares(2000, 7, 13).to(dtype)
    noise_QO = torch.rand(p_QO.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    distance_Q = jensen_shannon_distance(p_QO, p_QO * (1 + 1e-6 * noise_QO))
    assert torch.isfinite(distance_Q).all()
    assert (distance_Q < 1e-3).all()


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_distance_is_a_symmetric_metric_between_0_and_1(seed: int, options: int) -> None:
    p_O, q_O, r_O = random_shares(3, options, seed)
    pq, qp, qr, pr = (
        jensen_shannon_distance(*pair).item()
        for pair in ((p_O, q_O), (q_O, p_O), (q_O, r_O), (p_O, r_O))
    )
    assert pq == pytest.approx(qp, abs=1e-7)
    assert 0 <= pq <= 1
    assert pr <= pq + qr + 1e-7


def test_distance_takes_any_leading_shape_and_ignores_padding() -> None:
    p_QO, q_QO = random_shares(6, 4, 5), random_shares(6, 4, 6)
    flat_Q = jensen_shannon_distance(p_QO, q_QO)
    assert torch.equal(jensen_shannon_distance(p_QO[0], q_QO[0]), flat_Q[0])
    assert torch.equal(
        jensen_shannon_distance(p_QO.view(2, 3, 4), q_QO.view(2, 3, 4)), flat_Q.view(2, 3)
    )
    padded_Q = jensen_shannon_distance(
        *(torch.nn.functional.pad(x_QO, (0, 5)) for x_QO in (p_QO, q_QO))
    )
    torch.testing.assert_close(padded_Q, flat_Q, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((1.0, 0, 0), (0.2, 0.8, 0)),  # zeros of the truth, and of both (padding)
        ((0.2, 0.8, 0), (1.0, 0, 0)),  # zeros of the prediction
        ((0.3, 0.7, 0), (0.3, 0.7, 0)),  # equal
        ((1.0, 0, 0), (0, 1.0, 0)),  # disjoint
        ((1.0, 0, 0), (1 - 1e-30, 1e-30, 0)),
        ((0.0, 0, 0), (0.0, 0, 0)),  # a question that only pads
    ],
)
def test_gradients_of_the_divergence_are_finite(
    p: tuple[float, ...], q: tuple[float, ...], dtype: torch.dtype
) -> None:
    p_O, q_O = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (p, q))
    jensen_shannon_divergence(p_O, q_O).backward()
    for gradient in (p_O.grad, q_O.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient[2] == 0


def test_gradient_through_the_softmax_pulls_to_the_truth_from_a_sure_mistake() -> None:
    logit_O = torch.tensor([200.0, 0.0], requires_grad=True)  # in float32 exactly (1, 0)
    jensen_shannon_divergence(torch.tensor([0.0, 1.0]), logit_O.softmax(-1)).backward()
    assert torch.isfinite(logit_O.grad).all()
    logit_O = torch.tensor([5.0, 0.0], requires_grad=True)
    jensen_shannon_divergence(torch.tensor([0.0, 1.0]), logit_O.softmax(-1)).backward()
    assert logit_O.grad[0] > 0 > logit_O.grad[1]


def test_gradient_of_the_divergence_is_the_slope() -> None:
    p_O = shares(0.2, 0.5, 0.3)
    q_O = shares(0.6, 0.1, 0.3)
    assert torch.autograd.gradcheck(
        jensen_shannon_divergence, (p_O.requires_grad_(), q_O.requires_grad_())
    )


def padded(x_QO: Tensor, fill: float) -> Tensor:
    return torch.nn.functional.pad(x_QO, (0, 2), value=fill)


def test_cross_entropy_is_torchs() -> None:
    share_QO = random_shares(50, 4, 7)
    logit_QO = torch.from_numpy(np.random.default_rng(8).normal(size=(50, 4)))
    loss_Q = cross_entropy(
        share_QO, logit_QO.log_softmax(-1), torch.ones_like(share_QO, dtype=torch.bool)
    )
    torch.testing.assert_close(
        loss_Q, torch.nn.functional.cross_entropy(logit_QO, share_QO, reduction="none")
    )


def test_cross_entropy_is_scipys_entropy_plus_divergence() -> None:
    share_QO, predicted_QO = random_shares(50, 4, 9), random_shares(50, 4, 10) + 0.01
    predicted_QO = predicted_QO / predicted_QO.sum(-1, keepdim=True)
    loss_Q = cross_entropy(
        share_QO, predicted_QO.log(), torch.ones_like(share_QO, dtype=torch.bool)
    )
    expected_Q = entropy(share_QO.numpy(), axis=1) + entropy(
        share_QO.numpy(), predicted_QO.numpy(), axis=1
    )
    np.testing.assert_allclose(loss_Q, expected_Q, atol=1e-12)


def test_cross_entropy_worked_by_hand() -> None:
    exists_O = torch.tensor([True, True, True])
    loss = cross_entropy(shares(0.25, 0.75, 0), shares(0.5, 0.25, 0.25).log(), exists_O)
    assert loss.item() == pytest.approx(0.25 * math.log(2) + 0.75 * math.log(4))


def test_padding_changes_no_cross_entropy_and_no_gradient() -> None:
    share_QO = random_shares(20, 4, 11)
    logit_QO = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for pad in (False, True):
        leaf_QO = logit_QO.clone().requires_grad_()
        mask_QO = torch.ones_like(share_QO, dtype=torch.bool)
        true_QO, log_QO = share_QO, leaf_QO
        if pad:
            true_QO, mask_QO = padded(share_QO, 0), torch.nn.functional.pad(mask_QO, (0, 2))
            log_QO = padded(leaf_QO, -math.inf)  # as a prediction has it: log 0
        loss_Q = cross_entropy(true_QO, log_QO.log_softmax(-1), mask_QO)
        loss_Q.sum().backward()
        results.append((loss_Q.detach(), leaf_QO.grad))
    assert torch.isfinite(results[1][1]).all()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-14)


def test_gaussian_nll_is_torchs_averaged_over_the_options_that_exist() -> None:
    random = torch.Generator().manual_seed(2)
    share_QO = random_shares(50, 4, 12)
    mean_QO, raw_QO = torch.randn(2, 50, 4, dtype=torch.float64, generator=random)
    scale_QO = raw_QO.exp()
    density = torch.distributions.Normal(mean_QO, scale_QO)
    mask_QO = torch.ones(50, 4, dtype=torch.bool)
    expected_Q = -density.log_prob(share_QO).mean(-1)
    torch.testing.assert_close(gaussian_nll(share_QO, mean_QO, scale_QO, mask_QO), expected_Q)
    torch.testing.assert_close(
        gaussian_nll(share_QO, mean_QO, scale_QO, mask_QO),
        torch.nn.functional.gaussian_nll_loss(
            mean_QO, share_QO, scale_QO**2, full=True, reduction="none"
        ).mean(-1),
    )
    # Whatever stands where there is no option.
    torch.testing.assert_close(
        gaussian_nll(
            padded(share_QO, 0),
            padded(mean_QO, 17.0),
            padded(scale_QO, 0.01),
            torch.nn.functional.pad(mask_QO, (0, 2)),
        ),
        expected_Q,
    )


def test_gaussian_nll_worked_by_hand() -> None:
    exists_O = torch.tensor([True, True, False])
    loss = gaussian_nll(shares(0.5, 0.5, 0), shares(0.5, 0.7, 0), shares(1, 0.1, 1), exists_O)
    # Errors of 0 and of 2 scales; logarithms of the scales 0 and ln 0.1.
    assert loss.item() == pytest.approx((0 + 2 + math.log(0.1)) / 2 + math.log(2 * math.pi) / 2)


def test_gradients_of_the_gaussian_nll_are_finite_at_padded_options() -> None:
    mean_O = shares(0.2, 0.8, 0).requires_grad_()
    scale_O = shares(0.01, 1, 0.01).requires_grad_()
    exists_O = torch.tensor([True, True, False])
    gaussian_nll(shares(1, 0, 0), mean_O, scale_O, exists_O).backward()
    for gradient in (mean_O.grad, scale_O.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert gradient[2] == 0
        assert (gradient[:2] != 0).all()


# Wasserstein distance


def random_ordinals(questions: int, options: int, seed: int) -> np.ndarray:
    """Ordinal values in no order, of which some are equal."""
    rng = np.random.default_rng(seed)
    ordinal_QO = rng.integers(1, options + 1, (questions, options)) / 2
    ordinal_QO[:, 0], ordinal_QO[:, -1] = options + 1, 0  # never all equal
    return ordinal_QO


def scaled(ordinal_QO: np.ndarray) -> Tensor:
    least_Q1, most_Q1 = ordinal_QO.min(1, keepdims=True), ordinal_QO.max(1, keepdims=True)
    return torch.from_numpy((ordinal_QO - least_Q1) / (most_Q1 - least_Q1))


@pytest.mark.parametrize("options", [2, 3, 5, 18])
def test_wasserstein_is_scipys_over_the_range_and_the_slow_forms(options: int) -> None:
    p_QO, q_QO = random_shares(300, options, 1), random_shares(300, options, 2)
    ordinal_QO = random_ordinals(300, options, 3)
    position_QO = scaled(ordinal_QO)
    distance_Q = wasserstein_distance(p_QO, q_QO, position_QO)
    for row in range(300):
        ordinal_O, p_O, q_O = ordinal_QO[row], p_QO[row].numpy(), q_QO[row].numpy()
        # As OpinionQA and GPO compute it: over the largest distance there can be.
        lowest_O, highest_O = np.zeros(options), np.zeros(options)
        lowest_O[ordinal_O.argmin()] = highest_O[ordinal_O.argmax()] = 1
        largest = scipy_wasserstein(ordinal_O, ordinal_O, lowest_O, highest_O)
        expected = scipy_wasserstein(ordinal_O, ordinal_O, p_O, q_O) / largest
        assert distance_Q[row].item() == pytest.approx(expected, abs=1e-12)
        slow = wasserstein(p_O, q_O, position_QO[row].numpy())
        assert distance_Q[row].item() == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize(
    ("p", "q", "position", "distance"),
    [
        ((1, 0, 0), (0, 0, 1), (0, 0.5, 1), 1),
        ((1, 0, 0), (0, 1, 0), (0, 0.5, 1), 0.5),
        ((1, 0, 0), (0, 1, 0), (0, 1, 0.5), 1),  # the middle option is listed last
        ((0.5, 0.5, 0, 0), (0, 0, 0.5, 0.5), (0, 1 / 3, 2 / 3, 1), 2 / 3),
        ((0.5, 0, 0.5), (0, 1, 0), (0, 0.5, 1), 0.5),
        ((1, 0, 0), (0, 1, 0), (0, 0, 1), 0),  # two options at one place
        ((0.25, 0.25, 0.5), (0.25, 0.25, 0.5), (1, 0.25, 0), 0),
    ],
)
def test_wasserstein_worked_by_hand(
    p: tuple[float, ...], q: tuple[float, ...], position: tuple[float, ...], distance: float
) -> None:
    for left, right in ((p, q), (q, p)):
        found = wasserstein_distance(shares(*left), shares(*right), shares(*position))
        assert found.item() == pytest.approx(distance, abs=1e-15)


def test_wasserstein_takes_any_shape_and_order_and_ignores_padding() -> None:
    p_QO, q_QO = random_shares(6, 4, 5), random_shares(6, 4, 6)
    position_QO = scaled(random_ordinals(6, 4, 7))
    flat_Q = wasserstein_distance(p_QO, q_QO, position_QO)
    assert torch.equal(wasserstein_distance(p_QO[0], q_QO[0], position_QO[0]), flat_Q[0])
    shaped = (x_QO.view(2, 3, 4) for x_QO in (p_QO, q_QO, position_QO))
    assert torch.equal(wasserstein_distance(*shaped), flat_Q.view(2, 3))
    shuffled = (x_QO[:, [2, 0, 3, 1]] for x_QO in (p_QO, q_QO, position_QO))
    torch.testing.assert_close(wasserstein_distance(*shuffled), flat_Q, rtol=0, atol=1e-12)
    padded = (torch.nn.functional.pad(x_QO, (0, 5)) for x_QO in (p_QO, q_QO, position_QO))
    torch.testing.assert_close(wasserstein_distance(*padded), flat_Q, rtol=0, atol=1e-12)


@given(st.integers(0, 10**6), st.integers(2, 8))
def test_wasserstein_is_a_symmetric_distance_between_0_and_1(seed: int, options: int) -> None:
    p_O, q_O, r_O = random_shares(3, options, seed)
    position_O = scaled(random_ordinals(1, options, seed))[0]
    pq, qp, qr, pr = (
        wasserstein_distance(*pair, position_O).item()
        for pair in ((p_O, q_O), (q_O, p_O), (q_O, r_O), (p_O, r_O))
    )
    assert pq == pytest.approx(qp, abs=1e-12)
    assert 0 <= pq <= 1
    assert pr <= pq + qr + 1e-12
