"""Distances between answer distributions, and losses: ``[..., O] -> [...]``.

``O`` options; where an option does not exist both distributions are zero there.
"""

import math

import torch
from torch import Tensor

SQRT_LN2 = math.sqrt(math.log(2))
"""Largest Jensen-Shannon distance in base e, and its ratio to the distance in base 2."""


def jensen_shannon_divergence(p_O: Tensor, q_O: Tensor) -> Tensor:
    """Jensen-Shannon divergence in base e.

    Parameters
    ----------
    p_O, q_O : Tensor of shape (..., O)
        Probabilities.

    Returns
    -------
    Tensor of shape (...)
        In [0, ln 2]; 0 when equal, ln 2 when disjoint. Its gradient is finite everywhere.
    """
    log_middle_O = _log((p_O + q_O) / 2)
    terms_O = p_O * (_log(p_O) - log_middle_O) + q_O * (_log(q_O) - log_middle_O)
    divergence: Tensor = (terms_O.sum(-1) / 2).clamp(min=0)
    return divergence


def jensen_shannon_distance(p_O: Tensor, q_O: Tensor) -> Tensor:
    """Jensen-Shannon distance in base 2: the square root of the divergence.

    Parameters
    ----------
    p_O, q_O : Tensor of shape (..., O)
        Probabilities.

    Returns
    -------
    Tensor of shape (...)
        In [0, 1]; times ``SQRT_LN2`` it is the base e distance that PluralLLM and GPO report.

    Examples
    --------
    >>> jensen_shannon_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(1.)
    """
    return (jensen_shannon_divergence(p_O, q_O).sqrt() / SQRT_LN2).clamp(max=1)


def wasserstein_distance(p_O: Tensor, q_O: Tensor, position_O: Tensor) -> Tensor:
    """Wasserstein distance of order 1 between answers on a scale from 0 to 1.

    The area between the two cumulative distributions. On ordinal values scaled to that range it is
    what OpinionQA (arXiv 2303.17548) and GPO (arXiv 2310.11523) report: the distance over the
    ordinal values, divided by their range, which is the largest distance there can be.

    Parameters
    ----------
    p_O, q_O : Tensor of shape (..., O)
        Probabilities.
    position_O : Tensor of shape (..., O)
        Where each option stands, in [0, 1]; in any order, and several may stand at one place.
        Where no option exists, any number.

    Returns
    -------
    Tensor of shape (...)
        In [0, 1]; 0 when equal, 1 when all of one stand at 0 and all of the other at 1.

    Examples
    --------
    >>> never, always = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    >>> wasserstein_distance(never, always, torch.tensor([0.0, 1.0, 0.5]))
    tensor(1.)
    """
    position_O, order_O = position_O.sort(-1)
    excess_O = (p_O - q_O).gather(-1, order_O).cumsum(-1)
    area: Tensor = (excess_O[..., :-1].abs() * position_O.diff(dim=-1)).sum(-1)
    return area.clamp(max=1)


def cross_entropy(share_O: Tensor, log_prediction_O: Tensor, mask_O: Tensor) -> Tensor:
    """Cross-entropy of a predicted to a true distribution, in nats.

    Parameters
    ----------
    share_O : Tensor of shape (..., O)
        True probabilities.
    log_prediction_O : Tensor of shape (..., O)
        Logarithms of predicted probabilities; ignored where `mask_O` is False.
    mask_O : Tensor of shape (..., O), bool
        Which options exist.

    Returns
    -------
    Tensor of shape (...)
        At least the entropy of `share_O`.
    """
    return -(share_O * log_prediction_O.masked_fill(~mask_O, 0)).sum(-1)


def gaussian_nll(share_O: Tensor, mean_O: Tensor, scale_O: Tensor, mask_O: Tensor) -> Tensor:
    """Negative log-density of shares under independent Gaussians, averaged over the options.

    The loss of GPO (arXiv 2310.11523); a density, so it can be negative.

    Parameters
    ----------
    share_O, mean_O : Tensor of shape (..., O)
        True and predicted shares.
    scale_O : Tensor of shape (..., O)
        Standard deviations, positive.
    mask_O : Tensor of shape (..., O), bool
        Which options exist.

    Returns
    -------
    Tensor of shape (...)
        Mean over the options that exist.
    """
    nll_O = ((share_O - mean_O) / scale_O) ** 2 / 2 + scale_O.log() + math.log(2 * math.pi) / 2
    return nll_O.masked_fill(~mask_O, 0).sum(-1) / mask_O.sum(-1)


def _log(x_O: Tensor) -> Tensor:
    """Logarithm where positive, else 0: zeros carry no weight, and log(0) spoils gradients."""
    return torch.where(x_O > 0, x_O, 1).log()
