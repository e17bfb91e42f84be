"""A mixture of the training groups' fine-tuned models, weighted to fit a group's context.

Each training group fine-tunes the federation's final model on its own seen questions and hands the
weights back; answers stay where they are. A new group weights these experts by how well they
predict its own context answers: a federated counterpart of the ``mixture`` baseline, which pools
answers, and unlike that one it predicts unseen questions fairly.

Dimension letters: ``M`` experts, ``P`` context points, ``Q`` target questions, ``O`` options.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plurallm.data.preferences import Preferences
from plurallm.evaluate.baselines.pooled_answers import simplex_weights
from plurallm.evaluate.scores import Predictor, model_predictor
from plurallm.learn.local import train_group
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.study import Study

EXPERT_RIDGE = 1.0
"""Pull of the weights towards equal ones."""

_FOLDS = 5


def expert_predictors(model: PreferenceTransformer, study: Study) -> dict[str, Predictor]:
    """Fine-tune one expert for each training group and mix them for every group.

    Parameters
    ----------
    model : PreferenceTransformer
        The federation's final model; it is left as it is.
    study : Study
        The survey; ``compare.expert_steps`` and ``compare.expert_learning_rate`` say how long and
        how fast to fine-tune.

    Returns
    -------
    dict of str to Predictor
        By group; a training group is predicted by the experts of the others and its own.
    """
    compare = study.config.compare
    config = replace(
        study.config,
        federation=replace(study.config.federation, rounds=1),
        training=replace(
            study.config.training,
            steps_per_round=compare.expert_steps,
            learning_rate=compare.expert_learning_rate,
        ),
    )
    experts = []
    for task in study.train_tasks:
        expert = copy.deepcopy(model)
        train_group(expert, task, study.table_RD, config, 1)
        experts.append(model_predictor(expert, study.table_RD))
    return dict.fromkeys(study.roles.groups, mix_experts(experts))


def mix_experts(experts: Sequence[Predictor]) -> Predictor:
    """Mix predictors by weights that fit the context.

    The context's questions are predicted in folds, each from the others, so that no expert is
    judged on an answer that it was shown. Weights are not negative, sum to one and minimise the
    squared error plus ``EXPERT_RIDGE`` times their squared distance from equal weights.

    Parameters
    ----------
    experts : sequence of Predictor
        At least one.

    Returns
    -------
    Predictor
        The weighted mean of what the experts predict from the whole context.
    """

    def predict(context: Preferences, target: Preferences) -> Tensor:
        weight_M = _fit(experts, context)
        share_MQO = torch.stack([expert(context, target) for expert in experts]).double().cpu()
        return torch.einsum("m,mqo->qo", weight_M, share_MQO)

    return predict


def _fit(experts: Sequence[Predictor], context: Preferences) -> Tensor:
    index_C = torch.arange(len(context))
    predicted_PM, true_P = [], []
    for fold in range(min(_FOLDS, len(context))):
        asked = context.take(index_C[index_C % _FOLDS == fold])
        shown = context.take(index_C[index_C % _FOLDS != fold])
        if not len(shown):
            return torch.full((len(experts),), 1 / len(experts), dtype=torch.float64)
        hidden = asked.without_shares()
        columns = [expert(shown, hidden).double().cpu()[asked.mask_QO] for expert in experts]
        predicted_PM.append(torch.stack(columns, 1))
        true_P.append(asked.share_QO[asked.mask_QO].double())
    return simplex_weights(torch.cat(predicted_PM), torch.cat(true_P), EXPERT_RIDGE)
