"""How soon an arm reaches what the best arm gains, counted in four ways.

An arm has converged in the first evaluated round in which its macro alignment reaches 95 % of the
gain over uniform shares of the best arm that trains one model for all. The target is the same for
all arms of a seed; where no arm gains anything there is none. Rounds,
optimiser steps (one after the other on one model), episodes (a group's share of a step) and bytes
of weights sent answer different questions: central training sends no weights, but all answers.
"""

import statistics
from collections.abc import Mapping
from typing import Any

SHARE_OF_GAIN = 0.95
ACCOUNTS = ("rounds", "steps", "episodes", "bytes")
_CELLS = ("held_out_groups.seen_questions", "train_groups.seen_questions")


def convergence(arms: Mapping[str, Any]) -> dict[str, Any]:
    """Find when each trained arm converged.

    Parameters
    ----------
    arms : mapping
        By arm ``kind``, ``cells`` and ``curves``, as ``comparison_results`` gives them.

    Returns
    -------
    dict
        For held-out and training groups on seen questions, as far as there are such scores: by cell
        ``targets`` by seed, ``arms``: by arm and seed the point of the curve where it converged or
        None, and ``ratios``: of the federated to each pooled arm under each account, ``values`` by
        seed and their ``median``; None where one of them did not converge, or sends nothing. Empty
        without ``uniform`` and a trained arm that is better.
    """
    if "uniform" not in arms:
        return {}
    # A network for each group alone remembers that group's answers: no target for a shared one.
    trained = {
        name: arm
        for name, arm in arms.items()
        if any(arm["curves"].values()) and arm["kind"] != "local"
    }
    found = {cell: _converged(arms, trained, cell) for cell in _CELLS}
    return {cell: in_cell for cell, in_cell in found.items() if in_cell is not None}


def _converged(
    arms: Mapping[str, Any], trained: Mapping[str, Any], cell: str
) -> dict[str, Any] | None:
    scored = {name: arm for name, arm in trained.items() if cell in arm["cells"]}
    targets = _targets(arms, scored, cell) if scored else {}
    if not targets:
        return None
    reached = {
        name: {
            seed: _first(arm["curves"].get(seed, []), cell, target)
            for seed, target in targets.items()
        }
        for name, arm in scored.items()
    }
    pooled = [name for name in reached if scored[name]["kind"] == "pooled"]
    return {
        "targets": targets,
        "arms": reached,
        "ratios": {
            name: {
                account: _ratio(reached["federated"], reached[name], account)
                for account in ACCOUNTS
            }
            for name in pooled
            if "federated" in reached
        },
    }


def _targets(arms: Mapping[str, Any], trained: Mapping[str, Any], cell: str) -> dict[str, float]:
    targets = {}
    for seed, uniform in arms["uniform"]["cells"][cell]["alignment"]["values"].items():
        finals = [
            arm["cells"][cell]["alignment"]["values"][seed]
            for arm in trained.values()
            if seed in arm["cells"].get(cell, {}).get("alignment", {}).get("values", {})
        ]
        if finals and max(finals) > uniform:
            targets[seed] = uniform + SHARE_OF_GAIN * (max(finals) - uniform)
    return targets


def _first(curve: list[dict[str, Any]], cell: str, target: float) -> dict[str, Any] | None:
    for point in curve:
        if point["cells"].get(cell, 0) >= target:
            return {account: point[account] for account in ACCOUNTS}
    return None


def _ratio(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], account: str
) -> dict[str, Any] | None:
    values = {}
    for seed, point in ours.items():
        other = theirs.get(seed)
        if point is None or other is None or not other[account]:
            return None
        values[seed] = point[account] / other[account]
    return {"values": values, "median": statistics.median(values.values())} if values else None
