"""Local training of several groups in one vectorised computation.

Every group has its own weights, stacked ``[G, ...]``, its own episodes, padded to the longest, and
its own Adam moments, which are elementwise. The numbers are those of one group after the other up
to rounding (tested in float64).

Dimension letters: ``G`` groups, ``P`` points, ``Q`` questions, ``O`` options, ``R`` rows of the
table, ``D`` embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor, nn
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


def train_groups_together(
    model: PreferenceTransformer,
    tasks: Sequence[GroupTask],
    table_RD: Tensor,
    config: Config,
    round_number: int,
    proximal: Proximal | None = None,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
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
    for value in weights.values():
        value.requires_grad_()
    optimizer = Adam(weights.values())
    loss_of = _EpisodeLoss(model, table_RD, config.training)

    def group_loss(weights: dict[str, Tensor], episode: tuple[Tensor, ...]) -> Tensor:
        renamed = {f"model.{name}": value for name, value in weights.items()}
        loss: Tensor = functional_call(loss_of, renamed, (episode,))
        return loss

    drawn = zip(*(round_episodes(task, config, round_number) for task in tasks), strict=True)
    losses_G = []
    for rate, episodes in zip(round_rates(config, round_number), drawn, strict=True):
        padded = tuple(part.to(table_RD.device) for part in _stack(episodes))
        # The other attention kernels have no batching rule: vmap would loop over the groups.
        with sdpa_kernel(SDPBackend.MATH):
            loss_G = vmap(group_loss)(weights, padded)
            loss_G.sum().backward()  # type: ignore[no-untyped-call]
        if proximal is not None:
            proximal.add_gradient(weights)
        optimizer.step(rate)
        losses_G.append(loss_G.detach())
    losses_SG = torch.stack(losses_G).tolist()
    updates = [
        LocalUpdate(tuple(step[row] for step in losses_SG), examples=len(task.seen))
        for row, task in enumerate(tasks)
    ]
    return {name: value.detach() for name, value in weights.items()}, updates


class _EpisodeLoss(nn.Module):
    """``episode_loss`` as a module, whose weights ``functional_call`` can replace."""

    def __init__(
        self, model: PreferenceTransformer, table_RD: Tensor, config: TrainingConfig
    ) -> None:
        super().__init__()
        self.model = model
        self.table_RD = table_RD
        self.config = config

    def forward(self, episode: tuple[Tensor, ...]) -> Tensor:
        return episode_loss(self.model, Episode(*episode), self.table_RD, self.config)


def _stack(episodes: Sequence[Episode]) -> list[Tensor]:
    """Pad episodes to the longest and stack them, field by field of ``Episode``."""
    contexts = [len(episode.context_row_P) for episode in episodes]
    questions = [len(episode.point_QO) for episode in episodes]
    padded = []
    for field in fields(Episode):
        if field.name == "context_mask_P":
            parts = [torch.ones(count, dtype=torch.bool) for count in contexts]
        elif field.name == "weight_Q":
            dtype = episodes[0].share_QO.dtype
            parts = [torch.full((count,), 1 / count, dtype=dtype) for count in questions]
        else:
            parts = [getattr(episode, field.name) for episode in episodes]
        shape = [max(part.shape[axis] for part in parts) for axis in range(parts[0].dim())]
        padded.append(torch.stack([_pad(part, shape) for part in parts]))
        if field.name == "mask_QO":
            # A question that only pads has one option, so that its shares are numbers.
            for row, count in enumerate(questions):
                padded[-1][row, count:, 0] = True
    return padded


def _pad(part: Tensor, shape: Sequence[int]) -> Tensor:
    padded = part.new_zeros(tuple(shape))
    padded[tuple(slice(size) for size in part.shape)] = part
    return padded
