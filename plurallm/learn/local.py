"""Local training of one group: the same function federated, pooled and for one group alone.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.config.schema import Config
from plurallm.data.tasks import GroupTask
from plurallm.learn.adam import Adam
from plurallm.learn.divergence import jensen_shannon_distance
from plurallm.learn.episodes import round_episodes
from plurallm.learn.losses import episode_loss, predict
from plurallm.learn.proximal import Proximal
from plurallm.learn.transformer import PreferenceTransformer


@dataclass(frozen=True)
class LocalUpdate:
    """What a group's local training brings.

    Attributes
    ----------
    losses : tuple of float
        Loss of each step, before the step.
    examples : int
        Training questions of the group: its weight under ``strategy.weighting=questions``.
    """

    losses: tuple[float, ...]
    examples: int


def learning_rate(step: int, config: Config) -> float:
    """Learning rate as a pure function of the step: a linear warm-up, then one cosine to zero.

    Parameters
    ----------
    step : int
        Global step, from 0 to ``federation.rounds * training.steps_per_round - 1``.
    config : Config
        The run's configuration.

    Returns
    -------
    float
        Above 0, at most ``training.learning_rate``.
    """
    total = config.federation.rounds * config.training.steps_per_round
    warmup = round(config.training.warmup * total)
    if step < warmup:
        return config.training.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (total - warmup)
    return config.training.learning_rate * (1 + math.cos(math.pi * progress)) / 2


def round_rates(config: Config, round_number: int) -> list[float]:
    """Learning rate of each step of a round (from 1)."""
    steps = config.training.steps_per_round
    return [learning_rate((round_number - 1) * steps + step, config) for step in range(steps)]


def train_group(
    model: PreferenceTransformer,
    task: GroupTask,
    table_RD: Tensor,
    config: Config,
    round_number: int,
    proximal: Proximal | None = None,
) -> LocalUpdate:
    """Train a model in place on one group for one round, with a fresh Adam.

    Parameters
    ----------
    model : PreferenceTransformer
        The received model; afterwards the group's.
    task : GroupTask
        The group; only its seen questions are used.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.
    config : Config
        The run's configuration.
    round_number : int
        From 1.
    proximal : Proximal, optional
        Weights that it is pulled towards.

    Returns
    -------
    LocalUpdate
        Losses and weight.
    """
    optimizer = Adam(model.parameters())
    parameters = dict(model.named_parameters())
    losses = []
    model.train()
    episodes = round_episodes(task, config, round_number, table_RD.device)
    for rate, episode in zip(round_rates(config, round_number), episodes, strict=True):
        loss = episode_loss(model, episode, table_RD, config.training)
        loss.backward()  # type: ignore[no-untyped-call]
        if proximal is not None:
            proximal.add_gradient(parameters)
        optimizer.step(rate)
        losses.append(loss.detach())
    # Read together, once a round: each read waits for the device.
    return LocalUpdate(tuple(torch.stack(losses).tolist()), examples=len(task.seen))


def received_distance(
    model: PreferenceTransformer,
    task: GroupTask,
    table_RD: Tensor,
    config: Config,
    round_number: int,
) -> float:
    """How badly the received weights predict what a group trains on in a round, before it trains.

    Parameters
    ----------
    model : PreferenceTransformer
        The received model.
    task : GroupTask
        The group; only its seen questions are used.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.
    config : Config
        The run's configuration.
    round_number : int
        From 1.

    Returns
    -------
    float
        Mean base 2 Jensen-Shannon distance over the targets of the round's episodes, in [0, 1]. It
        costs the episodes' forward passes once more: that of the first one alone, which training
        makes anyway, would tell groups apart no better than their draws.
    """
    distances = []
    with torch.inference_mode():
        for episode in round_episodes(task, config, round_number, table_RD.device):
            shares_QO = predict(model, episode, table_RD).shares_QO
            distances.append(jensen_shannon_distance(episode.share_QO, shares_QO).mean())
    return min(1.0, torch.stack(distances).mean().item())
