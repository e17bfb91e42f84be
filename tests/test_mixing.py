"""Mixing of experts: by hand, against refitting without a question, and its limits."""

import math

import pytest
import torch

from plurallm.learn.mixing import PENALTY, PENALTY_DECADES, _cost, fit_mixing, folds, mix


def shares(*shape, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draws, dtype=torch.float64).softmax(-1)


def everything(questions, options):
    return torch.ones(questions, options, dtype=torch.bool)


def test_one_question_by_hand():
    # Experts say 0.9 and 0.1 of the first option, the group 0.9. Of the roots, r = sqrt(0.9) and
    # s = sqrt(0.1), the mean is m = (r + s) / 2, and deviations are +-d = +-(r - s) / 2 of both
    # options, which is the error too: X'X = 2 d^2 [[1, -1], [-1, 1]], X'y = 2 d^2 [1, -1].
    experts = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]], dtype=torch.float64)
    mixing = fit_mixing(experts, experts[0], everything(1, 2))
    square = 2 * 0.1  # d^2 = (0.9 + 0.1 - 2 * 0.3) / 4
    weight = square / (2 * square + mixing.penalty)
    assert mixing.weight_M.tolist() == pytest.approx([weight, -weight])
    # y'(y - Xw) / 2, with y = [d, -d] and Xw = 2 w of it.
    assert mixing.noise == pytest.approx(square * (1 - 2 * weight) / 2)
    share, spread = mix(mixing, experts, everything(1, 2))
    m, d = 0.4**0.5, 0.1**0.5
    roots = [m + 2 * d * weight, m - 2 * d * weight]
    total = sum(own**2 for own in roots)
    assert share[0].tolist() == pytest.approx([own**2 / total for own in roots])
    # w = [1, -1] of variance: x'Cx, with x = [d, -d] an eigenvector of X'X + penalty.
    v = mixing.noise * square / (2 * square + mixing.penalty) + mixing.noise
    variances = [(4 * own**2 * v + 2 * v**2) / total**2 for own in roots]
    largest = [own * (1 - own) for own in share[0].tolist()]
    expected = [min(both) ** 0.5 for both in zip(variances, largest, strict=True)]
    assert spread[0].tolist() == pytest.approx(expected)


def test_leaving_out_in_closed_form_equals_fitting_again_without_the_question():
    experts, true = shares(3, 6, 4), shares(6, 4, seed=1)
    deviations = experts - experts.mean(0)
    design, error = deviations.flatten(1).T, (true - experts.mean(0)).flatten()
    question = torch.arange(6).repeat_interleave(4)
    for penalty in (0.1, 1.0, 10.0):
        squares = 0.0
        for left in range(6):
            kept = question != left
            normal = design[kept].T @ design[kept] + penalty * torch.eye(3, dtype=torch.float64)
            weight = torch.linalg.solve(normal, design[kept].T @ error[kept])
            squares += float((error[~kept] - design[~kept] @ weight).square().sum())
        prior = (math.log10(penalty / PENALTY) / PENALTY_DECADES) ** 2 / 2
        slow = 3 * math.log(squares) + prior
        assert _cost(design, error, question, penalty) == pytest.approx(slow, rel=1e-10)


def test_more_context_gives_the_weights_more_freedom_and_less_doubt():
    experts, mask = shares(4, 60, 3), everything(60, 3)
    true = experts[2]
    errors, doubts = [], []
    for count in (5, 20, 60):
        mixing = fit_mixing(experts[:, :count], true[:count], mask[:count])
        share, _ = mix(mixing, experts, mask)
        errors.append(float((share - true).abs().mean()))
        prior = mixing.noise / mixing.penalty
        doubts.append(float(mixing.covariance_MM.trace()) / prior)
    assert errors == sorted(errors, reverse=True)
    assert doubts == sorted(doubts, reverse=True)


def test_no_context_is_the_experts_mean_root():
    experts = shares(3, 2, 4)
    empty = fit_mixing(experts[:, :0], torch.zeros(0, 4), everything(0, 4))
    share, _ = mix(empty, experts, everything(2, 4))
    squares = experts.sqrt().mean(0).square()
    torch.testing.assert_close(share, squares / squares.sum(-1, keepdim=True))


def test_contradictory_answers_do_not_spread_further_than_a_share_can():
    mask = everything(20, 2)
    experts = shares(3, 20, 2)
    true = torch.eye(2, dtype=torch.float64)[torch.arange(20) % 2]
    share, spread = mix(fit_mixing(experts, true, mask), experts, mask)
    assert (spread <= (share * (1 - share)).sqrt() + 1e-12).all()
    assert (spread > 0).all()


def test_shares_sum_to_one_where_options_exist_and_are_zero_elsewhere():
    mask = everything(6, 4)
    mask[::2, 2:] = False
    experts = shares(3, 6, 4) * mask
    experts = experts / experts.sum(-1, keepdim=True)
    share, spread = mix(fit_mixing(experts, experts[0], mask), experts, mask)
    torch.testing.assert_close(share.sum(-1), torch.ones(6, dtype=torch.float64))
    assert (share[mask] > 0).all()
    assert share[~mask].abs().sum() == spread[~mask].abs().sum() == 0


@pytest.mark.parametrize("questions", [2, 3, 20, 151])
def test_folds_ask_each_question_once_and_show_the_others(questions):
    parts = folds(questions)
    assert sorted(torch.cat([asked for asked, _ in parts]).tolist()) == list(range(questions))
    for asked, shown in parts:
        assert sorted(torch.cat([asked, shown]).tolist()) == list(range(questions))
        assert len(shown)
