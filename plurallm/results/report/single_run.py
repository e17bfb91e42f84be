"""One run in the shape of a comparison: its model beside its baselines, with one seed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from plurallm.config.error import ConfigError
from plurallm.results.compare.over_seeds import (
    cells_over_seeds,
    groups_over_seeds,
    plurality_over_seeds,
    read_curve,
    read_lines,
    variants_over_seeds,
)
from plurallm.results.compare.verdicts import verdicts


def run_results(folder: Path) -> dict[str, Any]:
    """Gather what a finished run left behind.

    Parameters
    ----------
    folder : Path
        With ``summary.json``, ``metrics.jsonl``, ``timings.jsonl``, ``config.yaml`` and
        ``overrides.yaml``.

    Returns
    -------
    dict
        In the shape of ``comparison_results``, as far as a run goes: the arm ``model`` and its
        baselines, no convergence and no examples. ``summary`` is the run's own, ``losses`` the
        training loss of every round, with that of each group where it is known, ``failed_rounds``
        why a round failed. A deployment knows no survey and has no baselines. Personal models,
        where groups have some, are an arm ``personal``.

    Raises
    ------
    ConfigError
        When the run has not finished, or trained nothing.
    """
    if not (folder / "summary.json").exists():
        raise ConfigError(f"{folder}: the run has not finished; continue it with resume={folder}")
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rounds = read_lines(folder / "metrics.jsonl")
    if not rounds:
        raise ConfigError(f"{folder}: nothing was trained here; report the comparison's folder")
    seed = str(summary["seed"])
    own = _arm("federated", seed, summary) | {
        "curves": {seed: read_curve(folder)},
        "seconds": {seed: summary["seconds"]["this_process"]},
    }
    arms = {"model": own}
    if own["variants"].pop("personal", None):
        scores = {"cells": summary["personal_cells"], "groups": summary["personal_groups"]}
        arms["personal"] = _arm("federated", seed, scores)
    for name, scores in summary.get("baselines", {}).items():
        arms[name] = _arm("baseline", seed, scores)
    return {
        "name": folder.name,
        "overrides": yaml.safe_load((folder / "overrides.yaml").read_text(encoding="utf-8")),
        "missing": [],
        "seeds": [summary["seed"]],
        "config": yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        "survey": summary.get("survey"),
        "train_groups": summary["train_groups"],
        "held_out_groups": summary["held_out_groups"],
        "groups_dropped": summary["groups_dropped"],
        "groups_absent": summary["groups_absent"],
        "versions": summary["versions"],
        "arms": arms,
        "convergence": {},
        "verdicts": verdicts(arms),
        "unanswered": [],
        "unanswered_counts": {},
        "examples": [],
        "summary": summary,
        "losses": [_losses(line) for line in rounds if line["train_loss"] is not None],
        "failed_rounds": {line["round"]: line["failed"] for line in rounds if "failed" in line},
    }


def _arm(kind: str, seed: str, scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": kind,
        "overrides": [],
        "seeds": [int(seed)],
        "cells": cells_over_seeds({seed: scores}),
        "variants": variants_over_seeds({seed: scores}),
        "groups": groups_over_seeds({seed: scores}),
        "plurality": plurality_over_seeds({seed: scores}),
        "privacy": None,  # told in the notes
        "curves": {},
        "seconds": {},
    }


def _losses(line: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "rounds": line["round"],
        "mean": line["train_loss"],
        "groups": line.get("losses", {}),
    }
