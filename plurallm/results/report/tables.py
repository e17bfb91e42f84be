"""Results of a run as tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from plurallm.evaluate.baseline import BASELINES
from plurallm.evaluate.plurality import LEAST_BETWEEN, LEAST_GAIN
from plurallm.results.report.names import VARIANTS, arm_label, cell_label

BASES = {"alignment": "AS base 2", "alignment_e": "AS base e"}
"""Scores of the Jensen-Shannon distance and how the tables call them."""


def print_result(run_folder: Path) -> None:
    """Print the tables of a finished run.

    Parameters
    ----------
    run_folder : Path
        With ``summary.json``.
    """
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    console = wide_console()
    console.print(group_table(summary))
    console.print(cell_table(summary))
    if summary.get("plurality"):
        console.print(plurality_table(summary))
    for line in notes(summary):
        console.print(line, highlight=False, soft_wrap=True)


def wide_console() -> Console:
    """Make a console: off a terminal rich would wrap at 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def group_table(summary: Mapping[str, Any]) -> Table:
    """Alignment score of every group, beside two baselines; those in base 2 where it has a base."""
    baselines = {
        name: baseline
        for name, baseline in _baselines(summary).items()
        if name in ("uniform", "mixture", "neighbours")
    }
    scored = _scores(summary)
    table = Table(title="Alignment score (AS) by group")
    table.add_column("group", no_wrap=True)
    table.add_column("role", no_wrap=True)
    for column in ("seen", "unseen"):
        first, *others = scored.values()
        for heading in (f"{column} {first}", *others):
            table.add_column(heading, justify="right")
        for name in baselines:
            table.add_column(_heading(name, column), justify="right", style="dim")
    for group, scores in sorted(
        summary["groups"].items(), key=lambda item: (item[1]["role"] != "train", item[0])
    ):
        row = [group, "training" if scores["role"] == "train" else "held out"]
        for column in ("seen_questions", "unseen_questions"):
            row += [_score(scores.get(column), base) for base in scored]
            row += [
                _score(baseline["groups"][group].get(column), "alignment")
                for baseline in baselines.values()
            ]
        table.add_row(*row)
    return table


def cell_table(summary: Mapping[str, Any]) -> Table:
    """The four cells: groups seen or not by questions seen or not, with fairness."""
    table = Table(title="Summary over groups")
    table.add_column("groups, questions", no_wrap=True)
    table.add_column("predictor", no_wrap=True)
    columns = _scores(summary) | {"worst": "worst", "gap": "gap", "cov": "CoV", "fi": "FI"}
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for cell, values in summary["cells"].items():
        rows = {"trained model": values}
        for variant, name in VARIANTS.items():
            own = summary.get(f"{variant}_cells", {})
            rows |= {name: own[cell]} if cell in own else {}
        rows |= {
            _heading(name, cell): baseline["cells"][cell]
            for name, baseline in _baselines(summary).items()
        }
        label = cell_label(cell)
        for index, (predictor, numbers) in enumerate(rows.items()):
            table.add_row(
                label if index == 0 else "",
                predictor,
                *(f"{numbers[key]:.4f}" for key in columns),
                style=None if index == 0 else "dim",
                end_section=index == len(rows) - 1,
            )
    return table


def plurality_table(summary: Mapping[str, Any]) -> Table:
    """Whether predictions depend on the group, cell by cell, with the verdict."""
    table = Table(
        title="Plurality: own context, and its gain over another group's (Jensen-Shannon)",
        box=box.SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("groups, questions", no_wrap=True)
    table.add_column("predictor", no_wrap=True)
    for heading in ("own", "gain", "95 %", "corr", "slope", "apart (true)"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("plural")
    baselines = {
        name: baseline
        for name, baseline in _baselines(summary).items()
        if name in ("mixture", "neighbours")
    }
    for cell, score in summary["plurality"].items():
        rows = {"trained model": score} | {
            _heading(name, cell): baseline["plurality"][cell]
            for name, baseline in baselines.items()
            if cell in baseline.get("plurality", {})
        }
        for index, (predictor, own) in enumerate(rows.items()):
            table.add_row(
                cell_label(cell) if index == 0 else "",
                predictor,
                *(f"{own[key]:.3f}" for key in ("own", "gain")),
                f"{own['low']:.3f}..{own['high']:.3f}",
                *(f"{own[key]:.2f}" for key in ("correlation", "slope")),
                f"{own['between']:.3f} ({own['true_between']:.3f})",
                "yes" if own["tells_apart"] else "no",
                style=None if index == 0 else "dim",
                end_section=index == len(rows) - 1,
            )
    return table


def notes(summary: Mapping[str, Any]) -> list[str]:
    """What a reader of the tables must know."""
    lines = []
    if summary.get("plurality"):
        lines.append(
            "plural = yes: the predictions tell groups apart. The gain's lower limit is above "
            f"{LEAST_GAIN}, and they lie at least {LEAST_BETWEEN:.0%} of the true distance apart."
        )
    if _baselines(summary):
        lines.append("* oracle: uses the training groups' answers that training withheld.")
    best = summary["best"]
    if best is not None:
        lines.append(
            f"Tables are of the last round, {summary['rounds']}; best on "
            f"{cell_label(best['cell'])}: round {best['round']}."
        )
    dropped = summary["groups_dropped"]
    if dropped:
        named = ", ".join(f"{group} ({count})" for group, count in dropped.items())
        lines.append(f"Groups left out, with too few seen questions: {named}.")
    lines += summary.get("populations", [])
    for name, spellings in summary.get("survey", {}).get("groups_joined", {}).items():
        lines.append(f"One group, {name!r}, written as {', '.join(map(repr, spellings))}.")
    copies = summary.get("near_copies")
    if copies is not None and copies["unseen"]:
        lines.append(
            f"{copies['near']} of {copies['unseen']} unseen questions have a near copy among the "
            f"seen ones (cosine of their embeddings at least {copies['cosine']:g})."
        )
    rows = summary.get("survey", {}).get("rows_dropped", {})
    lines += [f"Left out of the survey: {count} x {reason}." for reason, count in rows.items()]
    if summary["groups_absent"]:
        absent = ", ".join(summary["groups_absent"])
        lines.append(f"Listed in data.groups, but not in the survey: {absent}.")
    if summary["distance"] == "wasserstein":
        lines.append("AS = 1 - Wasserstein distance on ordinal options, in 0..1: it has no base.")
    if summary["groups_refused"]:
        lines.append(f"Refused in the last round: {summary['groups_refused']}")
    if summary["groups_unscored"]:
        lines.append(f"Not scored in the last round: {summary['groups_unscored']}")
    for group, rounds in summary.get("participation", {}).items():
        missed = f", missed {rounds['missed']}" if rounds["missed"] else ""
        lines.append(f"{group}: trained in rounds {rounds['trained'] or 'none'}{missed}.")
    privacy = summary["privacy"]
    if privacy is not None:
        lines.append(
            f"Privacy of {privacy['protects']}: epsilon {privacy['epsilon']:.4g} at delta "
            f"{privacy['delta']:g}."
        )
    devices = summary["devices"]
    lines.append(
        f"Clients computed on {devices['clients']} ({summary['nodes']} nodes), "
        f"the server on {devices['server']}; "
        f"{(summary['bytes_up'] + summary['bytes_down']) / 1e6:.0f} MB of weights were sent."
    )
    return lines


def _baselines(summary: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = summary.get("baselines", {})
    return found


def _scores(summary: Mapping[str, Any]) -> dict[str, str]:
    """Scores that the summary has: only the Jensen-Shannon distance has bases."""
    return BASES if summary["distance"] == "jensen_shannon" else {"alignment": "AS"}


def _heading(baseline: str, column: str) -> str:
    oracle = BASELINES.find(baseline).oracle and "unseen" in column
    return arm_label(baseline) + (" *" if oracle else "")


def _score(cell: Mapping[str, Any] | None, base: str) -> str:
    return "-" if cell is None else f"{cell[base]:.3f}"
