"""Predictors without a network: what a trained model has to beat.

``mean`` pools the training groups' raw answers, so it belongs to research on one local survey.

Dimension letters: ``N`` questions of the survey, ``Q`` target questions, ``C`` context questions,
``O`` options (padded).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from plurallm.config import Config
from plurallm.evaluation import Predictor, score_group, summarize
from plurallm.preferences import Preferences
from plurallm.tasks import GroupTask, Roles


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


def training_mean(tasks: Mapping[str, GroupTask], train: Sequence[str], group: str) -> Predictor:
    """Predict the mean of the training groups' answers to the same question.

    On unseen questions these are answers that training withholds: there it is an oracle.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups of one survey.
    train : sequence of str
        The training groups.
    group : str
        The group to predict; its own answers are left out.

    Returns
    -------
    Predictor
        Uniform where no other training group answered.
    """
    others = [tasks[name].seen.join(tasks[name].unseen) for name in train if name != group]
    questions = 1 + max(
        int(part.question_Q.max())
        for task in tasks.values()
        for part in (task.seen, task.unseen)
        if len(part)
    )
    widest = tasks[group].seen.share_QO.shape[1]
    sum_NO = torch.zeros(questions, widest, dtype=torch.float64)
    count_N1 = torch.zeros(questions, 1, dtype=torch.float64)
    for answers in others:
        sum_NO[answers.question_Q] += answers.share_QO.double()
        count_N1[answers.question_Q] += 1

    def predict(context: Preferences, target: Preferences) -> Tensor:
        count_Q1 = count_N1[target.question_Q]
        mean_QO = sum_NO[target.question_Q] / count_Q1.clamp(min=1)
        return torch.where(count_Q1 > 0, mean_QO, uniform(context, target).double())

    return predict


def score_baselines(
    tasks: Mapping[str, GroupTask], roles: Roles, config: Config
) -> dict[str, dict[str, Any]]:
    """Score every baseline on the pairs and contexts that the model is scored on.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups that take part.
    roles : Roles
        Their roles.
    config : Config
        The run's configuration.

    Returns
    -------
    dict
        By baseline (``uniform``, ``context_mean``, ``mean``), in the shape of
        ``evaluation.summarize``.
    """
    role_of = roles.by_group
    predictors: dict[str, dict[str, Predictor]] = {
        "uniform": dict.fromkeys(roles.groups, uniform),
        "context_mean": dict.fromkeys(roles.groups, context_mean),
        "mean": {name: training_mean(tasks, roles.train, name) for name in roles.groups},
    }
    return {
        baseline: summarize(
            {name: score_group(tasks[name], predict[name], config) for name in roles.groups},
            role_of,
        )
        for baseline, predict in predictors.items()
    }
