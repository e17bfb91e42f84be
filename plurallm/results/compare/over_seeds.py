"""Scores of finished runs, brought together over seeds.

Dimension letters: ``N`` (group, question, draw) pairs, ``Q`` questions.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.evaluate.scores import ROLES
from plurallm.results.compare.paired import Pairs

METRICS = (
    *("alignment", "alignment_e", "micro", "micro_e"),
    *("worst", "gap", "cov", "fi", "cov_question", "fi_question"),
)
"""Metrics of a cell, in the order in which they are told."""

VARIANTS = {
    "honest": "honest_cells",
    "personal": "personal_cells",
    "trunk": "trunk_cells",
    "population": "population_cells",
    "novel": "novel_cells",
}
"""Further cells of a run, by key of its summary: groups that do not attack, personal models."""


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


def cells_over_seeds(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the cells of several seeds together.

    Parameters
    ----------
    summaries : mapping
        By seed, in the shape of ``scores.summarize``.

    Returns
    -------
    dict
        By cell and metric what ``over_seeds`` gives, over the seeds that have it.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}
    for seed, summary in summaries.items():
        for cell, metrics in summary["cells"].items():
            for name in METRICS:
                if name in metrics:
                    of_cell = values.setdefault(cell, {})
                    of_cell.setdefault(name, {})[seed] = metrics[name]
    return {
        cell: {name: over_seeds(of_metric) for name, of_metric in metrics.items()}
        for cell, metrics in values.items()
    }


def variants_over_seeds(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the further cells of several seeds together.

    Parameters
    ----------
    summaries : mapping
        By seed, as ``summary.json`` holds them.

    Returns
    -------
    dict
        By key of ``VARIANTS``, of those that the runs have, what ``cells_over_seeds`` gives.
    """
    found = {
        variant: {seed: {"cells": run[key]} for seed, run in summaries.items() if key in run}
        for variant, key in VARIANTS.items()
    }
    return {variant: cells_over_seeds(cells) for variant, cells in found.items() if cells}


def groups_over_seeds(summaries: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bring the groups' scores of several seeds together.

    Parameters
    ----------
    summaries : mapping
        By seed, in the shape of ``scores.summarize``.

    Returns
    -------
    list of dict
        ``group``, ``role`` and, by column (``seen_questions``, ``unseen_questions``), alignment
        over the seeds in which the group had the role: a drawn one can differ between seeds.
    """
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


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a text inside may hold any other end of a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_curve(run_folder: Path) -> list[dict[str, Any]]:
    """Scores of every evaluation of a run, with what had been spent until then.

    Parameters
    ----------
    run_folder : Path
        With ``metrics.jsonl`` and ``timings.jsonl``, which are empty where nothing was trained.

    Returns
    -------
    list of dict
        ``rounds``, ``steps``, ``episodes``, ``bytes``, ``train_loss`` and ``cells``, the macro
        alignment by cell.
    """
    points, episodes, sent, step = [], 0, 0, 0
    metrics, timings = (
        read_lines(run_folder / name) for name in ("metrics.jsonl", "timings.jsonl")
    )
    for line, cost in zip(metrics, timings, strict=True):
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


def answered_cells(
    pairs: Pairs, roles: Mapping[str, str], unanswered: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, float]]:
    """Alignment over the pairs of a group and a question that another training group answered.

    Parameters
    ----------
    pairs : Pairs
        Scores of one arm and seed.
    roles : mapping of str to str
        Role of each group.
    unanswered : mapping of str to sequence of int
        By group, positions of the questions that no other training group answered.

    Returns
    -------
    dict
        By cell ``alignment``, the macro alignment without the unanswered pairs, and ``unanswered``
        and ``pairs``: how many pairs were left out, and out of how many.
    """
    groups: dict[str, list[tuple[float, int, int]]] = {}
    for group in dict.fromkeys(pairs.group_N.tolist()):
        for seen, column in ((True, "seen"), (False, "unseen")):
            own_N = (pairs.group_N == group) & (pairs.seen_N == seen)
            left_out_N = own_N & np.isin(pairs.question_N, unanswered.get(group, ()))
            scored = 1 - pairs.distance_N[own_N & ~left_out_N]
            if len(scored):
                once_N = pairs.draw_N == 0
                counts = int((left_out_N & once_N).sum()), int((own_N & once_N).sum())
                cell = f"{ROLES[roles[group]]}.{column}_questions"
                groups.setdefault(cell, []).append((float(scored.mean()), *counts))
    return {
        cell: {
            "alignment": statistics.fmean(score for score, _, _ in rows),
            "unanswered": sum(missing for _, missing, _ in rows),
            "pairs": sum(count for _, _, count in rows),
        }
        for cell, rows in groups.items()
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


def plurality_over_seeds(summaries: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the plurality of several seeds together.

    Parameters
    ----------
    summaries : mapping
        By seed; one may lack it, as a deployment's does.

    Returns
    -------
    dict
        By cell and number what ``over_seeds`` gives; ``tells_apart`` is the share of the seeds.
    """
    values: dict[str, dict[str, dict[str, float]]] = {}
    for seed, summary in summaries.items():
        for cell, numbers in summary.get("plurality", {}).items():
            for name, value in numbers.items():
                if value is not None:
                    values.setdefault(cell, {}).setdefault(name, {})[seed] = float(value)
    return {
        cell: {name: over_seeds(own) for name, own in numbers.items()}
        for cell, numbers in values.items()
    }
