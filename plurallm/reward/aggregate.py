"""One reward of many groups': ``[N, G] -> [N]``.

Dimension letters: ``N`` answers, ``G`` groups. After arXiv 2512.08786 and 2604.04261.
"""

import math
from collections.abc import Callable
from functools import partial

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
    ``log(mean_g exp(alpha_g r_g)) / log(mean_g exp(alpha_g))`` with
    ``alpha = softmax((1 - h) / temperature)``. History ``h_g`` is the mean of the group's rewards
    so far, in which those of older answers fade.

    Parameters
    ----------
    temperature : float
        0.1 in both papers.
    memory : float
        Number of answers after which a reward counts ``1 / e`` in the history. The default is about
        APPA's decay of 0.8 a batch for batches of 64 answers; by answers it does not matter how
        they are batched, and RLHF tools may send them one by one.
    gap : float
        Where the papers ask for a fairness index below a threshold. That index saturates: even at
        rewards of 0.80 and 0.88 it is 0.998, so it would be the mean for ever.

    Notes
    -----
    The denominator is not in the papers. It changes no order of answers, and keeps the value in
    [0, 1], 1 where all rewards are.
    """

    def __init__(self, temperature: float = 0.1, memory: float = 300.0, gap: float = 0.02) -> None:
        self.temperature = temperature
        self.memory = memory
        self.gap = gap
        self.history_G: Tensor | None = None
        self._weight = 0.0

    def __call__(self, reward_NG: Tensor) -> Tensor:
        """Aggregate a batch by the history before it, then add the batch to the history.

        The first batch is its own history.
        """
        answers = len(reward_NG)
        if not answers:
            return reward_NG.new_zeros(0)
        batch_G = reward_NG.mean(0)
        before_G = batch_G if self.history_G is None else self.history_G
        self._weight = self._weight * math.exp(-answers / self.memory) + answers
        self.history_G = before_G + (batch_G - before_G) * answers / self._weight
        if before_G.amax() - before_G.amin() <= self.gap:
            return mean(reward_NG)
        alpha_G = ((1 - before_G) / self.temperature).softmax(-1)
        log_groups = math.log(reward_NG.shape[-1])
        highest = torch.logsumexp(alpha_G, -1) - log_groups
        return (torch.logsumexp(alpha_G * reward_NG, -1) - log_groups) / highest


AGGREGATES = ("mean", "min", "max", "log_mean_exp", "adaptive")
"""Names of what ``make_aggregate`` makes."""


def make_aggregate(name: str, alpha: float) -> Aggregate:
    """Make an aggregate by its name.

    Parameters
    ----------
    name : str
        One of ``AGGREGATES``.
    alpha : float
        Of ``log_mean_exp``.

    Returns
    -------
    callable
        From rewards of shape (N, G) to (N,).

    Raises
    ------
    ValueError
        For an unknown name, or an alpha at which the value would be all rounding.
    """
    # Nearer to 0 the difference of logarithms holds no digit; farther off it may overflow.
    if not 1e-6 <= abs(alpha) <= 1e6:
        raise ValueError(
            f"alpha must lie in 1e-6..1e6, or below 0 alike, but is {alpha}: towards 0 it is "
            "over_groups=mean, far off over_groups=max, or min below 0"
        )
    plain = {"mean": mean, "min": minimum, "max": maximum}
    if name in plain:
        return plain[name]
    if name == "log_mean_exp":
        return partial(log_mean_exp, alpha=alpha)
    if name == "adaptive":
        return AdaptiveAlpha()
    raise ValueError(f"over_groups must be one of {', '.join(AGGREGATES)}, but is {name!r}")
