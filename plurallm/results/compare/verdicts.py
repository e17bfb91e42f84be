"""Who beats whom: two arms on the same cells and seeds."""

from collections.abc import Mapping
from typing import Any

from plurallm.evaluate.baseline import BASELINES
from plurallm.results.compare.over_seeds import over_seeds


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
        there), ``difference`` (of ``alignment_of``, ``mean``, ``std`` and ``values`` over the
        seeds that both have) and ``wins`` of how many.
    """
    return [
        {"arm": name, "baseline": baseline, "oracle": is_oracle(baseline, cell)} | found
        for name, arm in arms.items()
        if arm["kind"] != "baseline"
        for cell in arm["cells"]
        for baseline in BASELINES.names
        if baseline in arms and (found := difference(arm, arms[baseline], cell)) is not None
    ]


def difference(
    arm: Mapping[str, Any], other: Mapping[str, Any], cell: str
) -> dict[str, Any] | None:
    """Hold one arm against another in one cell, seed by seed.

    Parameters
    ----------
    arm, other : mapping
        With ``cells``, as ``comparison_results`` gives them.
    cell : str
        The cell.

    Returns
    -------
    dict or None
        ``cell``, ``difference`` (of ``alignment_of``, `arm` minus `other`, ``mean``, ``std`` and
        ``values`` over the seeds that both have) and ``wins``, the number of seeds in which `arm`
        is ahead. None where they share no seed in this cell.
    """
    ours, theirs = alignment_of(arm, cell), alignment_of(other, cell)
    values = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
    if not values:
        return None
    wins = sum(value > 0 for value in values.values())
    return {"cell": cell, "difference": over_seeds(values), "wins": wins}


def alignment_of(arm: Mapping[str, Any], cell: str) -> dict[str, float]:
    """Macro alignment by seed on which arms are held against each other.

    Over the pairs of a group and a question that another training group answered, where the
    results tell them apart: ``mean`` and ``mixture`` have nothing to say to the others.
    """
    cells = arm.get("answered", arm["cells"])
    values: dict[str, float] = cells.get(cell, {}).get("alignment", {}).get("values", {})
    return values


def is_oracle(arm: str, cell: str) -> bool:
    """Whether an arm uses answers in a cell which training withheld."""
    known = arm in BASELINES.names and BASELINES.find(arm).oracle
    return known and cell.endswith("unseen_questions")
