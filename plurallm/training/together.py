"""Local training of several groups in vectorised computations.

Every group has its own weights, stacked ``[G, ...]``, its own episodes and its own Adam moments,
which are elementwise. In each step the groups whose episodes are of like length are computed
together, padded to the longest. The numbers are those of one group after the other up to rounding
(tested in float64).

Dimension letters: ``G`` groups, ``B`` groups of one computation, ``R`` rows of the table, ``D``
embedding width.
"""

from collections.abc import Mapping, Sequence
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
from plurallm.training.episodes import Batch, round_batches
from plurallm.training.local import LocalUpdate, round_rates
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
    losses_G = []
    steps = round_batches(tasks, config, round_number, at_once or len(tasks), table_RD.device)
    for rate, step in zip(round_rates(config, round_number), steps, strict=True):
        losses_G.append(_add_gradients(model, weights, step, table_RD, config.training))
        if proximal is not None:
            proximal.add_gradient(weights)
        optimizer.step(rate)
    losses_SG = torch.stack(losses_G).tolist()
    updates = [
        LocalUpdate(tuple(step[row] for step in losses_SG), examples=len(task.seen))
        for row, task in enumerate(tasks)
    ]
    return weights, updates


def _add_gradients(
    model: PreferenceTransformer,
    weights: dict[str, Tensor],
    step: Sequence[Batch],
    table_RD: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Give each group's weights their gradient; the groups' losses, of shape (G,)."""
    if len(step) == 1:  # of all groups in their order: nothing need be copied
        own = {name: value.detach().requires_grad_() for name, value in weights.items()}
        loss_G = _backward(model, own, step[0].episode, table_RD, config)
        for name, value in weights.items():
            value.grad = own[name].grad
        return loss_G
    loss_G = next(iter(weights.values())).new_empty(sum(len(batch.row_B) for batch in step))
    for value in weights.values():
        value.grad = torch.empty_like(value)
    for batch in step:
        own = {name: value[batch.row_B].requires_grad_() for name, value in weights.items()}
        loss_G[batch.row_B] = _backward(model, own, batch.episode, table_RD, config)
        for name, value in weights.items():
            assert value.grad is not None
            value.grad.index_copy_(0, batch.row_B, own[name].grad)  # type: ignore[arg-type]
    return loss_G


def _backward(
    model: PreferenceTransformer,
    weights: dict[str, Tensor],
    stacked: Episode,
    table_RD: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Loss of each stacked episode with weights of its own, of shape (B,), after its backward."""
    loss_B = _losses(model, weights, stacked, table_RD, config)
    loss_B.sum().backward()  # type: ignore[no-untyped-call]
    return loss_B.detach()


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
