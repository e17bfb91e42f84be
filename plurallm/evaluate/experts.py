"""Experts: what each training group makes of the global model, mixed for every group.

Averaging weights averages groups, and a client that sees one group learns nothing from its
context. So predictions of the global model hardly depend on the group. What a group learnt is kept
instead: after the rounds it fine-tunes the global model. A training group is predicted by its own
expert, any other group by all experts, weighted to fit its context (``plurallm.learn.mixing``).

Dimension letters: ``M`` experts, ``Q`` questions, ``O`` options (padded), ``R`` rows of the table,
``D`` embedding width, ``W`` model width, ``P`` points, ``C`` questions of a context.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plurallm.config.protection import ExpertsPersonal
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences, make_episode
from plurallm.evaluate.scores import Predictor
from plurallm.learn.ensemble import decode_members, make_ensemble, members, take_member
from plurallm.learn.mixing import Mixing, even_mixing, fit_mixing, folds, mix
from plurallm.learn.transformer import PreferenceTransformer, gather_questions

MembersPredictor = Callable[[Preferences, Preferences], Tensor]
"""From context and targets to the shares (M, Q, O) that each member predicts."""

_CONTEXTS_KEPT = 256


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
    everyone = make_ensemble(model, weights)
    mixture = mix_members(ensemble_predictor(everyone, table_RD))
    own = {
        group: _alone(ensemble_predictor(take_member(everyone, row), table_RD))
        for row, group in enumerate(experts)
        if group in groups
    }
    return {group: own.get(group, mixture) for group in groups}


def population_predictor(
    model: PreferenceTransformer, weights: Mapping[str, Tensor], table_RD: Tensor
) -> Predictor:
    """Make a predictor that takes all experts alike, for any group.

    What a group's own context adds is measured against it, where no other group's context is at
    hand.

    Parameters
    ----------
    model, weights, table_RD
        As ``expert_predictors`` takes them.

    Returns
    -------
    Predictor
        The squares of the experts' mean roots, scaled to sum to 1.
    """
    predict_members = ensemble_predictor(make_ensemble(model, weights), table_RD)

    def predict(context: Preferences, target: Preferences) -> Tensor:
        predicted_MQO = predict_members(context, target.without_shares()).double().cpu()
        return mix(even_mixing(len(predicted_MQO)), predicted_MQO, target.mask_QO)[0]

    return predict


def ensemble_predictor(ensemble: PreferenceTransformer, table_RD: Tensor) -> MembersPredictor:
    """Make a predictor of every member of an ensemble, in one pass.

    Parameters
    ----------
    ensemble : PreferenceTransformer
        Of ``M`` members (``make_ensemble``), on the table's device.
    table_RD : Tensor of shape (R, D)
        Embeddings. What does not depend on answers is computed here, once.

    Returns
    -------
    MembersPredictor
        Without gradients; valid until the weights change.
    """
    count = members(ensemble)
    with torch.inference_mode():
        embedded_MRW = ensemble.embed(table_RD.expand(count, -1, -1))
        token_MRW = ensemble.target_tokens(embedded_MRW)

    def predict(context: Preferences, target: Preferences) -> Tensor:
        episode = make_episode(context, target).to(embedded_MRW.device)
        with torch.inference_mode():
            share_MP = episode.context_share_P.to(embedded_MRW.dtype).expand(count, -1)
            memory = ensemble.encode(embedded_MRW[:, episode.context_row_P], share_MP)
            output_MP2 = decode_members(ensemble, token_MRW[:, episode.target_row_P], memory)
            point_MQO = episode.point_QO.expand(count, -1, -1)
            shares_MQO = gather_questions(output_MP2, point_MQO, episode.mask_QO).shares_QO
        widest = target.mask_QO.shape[-1]
        return torch.nn.functional.pad(shares_MQO, (0, widest - shares_MQO.shape[-1]))

    return predict


def mix_members(predict_members: MembersPredictor) -> Predictor:
    """Mix what members predict by weights that fit the context.

    Parameters
    ----------
    predict_members : MembersPredictor
        Of at least one member. While weights are fitted, each predicts every question of the
        context from the questions of the other folds.

    Returns
    -------
    Predictor
        A context of fewer than two questions gives equal weights. A question that the context
        itself answers counts more than what is mixed: its answer is given back. The weights of
        the contexts that were asked last are kept.
    """
    kept: dict[tuple[bytes, bytes], Mixing] = {}

    def fitted(context: Preferences) -> Mixing:
        key = (
            context.question_Q.cpu().numpy().tobytes(),
            context.share_QO.cpu().numpy().tobytes(),
        )
        if key not in kept:
            if len(kept) >= _CONTEXTS_KEPT:
                kept.clear()
            kept[key] = _fit(predict_members, context)
        return kept[key]

    def predict(context: Preferences, target: Preferences) -> Tensor:
        predicted_MQO = predict_members(context, target.without_shares()).double().cpu()
        share_QO, _ = mix(fitted(context), predicted_MQO, target.mask_QO)
        return _with_answers(share_QO, context, target)

    return predict


def _fit(predict_members: MembersPredictor, context: Preferences) -> Mixing:
    """Weights of the members that fit a context, each question predicted from other folds."""
    place_C = torch.arange(len(context))
    parts = folds(len(context)) if len(context) > 1 else [(place_C, place_C)]
    asked_C = torch.cat([asked_C for asked_C, _ in parts])
    predicted_MCO = torch.cat(
        [
            predict_members(context.take(shown_C), context.take(asked_C).without_shares())
            for asked_C, shown_C in parts
        ],
        1,
    )
    known = context.take(asked_C) if len(context) > 1 else context.take(place_C[:0])
    return fit_mixing(predicted_MCO[:, : len(known)], known.share_QO, known.mask_QO)


def _alone(predict_members: MembersPredictor) -> Predictor:
    """Predict by the only member."""
    return lambda context, target: predict_members(context, target)[0]


def _with_answers(share_QO: Tensor, context: Preferences, target: Preferences) -> Tensor:
    """Put the context's answers where it is asked for a question that it holds."""
    same_QC = target.question_Q.unsqueeze(1) == context.question_Q.unsqueeze(0)
    answered_Q = same_QC.any(1)
    place_Q = same_QC.int().argmax(1)
    answer_QO = context.share_QO.double().cpu()[place_Q]
    return torch.where(answered_Q.unsqueeze(1), answer_QO, share_QO)
