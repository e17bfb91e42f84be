"""A few predicted answers beside the true ones: well, middling and badly predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from plurallm.results.compare.behind import places_now
from plurallm.results.compare.jobs import Job
from plurallm.results.compare.paired import read_pairs
from plurallm.study import Study

_QUANTILES = (0.1, 0.5, 0.9)
_SHOWN = ("federated", "pooled_steps", "mean")


def examples(jobs: Sequence[Job], study: Study) -> list[dict[str, Any]]:
    """Take the questions at three quantiles of the federated arm's distances.

    Parameters
    ----------
    jobs : sequence of Job
        Finished jobs.
    study : Study
        Of the first seed.

    Returns
    -------
    list of dict
        For held-out groups (training groups, when none is held out) and seen and unseen questions:
        ``group``, ``question``, ``options``, ``seen``, ``quantile``, ``true`` shares and
        ``predicted`` shares and ``distance`` by arm. Empty without a federated arm.
    """
    first = {job.arm.name: job for job in jobs if job.seed == study.config.seed}
    if "federated" not in first:
        return []
    places = places_now(first["federated"].folder.parent.parent, study.survey)
    pairs = {
        name: read_pairs(first[name].folder / "pairs.npz", places)
        for name in _SHOWN
        if name in first
    }
    ours = pairs["federated"]
    groups = study.roles.held_out or study.roles.train
    rows = []
    for seen in (True, False):
        chosen = np.flatnonzero(
            np.isin(ours.group_N, groups) & (ours.seen_N == seen) & (ours.draw_N == 0)
        )
        order = chosen[np.argsort(ours.distance_N[chosen], kind="stable")]
        for quantile in _QUANTILES if len(order) else ():
            row = order[round(quantile * (len(order) - 1))]
            group, position = str(ours.group_N[row]), int(ours.question_N[row])
            question = study.survey.questions[position]
            answers = study.survey.answers[group]
            own = int(np.searchsorted(answers.question_Q, position))
            count = len(question.options)
            predicted = {}
            for name, scored in pairs.items():
                match = np.flatnonzero(
                    (scored.group_N == group)
                    & (scored.question_N == position)
                    & (scored.draw_N == 0)
                )
                if len(match):
                    predicted[name] = {
                        "shares": scored.share_NO[match[0], :count].tolist(),
                        "distance": float(scored.distance_N[match[0]]),
                    }
            rows.append(
                {
                    "group": group,
                    "question": question.text,
                    "options": list(question.options),
                    "seen": seen,
                    "quantile": quantile,
                    "true": answers.share_QO[own, :count].tolist(),
                    "predicted": predicted,
                }
            )
    return rows
