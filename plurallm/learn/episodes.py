"""A round's episodes: what was drawn is sent as indices all at once, and laid out on the device.

Answers and rows of the table are on the device already, and lengths are known where they are drawn:
nothing waits for the device.

Dimension letters: ``B`` episodes, ``P`` points, ``Q`` questions, ``O`` options.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from plurallm.config.device import send
from plurallm.config.schema import Config
from plurallm.data.preferences import Episode, Preferences
from plurallm.data.tasks import GroupTask
from plurallm.learn.draws import Draw, batches, draw_round


@dataclass(frozen=True)
class Batch:
    """Episodes of several groups for one vectorised computation.

    Attributes
    ----------
    row_B : Tensor of shape (B,), int64
        Position of each episode's group, on the device.
    episode : Episode
        On the device; its tensors have a first axis ``B`` more, `context_mask_P` and `weight_Q`
        among them.
    """

    row_B: Tensor
    episode: Episode


def round_episodes(
    task: GroupTask, config: Config, round_number: int, device: torch.device
) -> Iterator[Episode]:
    """Draw a group's episodes of a round.

    Parameters
    ----------
    task : GroupTask
        The group; only its seen questions are used.
    config : Config
        The run's configuration.
    round_number : int
        From 1.
    device : torch.device
        Where the episodes are laid out.

    Yields
    ------
    Episode
        Of each step, as ``make_episode`` makes it of the drawn questions.
    """
    steps = draw_round([task], config, round_number)
    for batch in _lay_out_all(task.seen_on(device), steps, device):
        alone: dict[str, Any] = {name: part[0] for name, part in batch.episode.tensors().items()}
        yield replace(batch.episode, **alone | {"context_mask_P": None, "weight_Q": None})


def round_batches(
    tasks: Sequence[GroupTask],
    config: Config,
    round_number: int,
    at_once: int,
    device: torch.device,
    multiple: int = 1,
) -> Iterator[list[Batch]]:
    """Draw several groups' episodes of a round, each stacked with others of like length.

    Parameters
    ----------
    tasks : sequence of GroupTask
        The groups; only their seen questions are used.
    config : Config
        The run's configuration.
    round_number : int
        From 1.
    at_once : int
        Most episodes in a batch.
    device : torch.device
        Where the episodes are laid out.
    multiple : int
        What lengths are padded to a multiple of, so that few shapes come up; targets are then
        looked for among all points, and options are as many as any question has. 1: no more than
        it takes.

    Yields
    ------
    list of Batch
        Of each step: together an episode of every group.
    """
    first, *others = (task.seen_on(device) for task in tasks)
    steps = [list(batches(step, at_once)) for step in draw_round(tasks, config, round_number)]
    drawn = [part for step in steps for part in step]
    laid_out = _lay_out_all(first.join(*others), drawn, device, multiple)
    for step in steps:
        yield list(islice(laid_out, len(step)))


def _lay_out_all(
    seen: Preferences, drawn: Sequence[Sequence[Draw]], device: torch.device, multiple: int = 1
) -> Iterator[Batch]:
    """Stack some batches of draws of questions that are on the device, with one copy to it."""
    host = [_indices(batch, multiple) for batch in drawn]
    sent = send(torch.cat([part.flatten() for parts in host for part in parts]), device)
    pieces = iter(torch.split(sent, [part.numel() for parts in host for part in parts]))
    for batch, parts in zip(drawn, host, strict=True):
        indices = (next(pieces).view(part.shape) for part in parts)
        yield _lay_out(seen, batch, multiple, *indices)


def _indices(batch: Sequence[Draw], multiple: int) -> list[Tensor]:
    """What ``_lay_out`` needs on the device: rows, points, targets, and how many are contexts'."""
    return [
        torch.tensor([draw.row for draw in batch]),
        _stack([draw.point_P for draw in batch], multiple),
        _stack([draw.target_Q for draw in batch], multiple),
        torch.tensor([[draw.contexts, len(draw.target_Q)] for draw in batch]),
    ]


def _stack(indices: Sequence[Tensor], multiple: int) -> Tensor:
    """Pad with zeros to the longest, and that to a multiple."""
    stacked = pad_sequence(list(indices), batch_first=True)
    length = stacked.shape[1]
    return pad(stacked, (0, padded_length(length, multiple) - length))


def padded_length(length: int, multiple: int) -> int:
    """The least multiple that is not below a length."""
    return -(-length // multiple) * multiple


def _lay_out(
    seen: Preferences,
    batch: Sequence[Draw],
    multiple: int,
    row_B: Tensor,
    point_BP: Tensor,
    target_BQ: Tensor,
    size_B2: Tensor,
) -> Batch:
    """Pad a batch's episodes to the longest and stack them."""
    contexts = [draw.contexts for draw in batch]
    most = padded_length(max(contexts), multiple)
    start, widest = min(contexts), max(draw.widest for draw in batch)
    if multiple > 1:  # the same for all batches: fewer shapes
        start, widest = 0, seen.mask_QO.shape[1]
    context_B1, targets_B1 = torch.split(size_B2, 1, dim=1)
    place_P = torch.arange(point_BP.shape[1], device=row_B.device)
    exists_BQ = place_P[: target_BQ.shape[1]] < targets_B1
    exists_BQ1 = exists_BQ.unsqueeze(-1)
    mask_BQO = seen.mask_QO[:, :widest][target_BQ] & exists_BQ1
    # Targets follow their own context, wherever the shortest context ends.
    point_BQO = (mask_BQO.flatten(1).cumsum(1) - 1 + context_B1 - start).view(mask_BQO.shape)
    point_BQO = point_BQO * mask_BQO
    # A question that only pads has one option, so that its shares are numbers.
    mask_BQO[..., 0] = True
    share_QO = seen.share_QO
    context_BP = place_P < context_B1
    episode = Episode(
        row_P=seen.row_QO.flatten()[point_BP],
        share_P=share_QO.flatten()[point_BP] * context_BP,
        point_QO=point_BQO,
        share_QO=share_QO[:, :widest][target_BQ] * exists_BQ1,
        mask_QO=mask_BQO,
        contexts=most,
        start=start,
        context_mask_P=context_BP[:, :most],
        weight_Q=exists_BQ.to(share_QO.dtype) / targets_B1,
    )
    return Batch(row_B, episode)
