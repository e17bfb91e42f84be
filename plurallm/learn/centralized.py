"""Central training on the answers of all groups at once: what federated training is held against.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from plurallm.config.schema import Config
from plurallm.data.tasks import GroupTask
from plurallm.learn.episodes import round_episodes
from plurallm.learn.local import round_rates
from plurallm.learn.losses import episode_loss
from plurallm.learn.transformer import PreferenceTransformer


def train_pooled(
    model: PreferenceTransformer,
    optimizer: Optimizer,
    tasks: Sequence[GroupTask],
    table_RD: Tensor,
    config: Config,
    round_number: int,
) -> dict[str, float]:
    """Train a model in place for one round: each step takes an episode of every group.

    The episodes are those that the groups would draw in a federated round; one optimiser serves
    the whole run, as in central training of GPO (arXiv 2310.11523).

    Parameters
    ----------
    model : PreferenceTransformer
        The model.
    optimizer : Optimizer
        Of its parameters; keeps its state from round to round.
    tasks : sequence of GroupTask
        The training groups; only their seen questions are used.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.
    config : Config
        The run's configuration.
    round_number : int
        From 1.

    Returns
    -------
    dict of str to float
        Mean loss of each group over the round's steps, before each step.
    """
    model.train()
    losses_G = torch.zeros(len(tasks), device=table_RD.device)
    rates = round_rates(config, round_number)
    device = table_RD.device
    drawn = [round_episodes(task, config, round_number, device) for task in tasks]
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        for row, episodes in enumerate(drawn):
            # One after the other: episodes differ in length, and memory stays that of one.
            loss = episode_loss(model, next(episodes), table_RD, config.training)
            (loss / len(tasks)).backward()  # type: ignore[no-untyped-call]
            losses_G[row] += loss.detach() / len(rates)
        optimizer.step()
    return dict(zip((task.name for task in tasks), losses_G.tolist(), strict=True))
