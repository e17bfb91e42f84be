"""Several networks of one shape as one network, whose weights are stacked.

All members predict in one pass: many small products cost more than one that is batched.

Dimension letters: ``M`` members, ``P`` points, ``W`` model width.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plurallm.learn.transformer import Memory, PreferenceTransformer

_AT_ONCE = 2**20
"""Most numbers of one layer's output: they stay in a core's cache, and memory is bounded."""


def make_ensemble(
    like: PreferenceTransformer, weights: Mapping[str, Tensor]
) -> PreferenceTransformer:
    """Make a network of several.

    Parameters
    ----------
    like : PreferenceTransformer
        A network of their layers; it is left as it is.
    weights : mapping of str to Tensor of shape (M, ...)
        Their weights by name, stacked; they are shared, not copied.

    Returns
    -------
    PreferenceTransformer
        Its methods take and give tensors with an axis (M, ...) in front.
    """
    # Layers anew, weights not: each is replaced.
    ensemble = copy.deepcopy(like, {id(weight): weight for weight in like.parameters()})
    for name, weight in weights.items():
        layer, _, leaf = name.rpartition(".")
        own = nn.Parameter(weight.detach(), requires_grad=False)
        setattr(ensemble.get_submodule(layer), leaf, own)
    return ensemble


def take_member(ensemble: PreferenceTransformer, row: int) -> PreferenceTransformer:
    """Make an ensemble of one member of another; they share its weights."""
    return make_ensemble(
        ensemble, {name: own[row : row + 1] for name, own in ensemble.named_parameters()}
    )


def members(ensemble: PreferenceTransformer) -> int:
    """How many there are."""
    return len(ensemble.first.weight)


def decode_members(ensemble: PreferenceTransformer, token_MPW: Tensor, memory: Memory) -> Tensor:
    """Predict targets by each member, some points at a time.

    Parameters
    ----------
    ensemble : PreferenceTransformer
        Of ``M`` members.
    token_MPW : Tensor of shape (M, P, W)
        Target points, as each member sees them.
    memory : Memory
        The context, encoded by each.

    Returns
    -------
    Tensor of shape (M, P, 2)
        Mean and raw scale of each point.
    """
    count, _, width = token_MPW.shape
    points = max(_AT_ONCE // (count * width), 1)
    parts = [ensemble.decode(part_MPW, memory) for part_MPW in torch.split(token_MPW, points, 1)]
    return torch.cat(parts, 1)
