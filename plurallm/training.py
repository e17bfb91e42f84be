"""Local learning: the same function federated, pooled and for one group alone.

Dimension letters: ``D`` embedding width, ``R`` rows of the table, ``Q`` questions, ``O`` options.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam

from plurallm.config import Config, GaussianTraining, TrainingConfig
from plurallm.divergence import cross_entropy, gaussian_nll, jensen_shannon_divergence
from plurallm.model import Prediction, PreferenceTransformer, gather_questions, predict_episode
from plurallm.preferences import Episode, draw_episode
from plurallm.randomness import generator
from plurallm.tasks import GroupTask


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


def train_group(
    model: PreferenceTransformer,
    task: GroupTask,
    table_RD: Tensor,
    config: Config,
    round_number: int,
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
        From 1. Episodes depend on the seed, the group's name and the round only.

    Returns
    -------
    LocalUpdate
        Losses and weight.
    """
    draws = generator(config.seed, "episodes", task.name, round_number)
    optimizer = Adam(model.parameters(), fused=True)
    first_step = (round_number - 1) * config.training.steps_per_round
    losses = []
    model.train()
    for step in range(first_step, first_step + config.training.steps_per_round):
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        episode = draw_episode(
            task.seen, config.training.context_questions, config.training.target_questions, draws
        )
        loss = episode_loss(model, episode.to(table_RD.device), table_RD, config.training)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
    # Read together, once a round: each read waits for the device.
    return LocalUpdate(tuple(torch.stack(losses).tolist()), examples=len(task.seen))


def episode_loss(
    model: PreferenceTransformer, episode: Episode, table_RD: Tensor, config: TrainingConfig
) -> Tensor:
    """Mean loss over an episode's target questions.

    Parameters
    ----------
    model : PreferenceTransformer
        Predicts the targets from the context.
    episode : Episode
        On the model's device.
    table_RD : Tensor of shape (R, D)
        Embeddings.
    config : TrainingConfig
        Which loss.

    Returns
    -------
    Tensor of shape ()
        Differentiable.
    """
    output_P2 = predict_episode(
        model,
        model.embed(table_RD[episode.context_row_P]),
        episode.context_share_P,
        model.embed(table_RD[episode.target_row_P]),
    )
    prediction = gather_questions(output_P2, episode.point_QO, episode.mask_QO)
    return LOSSES[config.loss](prediction, episode, config).mean()


def _cross_entropy(prediction: Prediction, episode: Episode, _: TrainingConfig) -> Tensor:
    return cross_entropy(episode.share_QO, prediction.log_shares_QO, episode.mask_QO)


def _jensen_shannon(prediction: Prediction, episode: Episode, _: TrainingConfig) -> Tensor:
    # Over ln 2 it is the squared base 2 distance, between 0 and 1.
    return jensen_shannon_divergence(episode.share_QO, prediction.shares_QO) / math.log(2)


def _gaussian(prediction: Prediction, episode: Episode, config: TrainingConfig) -> Tensor:
    assert isinstance(config, GaussianTraining)
    scale_QO = prediction.raw_scale_QO.exp() + config.scale_floor
    return gaussian_nll(episode.share_QO, prediction.shares_QO, scale_QO, episode.mask_QO)


LOSSES: dict[str, Callable[[Prediction, Episode, TrainingConfig], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "jensen_shannon": _jensen_shannon,
    "gaussian": _gaussian,
}
"""Loss of each target question, of shape (Q,), by the name in ``training.loss``."""
