"""One reward of many groups': ``[N, G] -> [N]``.

Dimension letters: ``N`` answers, ``G`` groups. After arXiv 2512.08786 and 2604.04261.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Aggregate = Callable[[Tensor], Tensor]
"""From rewards of shape (N, G) to (N,)."""


def mean(reward_NG: Tensor) -> Tensor:
    """Mean over the groups."""
    return reward_NG.mean(-1)


def minimum(reward_NG: Tensor) -> Tensor:
    """Reward of the worst group."""
    return reward_NG.amin(-1)


def maximum(reward_NG: Tensor) -> Tensor:
    """Reward of the best group."""
    return reward_NG.amax(-1)


def log_mean_exp(reward_NG: Tensor, alpha: float) -> Tensor:
    """``log(mean_g exp(alpha r_g)) / alpha``.

    Parameters
    ----------
    reward_NG : Tensor of shape (N, G)
        Rewards.
    alpha : float
        Not 0. Towards minus infinity it is the minimum, towards 0 the mean, towards plus infinity
        the maximum.

    Returns
    -------
    Tensor of shape (N,)
        Between the minimum and the maximum.
    """
    return (torch.logsumexp(alpha * reward_NG, -1) - math.log(reward_NG.shape[-1])) / alpha


class AdaptiveAlpha:
    """Weighs groups up that had low rewards so far.

    While the history's best and worst group are at most `gap` apart it is the mean; otherwise
    ``G log(mean_g exp(alpha_g r_g))`` with ``alpha = softmax((1 - h) / temperature)``. History
    ``h_g`` starts with the group's mean reward of the first batch and then keeps `decay` of itself.

    Parameters
    ----------
    temperature : float
        0.1 in both papers.
    decay : float
        0.8 in APPA.
    gap : float
        Where the papers ask for a fairness index below a threshold. That index saturates: even at
        rewards of 0.80 and 0.88 it is 0.998, so it would be the mean for ever.

    Notes
    -----
    The factor ``G`` is not in the papers. It changes no order of answers, and makes the value
    about the mean again when all groups have the same history.
    """

    def __init__(self, temperature: float = 0.1, decay: float = 0.8, gap: float = 0.02) -> None:
        self.temperature = temperature
        self.decay = decay
        self.gap = gap
        self.history_G: Tensor | None = None

    def __call__(self, reward_NG: Tensor) -> Tensor:
        """Aggregate a batch by the history before it, then add the batch to the history."""
        if not len(reward_NG):
            return reward_NG.new_zeros(0)
        batch_G = reward_NG.mean(0)
        history_G = batch_G if self.history_G is None else self.history_G
        self.history_G = self.decay * history_G + (1 - self.decay) * batch_G
        if history_G.amax() - history_G.amin() <= self.gap:
            return mean(reward_NG)
        alpha_G = ((1 - history_G) / self.temperature).softmax(-1)
        groups = reward_NG.shape[-1]
        return groups * (torch.logsumexp(alpha_G * reward_NG, -1) - math.log(groups))


AGGREGATES: dict[str, Callable[[float], Aggregate]] = {
    "mean": lambda alpha: mean,
    "min": lambda alpha: minimum,
    "max": lambda alpha: maximum,
    "log_mean_exp": lambda alpha: lambda reward_NG: log_mean_exp(reward_NG, alpha),
    "adaptive": lambda alpha: AdaptiveAlpha(),
}
"""Makers by name; only ``log_mean_exp`` takes alpha."""
