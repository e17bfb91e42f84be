"""Losses of one episode.

Dimension letters: ``R`` rows of the table, ``D`` embedding width, ``Q`` questions, ``O`` options.
"""

import math
from collections.abc import Callable

from torch import Tensor

from plurallm.config import GaussianTraining, TrainingConfig
from plurallm.divergence import cross_entropy, gaussian_nll, jensen_shannon_divergence
from plurallm.model import Prediction, gather_questions
from plurallm.preferences import Episode

Network = Callable[..., Tensor]
"""A ``PreferenceTransformer``, or what calls one with other weights."""


def episode_loss(
    model: Network, episode: Episode, table_RD: Tensor, config: TrainingConfig
) -> Tensor:
    """Mean loss over an episode's target questions.

    Parameters
    ----------
    model : Network
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
    loss_Q = LOSSES[config.loss](predict(model, episode, table_RD), episode, config)
    return loss_Q.mean() if episode.weight_Q is None else (loss_Q * episode.weight_Q).sum()


def predict(model: Network, episode: Episode, table_RD: Tensor) -> Prediction:
    """Predict an episode's targets from its context.

    Parameters
    ----------
    model : Network
        What is called.
    episode : Episode
        On the model's device.
    table_RD : Tensor of shape (R, D)
        Embeddings.

    Returns
    -------
    Prediction
        Of the target questions, differentiable.
    """
    mask_P = episode.context_mask_P
    output_1P2 = model(
        table_RD[episode.row_P].unsqueeze(0),
        episode.share_P.unsqueeze(0),
        episode.contexts,
        episode.start,
        None if mask_P is None else mask_P.unsqueeze(0),
    )
    return gather_questions(output_1P2.squeeze(0), episode.point_QO, episode.mask_QO)


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
