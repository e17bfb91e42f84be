"""The verdict in words, made from the numbers: who beats whom, against the spread over seeds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scipy.stats import t

from plurallm.results.compare.over_seeds import over_seeds
from plurallm.results.compare.verdicts import alignment_of, difference, is_oracle
from plurallm.results.report.names import (
    arm_label,
    arm_label_in,
    cell_label,
    cells_of,
    is_trained,
    main_arm,
    mean_std,
    scores_of,
)
from plurallm.results.report.sheet import Sheet

CONFIDENCE = 0.95
RULE = (
    "One arm beats another when the 95 % confidence interval of their mean difference (Student's t "
    "over the seeds) lies above 0; all else is level: no difference is shown. A seed changes "
    "splits, contexts and training; how results vary with the choice of groups is not in it. "
)
PAIRED = "Differences are taken seed by seed, on the same groups, questions and context answers"
ANSWERED = ", without the questions that no other training group answered"
MEMORY = (
    "On their own seen questions training groups' networks have been trained with the very answers "
    "that are asked for; predictors without a network have not seen them."
)
ONE_SEED = "With one seed there is no spread to hold a difference against: it may be chance. "

MARKS = {
    "beats": "▲",
    "is beaten by": "▼",
    "is level with": "≈",
    "is ahead of": "△",
    "is behind": "▽",
}
"""Outcomes and their marks in tables; the last two are of a single seed, which proves nothing."""

_ASKED = (
    ("seen_questions", "mean"),
    ("seen_questions", "mixture"),
    ("unseen_questions", "neighbours"),
)
"""Which baseline a network has to beat where."""


@dataclass(frozen=True)
class Finding:
    """One comparison of two arms in a cell.

    Attributes
    ----------
    where : str
        The cell in words.
    arm, other : str
        What is compared, as tables call them.
    outcome : str
        A key of ``MARKS``.
    scores : str
        Both scores.
    difference : str
        `arm` minus `other`.
    ahead : str
        With how many seeds `arm` is ahead.
    """

    where: str
    arm: str
    other: str
    outcome: str
    scores: str
    difference: str
    ahead: str


def outcome(stat: Mapping[str, Any]) -> str:
    """Judge a difference over seeds by ``RULE``; one seed is only ahead or behind.

    Parameters
    ----------
    stat : mapping
        ``mean``, ``std`` and ``values``, as ``compare.over_seeds`` gives them.

    Returns
    -------
    str
        A key of ``MARKS``.

    Examples
    --------
    >>> outcome({"mean": 0.02, "std": 0.01, "values": {"1": 0.03, "2": 0.02, "3": 0.01}})
    'is level with'
    >>> outcome({"mean": 0.03, "std": 0.01, "values": {"1": 0.04, "2": 0.03, "3": 0.02}})
    'beats'
    """
    if stat["std"] is None:
        return "is ahead of" if stat["mean"] > 0 else "is behind"
    seeds = len(stat["values"])
    margin = t.ppf((1 + CONFIDENCE) / 2, seeds - 1) * stat["std"] / math.sqrt(seeds)
    if abs(stat["mean"]) <= margin:
        return "is level with"
    return "beats" if stat["mean"] > 0 else "is beaten by"


def baseline_findings(results: Mapping[str, Any]) -> list[Finding]:
    """Whether the main arm beats what a network has to beat: unseen groups first.

    Parameters
    ----------
    results : mapping
        As ``comparison_results`` gives them.

    Returns
    -------
    list of Finding
        Of mean and mixture on seen questions, and of neighbours on unseen ones, as far as the
        results have them.
    """
    main = main_arm(results)
    return _found(
        _finding(results, cell, main, baseline)
        for column, baseline in _ASKED
        for cell in cells_of(results)
        if cell.endswith(f".{column}")
    )


def best_findings(results: Mapping[str, Any]) -> list[Finding]:
    """In each cell the best arm with a network against the best fair one without."""
    findings = []
    for cell in cells_of(results):
        score = {
            name: fmean(values.values())
            for name, arm in results["arms"].items()
            if not is_oracle(name, cell) and (values := alignment_of(arm, cell))
        }
        trained = [name for name in score if is_trained(results["arms"][name])]
        plain = [name for name in score if name not in trained]
        if trained and plain:
            best, rival = (max(names, key=score.__getitem__) for names in (trained, plain))
            findings.append(_finding(results, cell, best, rival))
    return _found(findings)


def verdict_sheet(results: Mapping[str, Any]) -> Sheet | None:
    """Findings against the baselines as a table; None where there are none."""
    findings = baseline_findings(results)
    if not findings:
        return None
    return Sheet(
        f"Does the network ({findings[0].arm}) beat what needs none?",
        ("groups, questions", "outcome", "difference", "ahead with"),
        tuple(
            (
                finding.where,
                f"{finding.outcome} {finding.other}",
                finding.difference,
                finding.ahead,
            )
            for finding in findings
        ),
        labels=2,
        note=f"{rule(results)} {MEMORY}",
    )


def rule(results: Mapping[str, Any]) -> str:
    """How outcomes are judged, as far as the number of seeds permits."""
    words = (RULE if len(results["seeds"]) > 1 else ONE_SEED) + PAIRED
    return words + (ANSWERED if results["unanswered"] else "") + "."


def difference_sheet(results: Mapping[str, Any]) -> Sheet | None:
    """The main arm minus every other arm, cell by cell; None where it stands alone."""
    main, cells = main_arm(results), cells_of(results)
    others = [name for name in results["arms"] if name != main]
    if main is None or not others:
        return None
    rows = []
    for name in others:
        row = [arm_label(name)]
        for cell in cells:
            found = difference(results["arms"][main], results["arms"][name], cell)
            oracle = " *" if is_oracle(name, cell) else ""
            row.append(
                "–"
                if found is None
                else f"{mean_std(found['difference'], digits=4, signed=True)} "
                f"{MARKS[outcome(found['difference'])]}{oracle}"
            )
        rows.append(tuple(row))
    shown = {mark for row in rows for cell in row for mark in cell.split()}
    marks = ", ".join(f"{mark} {word}" for word, mark in MARKS.items() if mark in shown)
    oracle = "; * against an oracle" if "*" in shown else ""
    score = next(iter(scores_of(results).values()))
    return Sheet(
        f"{arm_label(main)} minus each other arm, {score}",
        ("arm", *(cell_label(cell).replace(", ", ",\n") for cell in cells)),
        tuple(rows),
        note=f"{marks} that arm{oracle}.",
    )


def _found(findings: Iterable[Finding | None]) -> list[Finding]:
    return [finding for finding in findings if finding is not None]


def _finding(results: Mapping[str, Any], cell: str, name: str | None, other: str) -> Finding | None:
    """Hold an arm against another in a cell; None where one is missing there, or they are one."""
    arms = results["arms"]
    if name is None or name == other or other not in arms:
        return None
    found = difference(arms[name], arms[other], cell)
    if found is None:
        return None
    shared = found["difference"]["values"]
    ours, theirs = (
        over_seeds({seed: alignment_of(arms[each], cell)[seed] for seed in shared})
        for each in (name, other)
    )
    return Finding(
        where=cell_label(cell),
        arm=arm_label(name),
        other=arm_label_in(other, cell),
        outcome=outcome(found["difference"]),
        scores=f"{mean_std(ours)} against {mean_std(theirs)}",
        difference=mean_std(found["difference"], digits=4, signed=True),
        ahead=f"{found['wins']} of {len(shared)} seed{'s' if len(shared) > 1 else ''}",
    )
