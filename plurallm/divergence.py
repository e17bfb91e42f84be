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
