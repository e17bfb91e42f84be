"""Predictors from the training groups' answers to the same question.

They pool raw answers, so they belong to research on one local survey. On unseen questions they use
the very answers that training withholds: there they are oracles and no baselines.

Dimension letters: ``G`` training groups, ``N`` questions of the survey, ``Q`` target questions,
``C`` context questions, ``P`` context points, ``O`` options (padded).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from plurallm.data.preferences import Preferences
from plurallm.data.tasks import GroupTask
from plurallm.evaluate.baselines.plain import uniform
from plurallm.evaluate.scores import Predictor

MIXTURE_RIDGE = 0.3
"""Pull of the mixture's weights towards equal ones: the best of 0.01 to 3 for GlobalOpinionQA's
training groups, each predicted from the others."""

_SUM_TO_ONE = 100.0


@dataclass(frozen=True)
class AnswerPool:
    """What the training groups answered, question by question of the survey.

    Attributes
    ----------
    groups : tuple of str
        The groups ``G``.
    share_GNO : Tensor of shape (G, N, O), float64
        Shares; 0 where a group did not answer.
    answered_GN : Tensor of shape (G, N), bool
        Who answered what.
    seen_N : Tensor of shape (N,), bool
        Which questions training may use.
    row_NO : Tensor of shape (N, O), int64
        Row of each option in the embedding table, where any group answered.
    mask_NO : Tensor of shape (N, O), bool
        Which options exist, where any group answered.
    """

    groups: tuple[str, ...]
    share_GNO: Tensor
    answered_GN: Tensor
    seen_N: Tensor
    row_NO: Tensor
    mask_NO: Tensor

    def without(self, group: str) -> "AnswerPool":
        """Leave one group out, if it is there."""
        if group not in self.groups:
            return self
        kept = [row for row, name in enumerate(self.groups) if name != group]
        return AnswerPool(
            tuple(self.groups[row] for row in kept),
            self.share_GNO[kept],
            self.answered_GN[kept],
            self.seen_N,
            self.row_NO,
            self.mask_NO,
        )

    def mean_NO(self) -> tuple[Tensor, Tensor]:
        """Mean shares (N, O) over the groups that answered, and their number (N, 1)."""
        count_N1 = self.answered_GN.sum(0).unsqueeze(1)
        return self.share_GNO.sum(0) / count_N1.clamp(min=1), count_N1


def answer_pool(tasks: Mapping[str, GroupTask], train: Sequence[str]) -> AnswerPool:
    """Bring the training groups' answers together.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups of one survey.
    train : sequence of str
        The training groups.

    Returns
    -------
    AnswerPool
        Seen and unseen questions.
    """
    parts = [part for task in tasks.values() for part in (task.seen, task.unseen) if len(part)]
    questions = 1 + max(int(part.question_Q.max()) for part in parts)
    widest = parts[0].share_QO.shape[1]
    pool = AnswerPool(
        groups=tuple(train),
        share_GNO=torch.zeros(len(train), questions, widest, dtype=torch.float64),
        answered_GN=torch.zeros(len(train), questions, dtype=torch.bool),
        seen_N=torch.zeros(questions, dtype=torch.bool),
        row_NO=torch.zeros(questions, widest, dtype=torch.int64),
        mask_NO=torch.zeros(questions, widest, dtype=torch.bool),
    )
    for row, name in enumerate(train):
        for part in (tasks[name].seen, tasks[name].unseen):
            pool.share_GNO[row, part.question_Q] = part.share_QO.double()
            pool.answered_GN[row, part.question_Q] = True
            pool.row_NO[part.question_Q] = part.row_QO
            pool.mask_NO[part.question_Q] = part.mask_QO
        pool.seen_N[tasks[name].seen.question_Q] = True
    return pool


def training_mean(pool: AnswerPool) -> Predictor:
    """Predict the mean of the training groups' answers to the same question.

    Parameters
    ----------
    pool : AnswerPool
        Without the group that is predicted.

    Returns
    -------
    Predictor
        Uniform where no training group answered.
    """
    mean_NO, count_N1 = pool.mean_NO()

    def predict(context: Preferences, target: Preferences) -> Tensor:
        answered_Q1 = count_N1[target.question_Q] > 0
        return torch.where(
            answered_Q1, mean_NO[target.question_Q], uniform(context, target).double()
        )

    return predict


def mixture(pool: AnswerPool) -> Predictor:
    """Predict a weighted mean of the training groups' answers, weighted to fit the context.

    The weights are not negative, sum to one and minimise the squared error on the context answers
    plus ``MIXTURE_RIDGE`` times their squared distance from equal weights. Of a question that a
    group did not answer, the mean of the others stands in while fitting; predicting, the weights
    of those that answered are scaled up.

    Parameters
    ----------
    pool : AnswerPool
        Without the group that is predicted.

    Returns
    -------
    Predictor
        Uniform where no training group answered.
    """
    mean = training_mean(pool)
    if not pool.groups:
        return mean
    mean_NO, count_N1 = pool.mean_NO()

    def predict(context: Preferences, target: Preferences) -> Tensor:
        weight_G = _fit_weights(pool, mean_NO, count_N1, context)
        answered_GQ = pool.answered_GN[:, target.question_Q]
        weight_GQ = weight_G.unsqueeze(1) * answered_GQ
        total_Q1 = weight_GQ.sum(0).unsqueeze(1)
        sum_QO = torch.einsum("gq,gqo->qo", weight_GQ, pool.share_GNO[:, target.question_Q])
        # Where all weight lies on groups that did not answer, those that did count alike.
        return torch.where(total_Q1 > 0, sum_QO / total_Q1, mean(context, target))

    return predict


def unanswered_pairs(
    tasks: Mapping[str, GroupTask], pool: AnswerPool
) -> dict[str, tuple[int, ...]]:
    """Questions of each group that no other training group answered.

    ``training_mean`` and ``mixture`` predict them uniformly.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        The groups that are predicted.
    pool : AnswerPool
        All training groups.

    Returns
    -------
    dict of str to tuple of int
        Positions of the questions in the survey, for the groups that have some.
    """
    pairs = {}
    for name, task in tasks.items():
        answered_N = pool.without(name).answered_GN.any(0)
        own_Q = torch.cat([task.seen.question_Q, task.unseen.question_Q])
        if missing := tuple(own_Q[~answered_N[own_Q]].tolist()):
            pairs[name] = missing
    return pairs


def _fit_weights(
    pool: AnswerPool, mean_NO: Tensor, count_N1: Tensor, context: Preferences
) -> Tensor:
    """Weights (G,) of the training groups that fit a context."""
    known_C = count_N1[context.question_Q, 0] > 0
    question_C = context.question_Q[known_C]
    mask_CO = context.mask_QO[known_C]
    share_GCO = torch.where(
        pool.answered_GN[:, question_C].unsqueeze(-1),
        pool.share_GNO[:, question_C],
        mean_NO[question_C],
    )
    return simplex_weights(
        share_GCO[:, mask_CO].T,
        context.share_QO[known_C][mask_CO].double(),
        MIXTURE_RIDGE,
    )


def simplex_weights(predicted_PG: Tensor, true_P: Tensor, ridge: float) -> Tensor:
    """Weights of predictors that together come nearest to the truth.

    Parameters
    ----------
    predicted_PG : Tensor of shape (P, G), float64
        What each of ``G`` predictors says of each point.
    true_P : Tensor of shape (P,), float64
        The truth.
    ridge : float
        Above 0.

    Returns
    -------
    Tensor of shape (G,), float64
        Not negative, summing to one: they minimise the squared error plus `ridge` times their
        squared distance from equal weights.
    """
    groups = predicted_PG.shape[1]
    design = np.concatenate(
        [
            predicted_PG.numpy(),
            math.sqrt(ridge) * np.eye(groups),
            np.full((1, groups), _SUM_TO_ONE),
        ]
    )
    wanted = np.concatenate(
        [true_P.numpy(), np.full(groups, math.sqrt(ridge) / groups), [_SUM_TO_ONE]]
    )
    weight_G = torch.from_numpy(nnls(design, wanted)[0])
    return weight_G / weight_G.sum()
