"""Every predictor without a network, scored like the model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences
from plurallm.data.roles import Roles
from plurallm.data.tasks import GroupTask
from plurallm.evaluate.baselines.neighbours import neighbours
from plurallm.evaluate.baselines.plain import context_mean, uniform
from plurallm.evaluate.baselines.pooled_answers import (
    AnswerPool,
    answer_pool,
    mixture,
    training_mean,
)
from plurallm.evaluate.plurality import score_plurality
from plurallm.evaluate.scores import Predictor, score_group, summarize

ORACLES = ("mean", "mixture")
"""Baselines that on unseen questions use answers which training withholds."""


def baseline_predictors(
    tasks: Mapping[str, GroupTask], roles: Roles, table_RD: Tensor
) -> dict[str, dict[str, Predictor]]:
    """Make every baseline for every group; a training group is predicted from the others.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups that take part.
    roles : Roles
        Their roles.
    table_RD : Tensor of shape (R, D)
        Embeddings.

    Returns
    -------
    dict
        By baseline (``uniform``, ``context_mean``, ``mean``, ``mixture``, ``neighbours``) and
        group.
    """
    pool = answer_pool(tasks, roles.train)
    unit_RD = normalize(table_RD.cpu())
    from_others: dict[str, Callable[[AnswerPool], Predictor]] = {
        "mean": training_mean,
        "mixture": mixture,
        "neighbours": partial(neighbours, unit_RD=unit_RD),
    }
    return {
        "uniform": dict.fromkeys(roles.groups, uniform),
        "context_mean": dict.fromkeys(roles.groups, context_mean),
        **{
            baseline: {name: _without(pool, name, make) for name in roles.groups}
            for baseline, make in from_others.items()
        },
    }


def _without(pool: AnswerPool, name: str, make: Callable[[AnswerPool], Predictor]) -> Predictor:
    """Make the predictor of one group when it is asked: a pool for each is more than memory."""

    def predict(context: Preferences, target: Preferences) -> Tensor:
        return make(pool.without(name))(context, target)

    return predict


def score_baselines(
    tasks: Mapping[str, GroupTask], roles: Roles, table_RD: Tensor, config: Config
) -> dict[str, dict[str, Any]]:
    """Score every baseline on the pairs and contexts that the model is scored on.

    Parameters
    ----------
    tasks : mapping of str to GroupTask
        All groups that take part.
    roles : Roles
        Their roles.
    table_RD : Tensor of shape (R, D)
        Embeddings.
    config : Config
        The run's configuration.

    Returns
    -------
    dict
        By baseline, in the shape of ``scores.summarize``, with ``plurality`` beside it.
    """
    return {
        baseline: summarize(
            {name: score_group(tasks[name], predict[name], config) for name in roles.groups},
            roles.by_group,
            config.data.distance,
        )
        | {"plurality": score_plurality(tasks, roles, predict, config)}
        for baseline, predict in baseline_predictors(tasks, roles, table_RD).items()
    }
