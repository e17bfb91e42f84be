"""What a finished comparison says, as plain data: everything that its report shows."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plurallm.config.digest import config_dict
from plurallm.config.error import ConfigError
from plurallm.evaluate.baselines.pooled_answers import answer_pool, unanswered_pairs
from plurallm.evaluate.scores import ROLES
from plurallm.results.compare.behind import check_comparison, places_now
from plurallm.results.compare.convergence import convergence
from plurallm.results.compare.examples import examples
from plurallm.results.compare.jobs import Job
from plurallm.results.compare.over_seeds import (
    answered_cells,
    cells_over_seeds,
    groups_over_seeds,
    plurality_over_seeds,
    question_fairness,
    read_curve,
    variants_over_seeds,
)
from plurallm.results.compare.paired import read_pairs
from plurallm.results.compare.run_comparison import read_jobs
from plurallm.results.compare.verdicts import verdicts
from plurallm.study import Study, cached_study


def comparison_results(folder: Path) -> dict[str, Any]:
    """Gather what a comparison's finished jobs left behind.

    Parameters
    ----------
    folder : Path
        Of a comparison; jobs that are not done are named in ``missing``, with the reason where
        they failed.

    Returns
    -------
    dict
        ``arms``: by arm ``kind``, ``seeds``, ``cells`` (by cell and metric ``mean``, ``std`` over
        seeds and ``values``; also ``cov_question`` and ``fi_question``, fairness over groups by
        question, averaged over questions), ``answered`` (alignment over the pairs of a group and a
        question that another training group answered), ``variants`` (such cells of honest groups
        and personal models, where a run has them), ``plurality`` (as
        ``plurality_over_seeds`` gives it), ``privacy`` (``protects``, ``epsilon`` and
        ``delta``, or None), ``groups`` (rows of ``group``, ``role`` and, by column, alignment) and
        ``curves`` (by seed). ``convergence``, ``verdicts``, ``examples``, ``unanswered`` (the other
        pairs, with the first seed), ``unanswered_counts`` (by cell and seed) and the facts:
        command, configuration, roles, what was dropped, versions.
        Where these depend on the seed they are of the first one.

    Raises
    ------
    ConfigError
        When no arm is done.
    """
    config, jobs = read_jobs(folder)
    done = [job for job in jobs if job.done]
    if not done:
        raise ConfigError(f"{folder}: no arm of this comparison is done")
    study = cached_study(done[0].run_overrides)
    check_comparison(folder, study.survey)
    by_arm: dict[str, list[Job]] = {}
    for job in done:
        by_arm.setdefault(job.arm.name, []).append(job)
    summaries = _summaries(done)
    arms = {name: _arm({job: summaries[job] for job in own}) for name, own in by_arm.items()}
    return {
        "name": folder.name,
        "command": (folder / "command.txt").read_text(encoding="utf-8").strip(),
        "missing": [_missing(job) for job in jobs if not job.done],
        "seeds": config.compare.seeds,
        "config": config_dict(config),
        "survey": {
            "source": study.survey.source,
            "questions": len(study.survey.questions),
            "rows_dropped": dict(study.survey.dropped),
            "fingerprint": study.survey.fingerprint,
        },
        "train_groups": list(study.roles.train),
        "held_out_groups": list(study.roles.held_out),
        "groups_dropped": dict(study.roles.dropped),
        "groups_absent": list(study.roles.absent),
        "versions": _versions(summaries.values()),
        "arms": arms,
        "convergence": convergence(arms),
        "verdicts": verdicts(arms),
        "unanswered": _unanswered(study),
        "unanswered_counts": _unanswered_counts(summaries),
        "examples": examples(done, study),
    }


def _missing(job: Job) -> str:
    return job.name if job.failure is None else f"{job.name} (failed: {job.failure})"


def _arm(summary_of: Mapping[Job, dict[str, Any]]) -> dict[str, Any]:
    jobs = list(summary_of)
    summaries = {str(job.seed): summary for job, summary in summary_of.items()}
    return {
        "kind": jobs[0].arm.kind,
        "overrides": list(jobs[0].arm.overrides),
        "seeds": [job.seed for job in jobs],
        "cells": cells_over_seeds(summaries),
        "answered": cells_over_seeds(
            {seed: {"cells": summary["answered"]} for seed, summary in summaries.items()}
        ),
        "variants": variants_over_seeds(summaries),
        "plurality": plurality_over_seeds(summaries),
        "privacy": _privacy(summaries.values()),
        "groups": groups_over_seeds(summaries),
        "curves": {str(job.seed): read_curve(job.folder) for job in jobs},
        "seconds": {
            seed: summary["seconds"]["this_process"]
            for seed, summary in summaries.items()
            if "seconds" in summary
        },
    }


def _privacy(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What the arm guarantees: of the seed that spent most."""
    found = [summary["privacy"] for summary in summaries if summary.get("privacy")]
    return max(found, key=lambda privacy: privacy["epsilon"], default=None)


def _summaries(jobs: Iterable[Job]) -> dict[Job, dict[str, Any]]:
    """What each job's run says, and what follows from its pairs."""
    found, unanswered = {}, {}
    for job in jobs:
        if job.seed not in unanswered:  # the same for every arm: all have the same roles
            unanswered[job.seed] = _unanswered_pairs(cached_study(job.run_overrides))
        places = places_now(job.folder.parent.parent, cached_study(job.run_overrides).survey)
        found[job] = _summary(job, unanswered[job.seed], places)
    return found


def _summary(
    job: Job, unanswered: Mapping[str, Sequence[int]], places: Sequence[int] | None
) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
    pairs = read_pairs(job.folder / "pairs.npz", places)
    for role, row in ROLES.items():
        groups = [name for name, scores in summary["groups"].items() if scores["role"] == role]
        for column in ("seen", "unseen"):
            cell = summary["cells"].get(f"{row}.{column}_questions")
            if cell is not None:
                cell |= question_fairness(pairs, groups, column == "seen") or {}
    group_roles = {name: scores["role"] for name, scores in summary["groups"].items()}
    summary["answered"] = answered_cells(pairs, group_roles, unanswered)
    return summary


def _versions(summaries: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Versions that the jobs ran with: several, where one was renewed in between."""
    found: dict[str, dict[str, None]] = {}
    for summary in summaries:
        for name, version in summary["versions"].items():
            found.setdefault(name, {})[version] = None
    return {name: ", ".join(versions) for name, versions in found.items()}


def _unanswered_pairs(study: Study) -> dict[str, tuple[int, ...]]:
    return unanswered_pairs(study.tasks, answer_pool(study.tasks, study.roles.train))


def _unanswered(study: Study) -> list[dict[str, str]]:
    """Pairs of a group and a question that no other training group answered."""
    return [
        {"group": group, "question": study.survey.questions[position].text}
        for group, positions in _unanswered_pairs(study).items()
        for position in positions
    ]


def _unanswered_counts(summaries: Mapping[Job, Mapping[str, Any]]) -> dict[str, Any]:
    """Scored pairs that nobody else answered, and all, by cell and seed: the same for each arm."""
    counts: dict[str, dict[str, Any]] = {}
    for job, summary in summaries.items():
        for cell, found in summary["answered"].items():
            seeds = counts.setdefault(cell, {})
            seeds[str(job.seed)] = {name: found[name] for name in ("unanswered", "pairs")}
    return counts
