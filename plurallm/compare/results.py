"""What a finished comparison says, as plain data: everything that its report shows.

Dimension letters: ``N`` (group, question, draw) pairs, ``G`` groups, ``Q`` questions.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.baselines import ORACLES, answer_pool, unanswered_pairs
from plurallm.compare.arms import BASELINES
from plurallm.compare.convergence import convergence
from plurallm.compare.examples import examples
from plurallm.compare.jobs import Job
from plurallm.compare.pairs import Pairs, read_pairs
from plurallm.compare.run import read_jobs
from plurallm.compare.survey import LocalSurvey, local_survey
from plurallm.config import ConfigError, config_dict
from plurallm.evaluation import ROLES
from plurallm.tracking import versions

METRICS = ("alignment", "alignment_e", "micro", "micro_e", "worst", "gap", "cov", "fi")


def comparison_results(folder: Path) -> dict[str, Any]:
    """Gather what a comparison's finished jobs left behind.

    Parameters
    ----------
    folder : Path
        Of a comparison; jobs that are not done are named in ``missing``.

    Returns
    -------
    dict
        ``arms``: by arm ``kind``, ``seeds``, ``cells`` (by cell and metric ``mean``, ``std`` over
        seeds and ``values``; also ``cov_question`` and ``fi_question``, fairness over groups by
        question, averaged over questions), ``groups`` (rows of ``group``, ``role``
        and, by column, alignment) and ``curves`` (by
        seed). ``convergence``, ``verdicts``, ``examples``, ``unanswered`` and the facts: command,
        configuration, roles, what was dropped, versions. Where these depend on the seed they are
        of the first one.

    Raises
    ------
    ConfigError
        When no arm is done.
    """
    config, jobs = read_jobs(folder)
    done = [job for job in jobs if job.done]
    if not done:
        raise ConfigError(f"{folder}: no arm of this comparison is done")
    local = local_survey(done[0].run_overrides)
    by_arm: dict[str, list[Job]] = {}
    for job in done:
        by_arm.setdefault(job.arm.name, []).append(job)
    arms = {name: _arm(own) for name, own in by_arm.items()}
    return {
        "name": folder.name,
        "command": (folder / "command.txt").read_text(encoding="utf-8").strip(),
        "missing": [f"{job.arm.name}, seed {job.seed}" for job in jobs if not job.done],
        "seeds": config.compare.seeds,
        "config": config_dict(local.config),
        "survey": {
            "source": local.survey.source,
            "questions": len(local.survey.questions),
            "rows_dropped": dict(local.survey.dropped),
        },
        "train_groups": list(local.roles.train),
        "held_out_groups": list(local.roles.held_out),
        "groups_dropped": dict(local.roles.dropped),
        "versions": versions(),
        "arms": arms,
        "convergence": convergence(arms),
        "verdicts": verdicts(arms),
        "unanswered": _unanswered(local),
        "examples": examples(done, local),
    }


def verdicts(arms: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Hold every trained arm against every baseline, cell by cell, seed by seed.

    Parameters
    ----------
    arms : mapping
        As ``comparison_results`` gives them.

    Returns
    -------
    list of dict
        ``cell``, ``arm``, ``baseline``, ``oracle`` (whether the baseline uses withheld answers
        there), ``difference`` (of the macro alignment, ``mean``, ``std`` and ``values`` over the
        seeds that both have) and ``wins`` of how many.
    """
    rows = []
    for name, arm in arms.items():
        if arm["kind"] == "baseline":
            continue
        for cell, metrics in arm["cells"].items():
            for baseline in BASELINES:
                other = arms.get(baseline, {"cells": {}})["cells"].get(cell)
                if other is None:
                    continue
                ours, theirs = metrics["alignment"]["values"], other["alignment"]["values"]
                shared = [seed for seed in ours if seed in theirs]
                if not shared:
                    continue
                differences = {seed: ours[seed] - theirs[seed] for seed in shared}
                rows.append(
                    {
                        "cell": cell,
                        "arm": name,
                        "baseline": baseline,
                        "oracle": baseline in ORACLES and cell.endswith("unseen_questions"),
                        "difference": over_seeds(differences),
                        "wins": sum(value > 0 for value in differences.values()),
                    }
                )
    return rows


def over_seeds(values: Mapping[str, float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds; one seed has no deviation.

    Examples
    --------
    >>> over_seeds({"1": 0.5, "2": 0.75})["mean"]
    0.625
    """
    numbers = list(values.values())
    return {
        "mean": statistics.fmean(numbers),
        "std": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "values": dict(values),
    }


def question_fairness(pairs: Pairs, groups: Iterable[str], seen: bool) -> dict[str, float] | None:
    """Fairness over groups question by question, averaged over questions (arXiv 2512.08786).

    Parameters
    ----------
    pairs : Pairs
        Scores of one arm and seed.
    groups : iterable of str
        Groups to compare.
    seen : bool
        Seen or unseen questions.

    Returns
    -------
    dict or None
        ``cov_question`` and ``fi_question``: means over the questions that at least two of the
        groups answered of the coefficient of variation of 1 - distance, and of 1 / (1 + cov^2).
        None when there is no such question, or a question on which every group's score is 0.
    """
    chosen_N = np.isin(pairs.group_N, list(groups)) & (pairs.seen_N == seen) & (pairs.draw_N == 0)
    question_Q, index_N = np.unique(pairs.question_N[chosen_N], return_inverse=True)
    score_N = 1 - pairs.distance_N[chosen_N]
    count_Q = np.bincount(index_N, minlength=len(question_Q))
    shared_Q = count_Q >= 2
    mean_Q = np.bincount(index_N, score_N)[shared_Q] / count_Q[shared_Q]
    if not len(mean_Q) or not (mean_Q > 0).all():
        return None
    square_Q = np.bincount(index_N, score_N**2)[shared_Q] / count_Q[shared_Q]
    cov_Q = np.sqrt(np.clip(square_Q - mean_Q**2, 0, None)) / mean_Q
    return {"cov_question": float(cov_Q.mean()), "fi_question": float((1 / (1 + cov_Q**2)).mean())}


def _arm(jobs: Sequence[Job]) -> dict[str, Any]:
    summaries = {str(job.seed): _summary(job) for job in jobs}
    cells: dict[str, Any] = {}
    for cell in next(iter(summaries.values()))["cells"]:
        of_seed = {seed: summary["cells"].get(cell) for seed, summary in summaries.items()}
        present = {seed: values for seed, values in of_seed.items() if values is not None}
        metrics = [name for name in next(iter(present.values())) if name in _KEPT]
        cells[cell] = {
            name: over_seeds(
                {seed: values[name] for seed, values in present.items() if name in values}
            )
            for name in metrics
        }
    return {
        "kind": jobs[0].arm.kind,
        "overrides": list(jobs[0].arm.overrides),
        "seeds": [job.seed for job in jobs],
        "cells": cells,
        "groups": _groups(summaries),
        "curves": {str(job.seed): _curve(job) for job in jobs},
        "seconds": {
            seed: summary["seconds"]["this_process"]
            for seed, summary in summaries.items()
            if "seconds" in summary
        },
    }


_KEPT = (*METRICS, "cov_question", "fi_question")


def _summary(job: Job) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((job.folder / "summary.json").read_text(encoding="utf-8"))
    pairs = read_pairs(job.folder / "pairs.npz")
    for role, row in ROLES.items():
        groups = [name for name, scores in summary["groups"].items() if scores["role"] == role]
        for column in ("seen", "unseen"):
            cell = summary["cells"].get(f"{row}.{column}_questions")
            if cell is not None:
                cell |= question_fairness(pairs, groups, column == "seen") or {}
    return summary


def _groups(summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Scores by group and role: a drawn role can differ from seed to seed."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for seed, summary in summaries.items():
        for group, scores in summary["groups"].items():
            row = rows.setdefault((group, scores["role"]), {})
            for column in ("seen_questions", "unseen_questions"):
                if column in scores:
                    row.setdefault(column, {})[seed] = scores[column]["alignment"]
    return [
        {"group": group, "role": role}
        | {column: over_seeds(values) for column, values in row.items()}
        for (group, role), row in rows.items()
    ]


def _curve(job: Job) -> list[dict[str, Any]]:
    """Scores of every evaluation, with what had been spent until then."""
    if not (job.folder / "metrics.jsonl").exists():
        return []
    points, episodes, sent = [], 0, 0
    metrics, timings = (
        (job.folder / name).read_text(encoding="utf-8").splitlines()
        for name in ("metrics.jsonl", "timings.jsonl")
    )
    step = 0
    for text, timing in zip(metrics, timings, strict=True):
        line, cost = json.loads(text), json.loads(timing)
        episodes += len(line["groups_trained"]) * (line["step"] - step)
        step = line["step"]
        sent += cost["bytes_up"] + cost["bytes_down"]
        if "cells" in line:
            points.append(
                {
                    "rounds": line["round"],
                    "steps": step,
                    "episodes": episodes,
                    "bytes": sent,
                    "train_loss": line["train_loss"],
                    "cells": {name: cell["alignment"] for name, cell in line["cells"].items()},
                }
            )
    return points


def _unanswered(local: LocalSurvey) -> list[dict[str, str]]:
    """Pairs of a group and a question that no other training group answered."""
    pairs = unanswered_pairs(local.tasks, answer_pool(local.tasks, local.roles.train))
    return [
        {"group": group, "question": local.survey.questions[position].text}
        for group, positions in pairs.items()
        for position in positions
    ]
