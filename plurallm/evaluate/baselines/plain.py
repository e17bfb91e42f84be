"""Predictors that know nothing of other groups.

Dimension letters: ``Q`` target questions, ``C`` context questions, ``O`` options (padded).
"""

import torch
from torch import Tensor

from plurallm.data.preferences import Preferences


def uniform(_: Preferences, target: Preferences) -> Tensor:
    """Predict equal shares for all options of a question.

    Returns
    -------
    Tensor of shape (Q, O)
        Shares.
    """
    mask_QO = target.mask_QO.to(target.share_QO.dtype)
    return mask_QO / mask_QO.sum(-1, keepdim=True)


def context_mean(context: Preferences, target: Preferences) -> Tensor:
    """Predict the mean of the group's own context answers, option by option.

    Only context answers to questions with as many options count; where there are none, the
    prediction is uniform.

    Returns
    -------
    Tensor of shape (Q, O)
        Shares.
    """
    alike_QC = target.mask_QO.sum(-1).unsqueeze(1) == context.mask_QO.sum(-1).unsqueeze(0)
    weight_QC = alike_QC.to(context.share_QO.dtype)
    count_Q1 = weight_QC.sum(1, keepdim=True)
    mean_QO = (weight_QC @ context.share_QO) / count_Q1.clamp(min=1)
    return torch.where(count_Q1 > 0, mean_QO, uniform(context, target))
