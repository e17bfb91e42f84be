"""Experts: what each training group makes of the global model, mixed for every group.

Averaging weights averages groups, and a client that sees one group learns nothing from its
context. So predictions of the global model hardly depend on the group. What a group learnt is kept
instead: after the rounds it fine-tunes the global model. A training group is predicted by its own
expert, any other group by all experts, weighted to fit its context (``plurallm.learn.mixing``).

Dimension letters: ``M`` experts, ``Q`` questions, ``O`` options (padded), ``R`` rows of the table,
``D`` embedding width.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plurallm.config.protection import ExpertsPersonal
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences
from plurallm.evaluate.scores import Predictor, model_predictor
from plurallm.learn.mixing import fit_mixing, folds, mix
from plurallm.learn.transformer import PreferenceTransformer


def expert_config(config: Config) -> Config:
    """Configuration of the fine-tuning: one round of ``personal.steps`` steps.

    Without a number it has as many steps as a group takes in all rounds.

    Parameters
    ----------
    config : Config
        The run's, with ``personal=experts``.
    """
    personal = config.personal
    assert isinstance(personal, ExpertsPersonal)
    steps = personal.steps or config.federation.rounds * config.training.steps_per_round
    return replace(
        config,
        federation=replace(config.federation, rounds=1),
        training=replace(
            config.training,
            steps_per_round=steps,
            learning_rate=personal.learning_rate,
        ),
    )


def expert_predictors(
    model: PreferenceTransformer,
    weights: Mapping[str, Tensor],
    experts: Sequence[str],
    groups: Sequence[str],
    table_RD: Tensor,
) -> dict[str, Predictor]:
    """Make the predictor of every group.

    Parameters
    ----------
    model : PreferenceTransformer
        The network; it is left as it is.
    weights : mapping of str to Tensor of shape (M, ...)
        The experts', stacked.
    experts : sequence of str
        The group of each expert.
    groups : sequence of str
        Who is predicted.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the model's device.

    Returns
    -------
    dict of str to Predictor
        A group with an expert has it alone; all others share one mixture.

    Raises
    ------
    ValueError
        When there is no expert.
    """
    if not experts:
        raise ValueError("no group brought an expert")
    members = []
    for row in range(len(experts)):
        member = copy.deepcopy(model)
        member.load_state_dict({name: stacked[row] for name, stacked in weights.items()})
        members.append(model_predictor(member, table_RD))
    mixture = mix_predictors(members)
    own = dict(zip(experts, members, strict=True))
    return {group: own.get(group, mixture) for group in groups}


def mix_predictors(members: Sequence[Predictor]) -> Predictor:
    """Mix predictors by weights that fit the context.

    Parameters
    ----------
    members : sequence of Predictor
        At least one. While weights are fitted, each predicts every question of the context from
        the questions of the other folds.

    Returns
    -------
    Predictor
        A context of fewer than two questions gives equal weights. A question that the context
        itself answers counts more than what is mixed: its answer is given back.
    """

    def predict(context: Preferences, target: Preferences) -> Tensor:
        predicted_MCO = context.share_QO.new_zeros((len(members), *context.mask_QO.shape)).double()
        if len(context) > 1:
            for asked_C, shown_C in folds(len(context)):
                asked = context.take(asked_C).without_shares()
                shown = context.take(shown_C)
                for row, member in enumerate(members):
                    predicted_MCO[row, asked_C] = member(shown, asked).double().cpu()
            known = context
        else:
            known = context.take(torch.zeros(0, dtype=torch.int64))
            predicted_MCO = predicted_MCO[:, :0]
        mixing = fit_mixing(predicted_MCO, known.share_QO, known.mask_QO)
        hidden = target.without_shares()
        predicted_MQO = torch.stack([member(context, hidden).double().cpu() for member in members])
        share_QO, _ = mix(mixing, predicted_MQO, target.mask_QO)
        return _with_answers(share_QO, context, target)

    return predict


def _with_answers(share_QO: Tensor, context: Preferences, target: Preferences) -> Tensor:
    """Put the context's answers where it is asked for a question that it holds."""
    same_QC = target.question_Q.unsqueeze(1) == context.question_Q.unsqueeze(0)
    answered_Q = same_QC.any(1)
    place_Q = same_QC.int().argmax(1)
    answer_QO = context.share_QO.double().cpu()[place_Q]
    return torch.where(answered_Q.unsqueeze(1), answer_QO, share_QO)
