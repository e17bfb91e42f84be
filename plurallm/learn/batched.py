"""Local training of several groups in vectorised computations.

Every group has its own weights, stacked ``[G, ...]``, its own episodes and its own Adam moments,
which are elementwise. In each step the groups whose episodes are of like length are computed
together, padded to the longest. The numbers are those of one group after the other up to rounding
(tested in float64).

Dimension letters: ``G`` groups, ``B`` groups of one computation, ``R`` rows of the table, ``D``
embedding width.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from plurallm.config.device import records_steps
from plurallm.config.learning import TrainingConfig
from plurallm.config.schema import Config
from plurallm.data.tasks import GroupTask
from plurallm.learn.cuda_graph import MULTIPLE, RecordedGroups
from plurallm.learn.episodes import Batch, round_batches
from plurallm.learn.local import LocalUpdate, round_rates, train_group
from plurallm.learn.losses import episode_loss
from plurallm.learn.proximal import Proximal
from plurallm.learn.stacked import StackedGroups
from plurallm.learn.transformer import PreferenceTransformer

_BUDGET = 2 * 1024**3
"""Bytes for weights, gradients and Adam moments of the groups that are trained together."""


def groups_in_memory(model: PreferenceTransformer) -> int:
    """How many groups ``train_groups_together`` should be given at most, at least 1."""
    weights = sum(parameter.nbytes for parameter in model.parameters())
    return max(1, _BUDGET // (4 * weights))


def train_groups(
    model: PreferenceTransformer,
    tasks: Sequence[GroupTask],
    table_RD: Tensor,
    config: Config,
    round_number: int,
    proximal: Proximal | None = None,
    starts: Sequence[Mapping[str, Tensor]] | None = None,
    at_once: int | None = None,
) -> tuple[dict[str, Tensor], list[LocalUpdate]]:
    """Train each of some groups for one round: several together, a single one as is fastest.

    Parameters and results are those of ``train_groups_together``. But a single group is trained in
    the model itself where steps are not recorded, and its weights are views of the model's.
    """
    if len(tasks) > 1 or records_steps(table_RD.device):
        return train_groups_together(
            model, tasks, table_RD, config, round_number, proximal, starts, at_once
        )
    if starts is not None:
        model.load_state_dict(starts[0])
    update = train_group(model, tasks[0], table_RD, config, round_number, proximal)
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return {name: weight.unsqueeze(0) for name, weight in weights.items()}, [update]


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
    received, device = dict(model.named_parameters()), table_RD.device
    groups: StackedGroups
    if records_steps(device):
        groups = _recorded_groups(model, table_RD, config.training, len(tasks))
        multiple = MULTIPLE
    else:
        compute = partial(_gradients, model, table_RD, config.training)
        groups = StackedGroups(received, len(tasks), compute)
        multiple = 1
    if starts is None:
        groups.start(received)
    else:
        groups.start({name: torch.stack([start[name] for start in starts]) for name in received})
    losses_G = []
    steps = round_batches(tasks, config, round_number, at_once or len(tasks), device, multiple)
    for rate, step in zip(round_rates(config, round_number), steps, strict=True):
        losses_G.append(groups.add_gradients(step))
        if proximal is not None:
            proximal.add_gradient(groups.weights)
        groups.optimizer.step(rate)
    losses_SG = torch.stack(losses_G).tolist()
    updates = [
        LocalUpdate(tuple(step[row] for step in losses_SG), examples=len(task.seen))
        for row, task in enumerate(tasks)
    ]
    return groups.result(), updates


_Key = tuple[PreferenceTransformer, Tensor, TrainingConfig, int]

_KEPT: list[tuple[_Key, RecordedGroups]] = []
"""The last two, the later one first: chunks of a node's groups come in two sizes."""


def _recorded_groups(*key: *_Key) -> RecordedGroups:
    """Recorded groups of a model, table, loss and number, from an earlier round if there are."""
    model, table_RD, training, count = key
    for place, ((own, table, config, number), groups) in enumerate(_KEPT):
        if own is model and table is table_RD and (config, number) == (training, count):
            _KEPT.insert(0, _KEPT.pop(place))
            return groups
    del _KEPT[1:]  # first, so that never more than two hold memory
    compute = partial(_gradients, model, table_RD, training)
    groups = RecordedGroups(dict(model.named_parameters()), count, compute)
    _KEPT.insert(0, (key, groups))
    return groups


def _gradients(
    model: PreferenceTransformer,
    table_RD: Tensor,
    training: TrainingConfig,
    weights: dict[str, Tensor],
    batch: Batch,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Losses (B,) of stacked episodes, and the gradient of each one's own weights."""
    loss_B = episode_loss(
        lambda *inputs: functional_call(model, weights, inputs), batch.episode, table_RD, training
    )
    return loss_B.detach(), torch.autograd.grad(loss_B.sum(), list(weights.values()))
