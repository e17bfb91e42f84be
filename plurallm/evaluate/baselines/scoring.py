"""Every predictor without a network, scored like the model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import normalize

from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences
from plurallm.data.roles import Roles
from plurallm.data.tasks import GroupTask
from plurallm.evaluate.baseline import BASELINES, Baseline
from plurallm.evaluate.baselines.pooled_answers import AnswerPool, answer_pool
from plurallm.evaluate.plurality import score_plurality
from plurallm.evaluate.scores import Predictor, score_group, summarize


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
        By baseline and group.
    """
    pool = answer_pool(tasks, roles.train)
    unit_RD = normalize(table_RD.cpu())
    return {
        name: {group: _predictor(baseline(name), pool, group, unit_RD) for group in roles.groups}
        for name, baseline in BASELINES.all.items()
    }


def _predictor(baseline: Baseline, pool: AnswerPool, group: str, unit_RD: Tensor) -> Predictor:
    """Leave the group out when it is asked for: a pool for each group is more than memory."""

    def predict(context: Preferences, target: Preferences) -> Tensor:
        return baseline.predict(context, target, partial(pool.without, group), unit_RD)

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
