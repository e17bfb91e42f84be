"""Local training of several groups in vectorised computations.

Every group has its own weights, stacked ``[G, ...]``, its own episodes and its own Adam moments,
which are elementwise. In each step the groups are sorted by the length of their episodes, and those
of like length are computed together, padded to the longest. The numbers are those of one group
after the other up to rounding (tested in float64).

Dimension letters: ``G`` groups, ``B`` groups of one computation, ``P`` points, ``Q`` questions,
``O`` options, ``R`` rows of the table, ``D`` embedding width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from plurallm.config import Config, TrainingConfig
from plurallm.model import PreferenceTransformer
from plurallm.preferences import Episode
from plurallm.tasks import GroupTask
from plurallm.training.adam import Adam
from plurallm.training.local import LocalUpdate, round_episodes, round_rates
from plurallm.training.losses import episode_loss
from plurallm.training.proximal import Proximal

_BUDGET = 2 * 1024**3
"""Bytes for weights, gradients and Adam moments of the groups that are trained together."""


def groups_in_memory(model: PreferenceTransformer) -> int:
    """How many groups ``train_groups_together`` should be given at most, at least 1."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return max(1, _BUDGET // (4 * weights))


def train_groups_together(
    model: PreferenceTransformer,
    tasks: Sequence[GroupTask],
    table_RD: Tensor,
    config: Config,
    round_number: int,
    proximal: Proximal | None = None,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
    at_once: int | None = None,
) -> tuple[dict[str, Tensor], list[LocalUpdate]]:
    """Train copies of a model, one for each group, for one round.

    Parameters
    ----------
    model : PreferenceTransformer
        The received model; it stays as it is.
    tasks : sequence of GroupTask
        The groups.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.
    config : Config
        The run's configuration.
    round_number : int
        From 1.
    proximal : Proximal, optional
        Weights that all are pulled towards.
    starts : sequence of mapping of str to Tensor, optional
        Weights that each group starts from; the model's by default.
    at_once : int, optional
        Groups in one vectorised computation; all by default.

    Returns
    -------
    weights : dict of str to Tensor of shape (G, ...)
        Each group's trained weights.
    updates : list of LocalUpdate
        In the order of `tasks`.
    """
    received = dict(model.named_parameters())
    weights = {
        name: torch.stack([start[name].detach() for start in starts or [received] * len(tasks)])
        for name in received
    }
    optimizer = Adam(weights.values())
    drawn = zip(*(round_episodes(task, config, round_number) for task in tasks), strict=True)
    losses_G = []
    for rate, episodes in zip(round_rates(config, round_number), drawn, strict=True):
        loss_G = next(iter(weights.values())).new_empty(len(tasks))
        for value in weights.values():
            value.grad = torch.empty_like(value)
        for rows in batches(episodes, at_once or len(tasks)):
            row_B = torch.tensor(rows, device=table_RD.device)
            own = {name: value[row_B].requires_grad_() for name, value in weights.items()}
            stacked = stack_episodes([episodes[row] for row in rows]).to(table_RD.device)
            loss_B = _losses(model, own, stacked, table_RD, config.training)
            loss_B.sum().backward()  # type: ignore[no-untyped-call]
            loss_G[row_B] = loss_B.detach()
            for name, value in weights.items():
                assert value.grad is not None
                value.grad.index_copy_(0, row_B, own[name].grad)  # type: ignore[arg-type]
        if proximal is not None:
            proximal.add_gradient(weights)
        optimizer.step(rate)
        losses_G.append(loss_G)
    losses_SG = torch.stack(losses_G).tolist()
    updates = [
        LocalUpdate(tuple(step[row] for step in losses_SG), examples=len(task.seen))
        for row, task in enumerate(tasks)
    ]
    return weights, updates


def batches(episodes: Sequence[Episode], size: int) -> Iterator[list[int]]:
    """Bring episodes of like length together.

    Parameters
    ----------
    episodes : sequence of Episode
        Of one step.
    size : int
        Most episodes in a batch.

    Yields
    ------
    list of int
        Positions of a batch's episodes, by length.
    """
    order = sorted(range(len(episodes)), key=lambda row: len(episodes[row].row_P))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def stack_episodes(episodes: Sequence[Episode]) -> Episode:
    """Pad episodes to the longest and stack them.

    Parameters
    ----------
    episodes : sequence of Episode
        On the CPU.

    Returns
    -------
    Episode
        Its tensors have a first axis ``B`` more, `context_mask_P` and `weight_Q` among them.
    """
    contexts = torch.tensor([episode.contexts for episode in episodes])
    most, start = int(contexts.max()), int(contexts.min())
    dtype = episodes[0].share_QO.dtype
    whole = [
        replace(
            episode,
            # Targets follow their own context, wherever the shortest context ends.
            point_QO=(episode.point_QO + episode.contexts - start) * episode.mask_QO,
            weight_Q=torch.full((len(episode.mask_QO),), 1 / len(episode.mask_QO), dtype=dtype),
        )
        for episode in episodes
    ]
    parts = [episode.tensors() for episode in whole]
    stacked = {name: _pad([part[name] for part in parts]) for name in parts[0]}
    # A question that only pads has one option, so that its shares are numbers.
    stacked["mask_QO"][..., 0] = True
    mask_BP = torch.arange(most) < contexts.unsqueeze(-1)
    return Episode(**stacked, contexts=most, start=start, context_mask_P=mask_BP)


def _losses(
    model: PreferenceTransformer,
    weights: dict[str, Tensor],
    stacked: Episode,
    table_RD: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Loss of each stacked episode with weights of its own, of shape (B,)."""

    def loss_of_one(weights: dict[str, Tensor], tensors: dict[str, Any]) -> Tensor:
        return episode_loss(
            lambda *inputs: functional_call(model, weights, inputs),
            replace(stacked, **tensors),
            table_RD,
            config,
        )

    # The other attention kernels have no batching rule: vmap would loop over the groups.
    with sdpa_kernel(SDPBackend.MATH):
        loss_B: Tensor = vmap(loss_of_one)(weights, stacked.tensors())
    return loss_B


def _pad(parts: Sequence[Tensor]) -> Tensor:
    """Stack tensors, each padded with zeros at the ends of its axes."""
    shape = [max(part.shape[axis] for part in parts) for axis in range(parts[0].dim())]
    padded = parts[0].new_zeros((len(parts), *shape))
    for row, part in zip(padded, parts, strict=True):
        row[tuple(slice(size) for size in part.shape)] = part
    return padded
