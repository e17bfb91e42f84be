"""How far a group's answers lie from their predictions: cross-validation on its own context.

Dimension letters: ``K`` half-samples, ``Q`` questions of the context, ``O`` options (padded),
``C`` points of the context, ``W`` model width.
"""

import torch
from torch import Tensor

from plurallm.config.randomness import generator
from plurallm.learn.transformer import PreferenceTransformer

HALVES = 16
"""Half-samples of a context: eight random halves and their complements."""


def half_samples(questions: int) -> Tensor:
    """Draw halves of a context, each followed by its complement.

    Parameters
    ----------
    questions : int
        Questions of the context, at least 2.

    Returns
    -------
    Tensor of shape (K, Q), bool
        Every question is in half of them.
    """
    draws = generator(0, "half-samples")
    orders_Q = [torch.randperm(questions, generator=draws) for _ in range(HALVES // 2)]
    half_KQ = torch.stack([order_Q < questions // 2 for order_Q in orders_Q])
    return torch.stack([half_KQ, ~half_KQ], 1).flatten(0, 1)


def dispersion(
    network: PreferenceTransformer, x_CW: Tensor, share_C: Tensor, mask_QO: Tensor
) -> float:
    """Predict each half of a context from the other one, and compare with the true answers.

    Answers are taken to scatter around predicted shares ``p`` with variance ``c p (1 - p)``, as
    Dirichlet shares with concentration ``1 / c - 1`` do. The estimate of ``c`` is the ratio of the
    squared errors to ``p (1 - p)``, both summed over all options of all half-samples.

    Parameters
    ----------
    network : PreferenceTransformer
        The network.
    x_CW : Tensor of shape (C, W)
        The context's points (``PreferenceTransformer.embed``).
    share_C : Tensor of shape (C,)
        Their true shares.
    mask_QO : Tensor of shape (Q, O), bool
        Options of each question, which are the points in order; at least 2 questions.

    Returns
    -------
    float
        ``c``, at least 0. Half of the context knows less than the whole, so it leans to the high
        side; questions that the network was trained on lean it to the low side.
    """
    half_KQ = half_samples(len(mask_QO)).to(x_CW.device)
    half_KC = half_KQ.repeat_interleave(mask_QO.sum(-1), -1)
    memory = network.encode(x_CW.expand(HALVES, -1, -1), share_C.expand(HALVES, -1), half_KC)
    token_KCW = network.target_tokens(x_CW).expand(HALVES, -1, -1)
    mean_KC = network.decode(token_KCW, memory, half_KC)[..., 0]
    mean_KQO = mean_KC.new_full((HALVES, *mask_QO.shape), float("-inf"))
    mean_KQO[:, mask_QO] = mean_KC
    predicted_KC = mean_KQO.softmax(-1)[:, mask_QO]
    error = ((predicted_KC - share_C).square() * ~half_KC).sum()
    return (error / (predicted_KC * (1 - predicted_KC) * ~half_KC).sum()).item()
