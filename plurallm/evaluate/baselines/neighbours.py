"""A predictor from answers to similar questions: fair on unseen questions too.

Dimension letters: ``R`` rows of the table, ``D`` embedding width, ``N`` questions of the survey,
``P`` points that are known, ``T`` target points, ``K`` neighbours, ``O`` options (padded).
"""

import torch
from torch import Tensor

from plurallm.data.preferences import Preferences
from plurallm.evaluate.baselines.pooled_answers import AnswerPool
from plurallm.evaluate.scores import Predictor

NEIGHBOURS = 5
TEMPERATURE = 0.05
"""Number of neighbours, and the scale on which their weight falls with cosine similarity: the best
of some for GlobalOpinionQA's training groups, each predicted from the others."""

_LEAST_SHARE = 1e-3


def neighbours(pool: AnswerPool, unit_RD: Tensor) -> Predictor:
    """Predict from the most similar (question, option) points whose answers are known.

    Known are the mean answers of the training groups to seen questions, and the group's own
    context answers in their place. What is averaged is how far a share lies above an equal share,
    so that questions of different length can stand in for each other.

    Parameters
    ----------
    pool : AnswerPool
        Without the group that is predicted.
    unit_RD : Tensor of shape (R, D)
        Embeddings of length 1, on the CPU.

    Returns
    -------
    Predictor
        Uses seen questions only.
    """
    mean_NO, count_N1 = pool.mean_NO()
    known_N = pool.seen_N & (count_N1[:, 0] > 0)

    def predict(context: Preferences, target: Preferences) -> Tensor:
        others_N = known_N.clone()
        others_N[context.question_Q] = False
        mask_PO = torch.cat([context.mask_QO, pool.mask_NO[others_N]])
        row_P = torch.cat([context.row_QO, pool.row_NO[others_N]])[mask_PO]
        share_PO = torch.cat([context.share_QO.double(), mean_NO[others_N]])
        excess_P = (share_PO - 1 / mask_PO.sum(-1, keepdim=True))[mask_PO]
        similarity_TP = unit_RD[target.row_QO[target.mask_QO]] @ unit_RD[row_P].T
        nearest_TK, index_TK = similarity_TP.topk(min(NEIGHBOURS, len(row_P)))
        weight_TK = (nearest_TK.double() / TEMPERATURE).softmax(-1)
        share_QO = torch.zeros(target.mask_QO.shape, dtype=torch.float64)
        share_QO[target.mask_QO] = (weight_TK * excess_P[index_TK]).sum(-1)
        share_QO += 1 / target.mask_QO.sum(-1, keepdim=True)
        share_QO = share_QO.clamp(min=_LEAST_SHARE) * target.mask_QO
        return share_QO / share_QO.sum(-1, keepdim=True)

    return predict
