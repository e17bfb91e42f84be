"""Losses of an episode, or of several that are stacked.

Dimension letters: ``B`` episodes, ``P`` points, ``R`` rows of the table, ``D`` embedding width,
``Q`` questions, ``O`` options.
"""

from collections.abc import Callable

from torch import Tensor

from plurallm.config.learning import TrainingConfig
from plurallm.data.preferences import Episode
from plurallm.learn.transformer import Prediction, gather_questions

Network = Callable[..., Tensor]
"""A ``PreferenceTransformer``, or what calls one with other weights."""


def episode_loss(
    model: Network, episode: Episode, table_RD: Tensor, config: TrainingConfig
) -> Tensor:
    """Mean loss over the target questions of an episode, or of each of some that are stacked.

    Parameters
    ----------
    model : Network
        Predicts the targets from the context.
    episode : Episode
        On the model's device; its tensors may have a first axis ``B`` more.
    table_RD : Tensor of shape (R, D)
        Embeddings.
    config : TrainingConfig
        Which loss.

    Returns
    -------
    Tensor of shape () or (B,)
        Differentiable.
    """
    loss_Q = config.losses(predict(model, episode, table_RD), episode)
    return loss_Q.mean(-1) if episode.weight_Q is None else (loss_Q * episode.weight_Q).sum(-1)


def predict(model: Network, episode: Episode, table_RD: Tensor) -> Prediction:
    """Predict an episode's targets from its context; episodes may be stacked.

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
    row_BP, share_BP = (part.view(-1, part.shape[-1]) for part in (episode.row_P, episode.share_P))
    output_BP2 = model(
        table_RD[row_BP],
        share_BP,
        episode.contexts,
        episode.start,
        None if mask_P is None else mask_P.view(-1, episode.contexts),
    )
    output_P2 = output_BP2.view(*episode.row_P.shape[:-1], *output_BP2.shape[-2:])
    return gather_questions(output_P2, episode.point_QO, episode.mask_QO)
