"""How experts are mixed for a group: Bayesian linear regression of its answers on theirs.

It is done in square roots of shares: their squared differences sum to twice the squared Hellinger
distance, which is near to the Jensen-Shannon distance that predictions are scored by. The root of
an answer is taken to be the experts' mean root plus a weighted sum of how far each expert lies
from that mean, plus noise. Weights have a normal prior around zero: without a context every group
is predicted by the mean. Their posterior is in closed form, and so is the error of predicting one
question of the context from the others, which chooses the penalty, noise over prior variance.

The experts' predictions of a context's question must not come from that question's answer, or an
expert that copies it would be trusted: see ``folds``.

Dimension letters: ``M`` experts, ``Q`` questions, ``O`` options (padded), ``P`` options that exist.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PENALTY = 0.56
"""Where the penalty's own prior, log-normal, has its median: near the best of 0.3 to 1 for
GlobalOpinionQA's training groups, each predicted from the experts of the others."""

PENALTY_DECADES = 0.3
"""Standard deviation of the penalty's base 10 logarithm."""

FOLDS = 5
"""Parts of a context, each predicted from the others."""

_GRID = tuple(10 ** (step / 4) for step in range(-6, 9))

_LEAST_SHARE = 1e-3


@dataclass(frozen=True)
class Mixing:
    """A group's weights.

    Attributes
    ----------
    weight_M : Tensor of shape (M,), float64
        Posterior mean; any sign.
    covariance_MM : Tensor of shape (M, M), float64
        Posterior covariance.
    noise : float
        Variance of an answer's root around its prediction.
    penalty : float
        Noise over the weights' prior variance.
    """

    weight_M: Tensor
    covariance_MM: Tensor
    noise: float
    penalty: float


def folds(questions: int) -> list[tuple[Tensor, Tensor]]:
    """Split a context into parts and, for each, what it is predicted from.

    Parameters
    ----------
    questions : int
        Questions of the context, at least 2.

    Returns
    -------
    list of (asked, shown)
        Positions of the questions; every question is asked once.
    """
    place_Q = torch.arange(questions)
    count = min(FOLDS, questions)
    return [
        (place_Q[place_Q % count == part], place_Q[place_Q % count != part])
        for part in range(count)
    ]


def fit_mixing(predicted_MQO: Tensor, true_QO: Tensor, mask_QO: Tensor) -> Mixing:
    """Fit a group's weights to its answered context.

    Parameters
    ----------
    predicted_MQO : Tensor of shape (M, Q, O)
        What each expert predicts of each question, without its answer.
    true_QO : Tensor of shape (Q, O)
        The group's answers.
    mask_QO : Tensor of shape (Q, O), bool
        Which options exist.

    Returns
    -------
    Mixing
        Of a context without questions, or of a single expert, the prior: equal weights.
    """
    question_P = mask_QO.nonzero()[:, 0].cpu()
    deviation_MP, mean_P = _deviations(predicted_MQO.double().cpu(), mask_QO.cpu())
    error_P = true_QO.double().cpu()[mask_QO.cpu()].sqrt() - mean_P
    design_PM = deviation_MP.T
    penalty = min(_GRID, key=lambda value: _cost(design_PM, error_P, question_P, value))
    inverse_MM = _inverse(design_PM, penalty)
    weight_M = inverse_MM @ design_PM.T @ error_P
    # The evidence's estimate of the noise, given the penalty.
    fitted = float(error_P @ (error_P - design_PM @ weight_M))
    noise = max(fitted, 0.0) / max(len(error_P), 1)
    return Mixing(weight_M, noise * inverse_MM, noise, penalty)


def even_mixing(members: int) -> Mixing:
    """Weights of a group that nothing is known of: the prior, without a doubt of its own."""
    zeros_M = torch.zeros(members, dtype=torch.float64)
    return Mixing(zeros_M, torch.diag(zeros_M), 0.0, PENALTY)


def mix(mixing: Mixing, predicted_MQO: Tensor, mask_QO: Tensor) -> tuple[Tensor, Tensor]:
    """Predict questions by a group's weights.

    Parameters
    ----------
    mixing : Mixing
        The group's.
    predicted_MQO : Tensor of shape (M, Q, O)
        What each expert predicts.
    mask_QO : Tensor of shape (Q, O), bool
        Which options exist.

    Returns
    -------
    share_QO : Tensor of shape (Q, O), float64
        At least 0.001 before they are scaled to sum to 1; 0 where there is no option. Of one
        expert they are what it predicts.
    spread_QO : Tensor of shape (Q, O), float64
        Standard deviation of the true share: of the weights and of the noise, and never more than
        the largest that a share with this mean can have, ``sqrt(p (1 - p))``.
    """
    mask_QO = mask_QO.cpu()
    deviation_MP, mean_P = _deviations(predicted_MQO.double().cpu(), mask_QO)
    root_P = (mean_P + mixing.weight_M @ deviation_MP).clamp(min=math.sqrt(_LEAST_SHARE))
    variance_P = torch.einsum("mp,mn,np->p", deviation_MP, mixing.covariance_MM, deviation_MP)
    variance_P = variance_P + mixing.noise
    share_QO = torch.zeros(mask_QO.shape, dtype=torch.float64)
    share_QO[mask_QO] = root_P**2
    spread_QO = torch.zeros_like(share_QO)
    # Variance of the square of a normal variable.
    spread_QO[mask_QO] = 4 * root_P**2 * variance_P + 2 * variance_P**2
    total_Q1 = share_QO.sum(-1, keepdim=True)
    share_QO = share_QO / total_Q1
    return share_QO, (spread_QO / total_Q1**2).minimum(share_QO * (1 - share_QO)).sqrt()


def _deviations(predicted_MQO: Tensor, mask_QO: Tensor) -> tuple[Tensor, Tensor]:
    """How far each root lies from the experts' mean root, and the mean, of existing options."""
    root_MP = predicted_MQO[:, mask_QO].sqrt()
    mean_P = root_MP.mean(0)
    return root_MP - mean_P, mean_P


def _inverse(design_PM: Tensor, penalty: float) -> Tensor:
    identity_MM = torch.eye(design_PM.shape[1], dtype=design_PM.dtype)
    inverse_MM: Tensor = torch.linalg.inv(design_PM.T @ design_PM + penalty * identity_MM)
    return inverse_MM


def _cost(design_PM: Tensor, error_P: Tensor, question_P: Tensor, penalty: float) -> float:
    """Minus the log posterior of a penalty: of leaving out a question at a time, and its prior.

    Leaving out the options ``q`` of a question leaves the error ``(1 - H_qq)^-1 r_q``, where ``H``
    is the hat matrix and ``r`` the residual of the whole context.
    """
    hat_PP = design_PM @ _inverse(design_PM, penalty) @ design_PM.T
    residual_P = error_P - hat_PP @ error_P
    squares, questions = 0.0, sorted(set(question_P.tolist()))
    for question in questions:
        own_P = question_P == question
        identity = torch.eye(int(own_P.sum()), dtype=hat_PP.dtype)
        left_out = torch.linalg.solve(identity - hat_PP[own_P][:, own_P], residual_P[own_P])
        squares += float(left_out @ left_out)
    decades = math.log10(penalty / PENALTY) / PENALTY_DECADES
    fit = len(questions) / 2 * math.log(squares) if squares > 0 else 0.0
    return fit + decades**2 / 2
