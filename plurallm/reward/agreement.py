"""How well what a policy wrote agrees with predicted shares.

Dimension letters: ``N`` answers, ``G`` groups, ``O`` options (padded).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.learn.divergence import jensen_shannon_distance, wasserstein_distance
from plurallm.reward.answer import Values, parse_distribution, parse_option, parse_ranking


@dataclass(frozen=True)
class Comparison:
    """What was written beside what is predicted; the shapes broadcast.

    Attributes
    ----------
    written_O : Tensor of shape (N, 1, O)
        A number for each option: 1 for the one that was chosen, a share, or a place in a ranking.
    share_O : Tensor of shape (N, G, O)
        Predicted shares.
    mask_O : Tensor of shape (N, 1, O), bool
        Which options exist.
    position_O : Tensor of shape (N, 1, O)
        Place of each option on a scale from 0 to 1.
    """

    written_O: Tensor
    share_O: Tensor
    mask_O: Tensor
    position_O: Tensor


@dataclass(frozen=True)
class Measure:
    """A way to score an answer.

    Attributes
    ----------
    parse : callable
        From the text and the options to a number for each option, None where it cannot be read.
    agreement : callable
        From a comparison to rewards (N, G) in [0, 1].
    """

    parse: Callable[[str, tuple[str, ...]], Values | None]
    agreement: Callable[[Comparison], Tensor]


def share(this: Comparison) -> Tensor:
    """Predicted share of the option that was chosen."""
    return (this.written_O * this.share_O).sum(-1)


def jensen_shannon(this: Comparison) -> Tensor:
    """1 - Jensen-Shannon distance in base 2: the alignment score of one question."""
    return 1 - jensen_shannon_distance(this.written_O, this.share_O)


def wasserstein(this: Comparison) -> Tensor:
    """1 - Wasserstein distance of order 1 on the options' scale from 0 to 1."""
    position_O = this.position_O.expand_as(this.share_O)
    return 1 - wasserstein_distance(this.written_O, this.share_O, position_O)


def cosine(this: Comparison) -> Tensor:
    """Cosine of the angle between the two distributions."""
    return torch.nn.functional.cosine_similarity(this.written_O, this.share_O, dim=-1)


def kendall(this: Comparison) -> Tensor:
    """Share of pairs of options that are in the right order: (1 + Kendall's tau) / 2.

    A pair with equal predicted shares counts half.
    """
    placed_OO = (this.written_O.unsqueeze(-2) - this.written_O.unsqueeze(-1)).sign()
    predicted_OO = (this.share_O.unsqueeze(-1) - this.share_O.unsqueeze(-2)).sign()
    pair_OO = (this.mask_O.unsqueeze(-1) & this.mask_O.unsqueeze(-2)).triu(1)
    tau = (placed_OO * predicted_OO * pair_OO).sum((-1, -2)) / pair_OO.sum((-1, -2))
    return (1 + tau) / 2


def borda(this: Comparison) -> Tensor:
    """Borda points of the ranking, weighted by predicted shares, from worst (0) to best (1).

    The option in the first of n places has n - 1 points, the last has 0. Where all shares are
    equal every ranking is best.
    """
    share_O, mask_O = this.share_O, this.mask_O
    points_O = (mask_O.sum(-1, keepdim=True) - 1 - this.written_O) * mask_O
    earned = (points_O * share_O).sum(-1)
    # Best: most points to the largest share. Worst: the other way round; padding has no points.
    falling_O = points_O.sort(-1, descending=True).values
    best = (falling_O * share_O.sort(-1, descending=True).values).sum(-1)
    rising_O = share_O.masked_fill(~mask_O, float("inf")).sort(-1).values
    worst = (falling_O * torch.where(rising_O.isinf(), 0, rising_O)).sum(-1)
    return torch.where(best > worst, (earned - worst) / (best - worst), 1.0)


MEASURES = {
    "share": Measure(parse_option, share),
    "jensen_shannon": Measure(parse_distribution, jensen_shannon),
    "wasserstein": Measure(parse_distribution, wasserstein),
    "cosine": Measure(parse_distribution, cosine),
    "kendall": Measure(parse_ranking, kendall),
    "borda": Measure(parse_ranking, borda),
}
"""By name; what a policy has to write follows from the measure."""

RAW_MEAN = "raw_mean"
"""The measure of a free text: the network's unnormalised mean, outside what it was trained on."""
