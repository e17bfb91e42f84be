"""What reports call arms, cells and metrics, and the one way in which they write numbers."""

from collections.abc import Mapping
from typing import Any

from plurallm.evaluate.baseline import BASELINES
from plurallm.results.compare.verdicts import is_oracle

TRAINED = {
    "model": "trained model",
    "personal": "personal models",
    "federated": "federated",
    "pooled_steps": "pooled, same steps",
    "pooled_rounds": "pooled, same rounds",
    "local": "each group alone",
    "personal=none": "federated, no experts",
    "paper": "federated, published",
}
"""Arms with a network; ``model`` and ``personal`` are those of a single run. Any other arm goes by
its overrides."""

VARIANTS = {
    "honest": "honest groups alone",
    "personal": "personal models",
    "trunk": "global model without experts",
    "population": "all experts alike",
    "novel": "without near copies",
}
"""Further cells of an arm and how the tables call them."""

EXPLANATIONS = {
    "model": "the network of this run",
    "personal": "a network for each group, kept near the common one and never sent",
    "federated": "the network, trained without moving answers: each group trains a copy on its own "
    "answers, the server averages the weights; then, with personal=experts, each training group "
    "fine-tunes a copy, which predicts that group, and all copies together, weighted to fit a "
    "group's context answers, predict the others",
    "personal=none": "the averaged network alone, the same for every group but for its context",
    "pooled_steps": "the same network, trained in one place on all groups' answers, with as many "
    "optimiser steps as federated training",
    "pooled_rounds": "the same, with one optimiser step a round: as many rounds as federated "
    "training, and fewer steps",
    "local": "a network for each training group, trained on its answers alone; there is none for a "
    "held-out group",
    "paper": "federated training with the loss, learning rate and draws that the method's authors "
    "published",
}
"""What each named arm with a network predicts from."""

FAIRNESS = {
    "worst": "worst group",
    "gap": "gap",
    "cov": "CoV",
    "fi": "FI",
    "cov_question": "CoV by\nquestion",
    "fi_question": "FI by\nquestion",
}
"""Fairness over groups and how the tables call it."""

ACCOUNTS = {"rounds": "rounds", "steps": "steps", "episodes": "episodes", "bytes": "MB sent"}
"""What convergence is counted in."""

HELD_OUT_SEEN, HELD_OUT_UNSEEN = (
    "held_out_groups.seen_questions",
    "held_out_groups.unseen_questions",
)
CELLS = (
    HELD_OUT_SEEN,
    HELD_OUT_UNSEEN,
    "train_groups.seen_questions",
    "train_groups.unseen_questions",
)
"""The four cells, the ones that the method is for first."""

ORACLE_MARK = " *"


def arm_label(name: str) -> str:
    """What tables call an arm; one that has no name of its own is called by its overrides.

    Raises
    ------
    ConfigError
        For a name that is neither: the package that brings such a baseline is not installed.
    """
    if name in TRAINED or "=" in name:
        return TRAINED.get(name, name)
    return BASELINES.find(name).label


def arm_explanation(name: str) -> str | None:
    """What an arm predicts from; one that goes by its overrides says it itself."""
    if name in TRAINED or "=" in name:
        return EXPLANATIONS.get(name)
    return BASELINES.find(name).explanation


def arm_label_in(name: str, cell: str) -> str:
    """``arm_label``, marked where the arm is an oracle in that cell."""
    return arm_label(name) + (ORACLE_MARK if is_oracle(name, cell) else "")


def cell_label(cell: str) -> str:
    """Plain words for a cell.

    Examples
    --------
    >>> cell_label("held_out_groups.seen_questions")
    'held-out groups, seen questions'
    """
    words = {"train_groups": "training groups", "held_out_groups": "held-out groups"}
    row, column = cell.split(".")
    return f"{words[row]}, {column.replace('_', ' ')}"


def scores_of(results: Mapping[str, Any]) -> dict[str, str]:
    """Scores that results have, by metric: only the Jensen-Shannon distance has bases."""
    if results["config"]["data"]["distance"] == "wasserstein":
        return {"alignment": "1\N{NO-BREAK SPACE}−\N{NO-BREAK SPACE}WD"}
    return {"alignment": "AS base 2", "alignment_e": "AS base e"}


def cells_of(results: Mapping[str, Any]) -> list[str]:
    """Cells that any arm has, in the order of ``CELLS``."""
    arms = results["arms"].values()
    return [cell for cell in CELLS if any(cell in arm["cells"] for arm in arms)]


def is_trained(arm: Mapping[str, Any]) -> bool:
    """Whether an arm has a network."""
    return bool(arm["kind"] != "baseline")


def main_arm(results: Mapping[str, Any]) -> str | None:
    """The arm that a report is about: ``federated``, or the first with a network."""
    arms = results["arms"]
    trained = [name for name, arm in arms.items() if is_trained(arm)]
    return "federated" if "federated" in trained else next(iter(trained), None)


def number(value: float | None, digits: int = 3) -> str:
    """A number with fixed digits; a dash where there is none."""
    return "–" if value is None else f"{value:z.{digits}f}".replace("-", "−")


def mean_std(stat: Mapping[str, Any] | None, digits: int = 3, signed: bool = False) -> str:
    """Mean and standard deviation over seeds; one seed has no deviation.

    Examples
    --------
    >>> mean_std({"mean": 0.8164, "std": 0.0041})
    '0.816 ± 0.004'
    """
    if stat is None:
        return "–"
    sign = "+" if signed and round(stat["mean"], digits) > 0 else ""
    spread = "" if stat["std"] is None else f" ± {number(stat['std'], digits)}"
    return f"{sign}{number(stat['mean'], digits)}{spread}"
