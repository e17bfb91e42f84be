"""How well what a policy wrote agrees with predicted shares: ``[N, O], [N, G, O] -> [N, G]``.

Dimension letters: ``N`` answers, ``G`` groups, ``O`` options (padded).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.divergence import jensen_shannon_distance, wasserstein_distance
from plurallm.reward.answer import Values, parse_distribution, parse_option, parse_ranking


@dataclass(frozen=True)
class Measure:
    """A way to score an answer.

    Attributes
    ----------
    parse : callable
        From the text and the options to a number for each option, None where it cannot be read.
    agreement : callable
        From those numbers of shape (N, 1, O), predicted shares (N, G, O), mask (N, 1, O) and
        positions on a scale from 0 to 1 (N, 1, O) to rewards (N, G) in [0, 1].
    """

    parse: Callable[[str, tuple[str, ...]], Values | None]
    agreement: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def share(chosen_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor) -> Tensor:
    """Predicted share of the option that was chosen.

    Examples
    --------
    >>> share(torch.tensor([0.0, 1.0]), torch.tensor([0.2, 0.8]), ..., ...)
    tensor(0.8000)
    """
    return (chosen_O * share_O).sum(-1)


def jensen_shannon(
    written_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor
) -> Tensor:
    """1 - Jensen-Shannon distance in base 2: the alignment score of one question."""
    return 1 - jensen_shannon_distance(written_O, share_O)


def wasserstein(written_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor) -> Tensor:
    """1 - Wasserstein distance of order 1 on the options' scale from 0 to 1."""
    return 1 - wasserstein_distance(written_O, share_O, position_O.expand_as(share_O))


def cosine(written_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor) -> Tensor:
    """Cosine of the angle between the two distributions."""
    return torch.nn.functional.cosine_similarity(written_O, share_O, dim=-1)


def kendall(place_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor) -> Tensor:
    """Share of pairs of options that are in the right order: (1 + Kendall's tau) / 2.

    A pair with equal predicted shares counts half.
    """
    placed_OO = (place_O.unsqueeze(-2) - place_O.unsqueeze(-1)).sign()
    predicted_OO = (share_O.unsqueeze(-1) - share_O.unsqueeze(-2)).sign()
    pair_OO = (mask_O.unsqueeze(-1) & mask_O.unsqueeze(-2)).triu(1)
    tau = (placed_OO * predicted_OO * pair_OO).sum((-1, -2)) / pair_OO.sum((-1, -2))
    return (1 + tau) / 2


def borda(place_O: Tensor, share_O: Tensor, mask_O: Tensor, position_O: Tensor) -> Tensor:
    """Borda points of the ranking, weighted by predicted shares, from worst (0) to best (1).

    The option in the first of n places has n - 1 points, the last has 0. Where all shares are
    equal every ranking is best.
    """
    points_O = (mask_O.sum(-1, keepdim=True) - 1 - place_O) * mask_O
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
