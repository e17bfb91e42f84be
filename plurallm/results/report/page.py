"""One self-contained HTML page of a comparison, or of a run in the shape of one."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from plurallm.config.compose import load_config
from plurallm.config.digest import config_dict, flatten
from plurallm.evaluate.plurality import LEAST_BETWEEN, LEAST_GAIN
from plurallm.results.compare.convergence import SHARE_OF_GAIN
from plurallm.results.report.colours import COLOURS
from plurallm.results.report.comparison import (
    convergence_sheets,
    fairness_sheet,
    group_sheet,
    privacy_sheet,
    score_sheets,
    seconds_sheet,
)
from plurallm.results.report.figures import Chart, curve_charts, group_charts, loss_chart
from plurallm.results.report.images import inline_svg
from plurallm.results.report.names import (
    CELLS,
    arm_explanation,
    arm_label,
    arm_label_in,
    cell_label,
    cells_of,
    is_trained,
    main_arm,
    number,
)
from plurallm.results.report.plurality_sheets import plurality_sheets
from plurallm.results.report.sheet import Sheet
from plurallm.results.report.tables import notes
from plurallm.results.report.verdict import (
    MARKS,
    MEMORY,
    baseline_findings,
    best_findings,
    difference_sheet,
    rule,
)

LIST_SHOWN = 12
"""Longer lists are folded."""

_QUALITY = {0.1: "predicted well", 0.5: "in the middle", 0.9: "predicted badly"}


def write_page(results: Mapping[str, Any], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    results : mapping
        As ``comparison_results`` or ``run_results`` give them.
    path : Path
        One file, without references to any other.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "arm": lambda name: "" if name is None else arm_label(name),
        "percent": _percent,
        "number": number,
        "unbroken": lambda text: text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}"),
        "capitalize_first": lambda text: text[0].upper() + text[1:],
        "counted": lambda counts: [f"{name} ({count})" for name, count in counts.items()],
    }
    text = templates.get_template("page.html.j2").render(_context(results))
    path.write_text(text, encoding="utf-8")


def changed_configuration(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Keys of a configuration that differ from the default: key, value, default.

    Parameters
    ----------
    config : mapping
        As ``config.yaml`` holds it.

    Returns
    -------
    list of (str, str, str)
        A key that the default choice of its group does not have has the default ``–``. Where the
        run's files are, and what it goes on from, is left out.
    """
    ours, default = flatten(dict(config)), flatten(_default())
    return [
        (key, _plain(value), _plain(default[key]) if key in default else "–")
        for key, value in ours.items()
        if key not in ("output_dir", "cache_dir", "resume")
        and (key not in default or default[key] != value)
    ]


def readable_command(command: str) -> str:
    r"""A command as a shell reads it, without quotes around values that need none.

    Examples
    --------
    >>> readable_command("plurallm compare \"output_dir='/tmp/here'\" seed=2")
    'plurallm compare output_dir=/tmp/here seed=2'
    """
    words = [re.sub(r"^([\w.]+)='([\w./+-]*)'$", r"\1=\2", word) for word in shlex.split(command)]
    return shlex.join(words)


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    cells, main = cells_of(results), main_arm(results)
    arms = results["arms"]
    return {
        "results": results,
        "is_comparison": "summary" not in results,
        "data": results["config"]["data"],
        "evaluation": results["config"]["evaluation"],
        "colours": COLOURS,
        "main": main,
        "arms": {name: arm_explanation(name) for name in arms},
        "trained": [name for name, arm in arms.items() if is_trained(arm)],
        "cells": [(cell, cell_label(cell)) for cell in cells],
        "baseline_findings": baseline_findings(results),
        "best_findings": best_findings(results) if len(arms) > 2 else [],
        "rule": rule(results),
        "memory": MEMORY,
        "marks": MARKS,
        "differences": difference_sheet(results),
        "scores": score_sheets(results),
        "plurality": plurality_sheets(results),
        "least_gain": LEAST_GAIN,
        "least_between": LEAST_BETWEEN,
        "fairness": {cell: fairness_sheet(results, cell) for cell in cells},
        "curves": {cell: _drawn(chart) for cell, chart in curve_charts(results).items()},
        "loss": _drawn(loss_chart(results["losses"])) if "losses" in results else None,
        "groups": {cell: _drawn(chart) for cell, chart in group_charts(results).items()},
        "group_sheets": _group_sheets(results),
        "convergence": convergence_sheets(results),
        "privacy": privacy_sheet(results),
        "share_of_gain": SHARE_OF_GAIN,
        "seconds": seconds_sheet(results),
        "examples": [_example(example) for example in results["examples"]],
        "unanswered": _by_group(results["unanswered"]),
        "list_shown": LIST_SHOWN,
        "changed": changed_configuration(results["config"]),
        "command": readable_command(results["command"]) if "command" in results else None,
        "notes": notes(results["summary"]) if "summary" in results else [],
    }


def _group_sheets(results: Mapping[str, Any]) -> list[Sheet]:
    roles = {"held_out_groups": "held_out", "train_groups": "train"}
    sheets = [group_sheet(results, roles[row], column) for row, column in map(_split, CELLS)]
    return [sheet for sheet in sheets if sheet is not None]


def _drawn(chart: Chart) -> dict[str, Any]:
    widths = {"wide": False, "narrow": True}
    return {"title": chart.title} | {
        width: inline_svg(
            chart.draw(narrow), f"{chart.name}-{width}", chart.description, f"chart {width}"
        )
        for width, narrow in widths.items()
    }


def _example(example: Mapping[str, Any]) -> dict[str, Any]:
    """Rows of shares by option, and the distance of each prediction."""
    predicted, column = example["predicted"], "seen" if example["seen"] else "unseen"
    cell = f"held_out_groups.{column}_questions"
    return {
        "group": example["group"],
        "question": example["question"],
        "column": column,
        "quality": _QUALITY[example["quantile"]],
        "predictors": [arm_label_in(name, cell) for name in predicted],
        "rows": [
            (option, true, [scored["shares"][place] for scored in predicted.values()])
            for place, (option, true) in enumerate(
                zip(example["options"], example["true"], strict=True)
            )
        ],
        "distances": [scored["distance"] for scored in predicted.values()],
    }


def _by_group(pairs: list[dict[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for pair in pairs:
        groups.setdefault(pair["group"], []).append(pair["question"])
    return groups


def _split(cell: str) -> tuple[str, str]:
    row, column = cell.split(".")
    return row, column


def _default() -> dict[str, Any]:
    return config_dict(load_config([], None))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
