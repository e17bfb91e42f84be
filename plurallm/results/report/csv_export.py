"""Results as files for other programs: one observation a line, and everything as JSON."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plurallm.results.compare.convergence import ACCOUNTS

Record = dict[str, Any]


def tidy(results: Mapping[str, Any]) -> dict[str, list[Record]]:
    """Bring results into tables with one observation a row.

    Parameters
    ----------
    results : mapping
        As ``comparison_results`` gives them.

    Returns
    -------
    dict
        ``cells`` (arm, variant, kind, cell, metric, seed, value; the variant is empty, or as in
        ``over_seeds.VARIANTS``), ``plurality`` (arm, cell, metric, seed,
        value), ``groups`` (arm, role, group, questions, seed, alignment),
        ``curves`` (arm, seed, what had been spent, train_loss, cell, alignment) and, where there
        is one, ``convergence`` (cell, arm, seed, target and what had been spent, empty where it was
        not reached). Empty tables are left out.
    """
    tables = {
        "cells": list(_cells(results)),
        "plurality": list(_plurality(results)),
        "groups": list(_groups(results)),
        "curves": list(_curves(results)),
        "convergence": list(_convergence(results)),
    }
    return {name: rows for name, rows in tables.items() if rows}


def write_tables(results: Mapping[str, Any], folder: Path) -> None:
    """Write every table of ``tidy`` as a CSV file."""
    for name, rows in tidy(results).items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Write results whole."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _cells(results: Mapping[str, Any]) -> Iterator[Record]:
    for name, arm in results["arms"].items():
        for variant, cells in {"": arm["cells"], **arm["variants"]}.items():
            for cell, metrics in cells.items():
                for metric, stat in metrics.items():
                    for seed, value in stat["values"].items():
                        place = {"arm": name, "variant": variant, "kind": arm["kind"], "cell": cell}
                        yield place | {"metric": metric, "seed": seed, "value": value}


def _plurality(results: Mapping[str, Any]) -> Iterator[Record]:
    for name, arm in results["arms"].items():
        for cell, numbers in arm.get("plurality", {}).items():
            for metric, stat in numbers.items():
                for seed, value in stat["values"].items():
                    yield {
                        "arm": name,
                        "cell": cell,
                        "metric": metric,
                        "seed": seed,
                        "value": value,
                    }


def _groups(results: Mapping[str, Any]) -> Iterator[Record]:
    for name, arm in results["arms"].items():
        for row in arm["groups"]:
            for column in ("seen_questions", "unseen_questions"):
                for seed, value in row.get(column, {"values": {}})["values"].items():
                    place = {"arm": name, "role": row["role"], "group": row["group"]}
                    yield place | {"questions": column, "seed": seed, "alignment": value}


def _curves(results: Mapping[str, Any]) -> Iterator[Record]:
    for name, arm in results["arms"].items():
        for seed, points in arm["curves"].items():
            for point in points:
                spent = {account: point[account] for account in ACCOUNTS}
                place = {"arm": name, "seed": seed} | spent | {"train_loss": point["train_loss"]}
                for cell, alignment in point["cells"].items():
                    yield place | {"cell": cell, "alignment": alignment}


def _convergence(results: Mapping[str, Any]) -> Iterator[Record]:
    for cell, found in results["convergence"].items():
        for name, of_seed in found["arms"].items():
            for seed, point in of_seed.items():
                place = {"cell": cell, "arm": name, "seed": seed, "target": found["targets"][seed]}
                spent = {account: None if point is None else point[account] for account in ACCOUNTS}
                yield place | spent
