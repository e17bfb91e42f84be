"""The charts of a comparison, or of a run in the shape of one."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from plurallm.evaluate.scores import ROLES
from plurallm.results.report.charts import Line, Panel, dot_chart, line_chart
from plurallm.results.report.colours import Style, styles
from plurallm.results.report.comparison import group_scores
from plurallm.results.report.images import png
from plurallm.results.report.names import (
    arm_label_in,
    cell_label,
    cells_of,
    is_trained,
    main_arm,
    number,
    scores_of,
)

AXES = {
    "rounds": "rounds",
    "steps": "optimiser steps, one after the other",
    "bytes": "MB of weights sent",
}
"""What learning curves are drawn against."""

ALL_SHOWN, ENDS_SHOWN = 40, 15
"""Of more than so many groups a chart shows so many at each end."""


@dataclass(frozen=True)
class Chart:
    """One chart, to be drawn for a wide or a narrow page.

    Attributes
    ----------
    name : str
        Made of letters, digits, ``-`` and ``_``.
    title : str
        What it shows.
    description : str
        What somebody who does not see it must know.
    draw : callable
        From whether the page is narrow to the figure.
    """

    name: str
    title: str
    description: str
    draw: Callable[[bool], Figure]


def curve_charts(results: Mapping[str, Any]) -> dict[str, Chart]:
    """Alignment against what had been spent, by cell; only cells in which an arm has a curve."""
    charts = {}
    for cell in cells_of(results):
        panels = list(_curve_panels(results, cell))
        if panels:
            charts[cell] = _curve_chart(results, cell, panels)
    return charts


def group_charts(results: Mapping[str, Any]) -> dict[str, Chart]:
    """Alignment group by group, by cell."""
    charts = {}
    for cell in cells_of(results):
        row, column = cell.split(".")
        (role,) = (role for role, name in ROLES.items() if name == row)
        scores = group_scores(results, role, column)
        if scores:
            charts[cell] = _group_chart(results, cell, scores)
    return charts


def loss_chart(losses: Sequence[Mapping[str, Any]]) -> Chart:
    """A run's training loss, with the band between its groups' lowest and highest."""
    rounds = [line["rounds"] for line in losses]
    lines = [Line("mean over groups", Style("series-0", "o"), rounds, [m["mean"] for m in losses])]
    for label, style, pick in (
        ("lowest group", Style("series-2", "v", (2, 2)), min),
        ("highest group", Style("series-1", "^", (5, 2)), max),
    ):
        known = [line for line in losses if line["groups"]]
        if known:
            values = [pick(line["groups"].values()) for line in known]
            lines.append(Line(label, style, [line["rounds"] for line in known], values))
    panel = Panel("rounds", lines, {})
    return Chart(
        "loss",
        "Training loss",
        f"Training loss by round: {number(losses[0]['mean'])} in the first, "
        f"{number(losses[-1]['mean'])} in the last.",
        lambda narrow: line_chart([panel], "training loss", narrow),
    )


def pictures(results: Mapping[str, Any]) -> dict[str, bytes]:
    """All charts of a comparison as PNG, by name."""
    charts = [*curve_charts(results).values(), *group_charts(results).values()]
    return {chart.name: png(chart.draw(False)) for chart in charts}


def _curve_chart(results: Mapping[str, Any], cell: str, panels: Sequence[Panel]) -> Chart:
    score = next(iter(scores_of(results).values()))
    ends = [f"{line.label} {number(line.y[-1])}" for line in panels[0].lines]
    levels = [f"{label} {number(level)}" for label, (_, level) in panels[0].levels.items()]
    axes = ", ".join(panel.x_label for panel in panels)
    without = f" Without a network: {', '.join(levels)}." if levels else ""
    return Chart(
        f"curves-{_slug(cell)}",
        f"{score} on {cell_label(cell)}",
        f"Lines of {score} on {cell_label(cell)} against {axes}. "
        f"At the end: {', '.join(ends)}.{without}",
        lambda narrow: line_chart(panels, score, narrow),
    )


def _curve_panels(results: Mapping[str, Any], cell: str) -> Iterator[Panel]:
    arms = results["arms"]
    drawn = styles(list(arms))
    levels = {
        arm_label_in(name, cell): (drawn[name], arm["cells"][cell]["alignment"]["mean"])
        for name, arm in arms.items()
        if not is_trained(arm) and cell in arm["cells"]
    }
    for account, x_label in AXES.items():
        lines = [
            line
            for name, arm in arms.items()
            if (line := _line(arm["curves"], account, cell, arm_label_in(name, cell), drawn[name]))
        ]
        if lines:
            yield Panel(x_label, lines, levels)


def _line(
    curves: Mapping[str, Any], account: str, cell: str, label: str, style: Style
) -> Line | None:
    """Mean over the seeds of one arm; None where there is no curve, or nothing is sent."""
    by_round: dict[int, list[Any]] = {}
    for points in curves.values():
        for point in points:
            if cell in point["cells"]:
                by_round.setdefault(point["rounds"], []).append(point)
    everywhere = [points for points in by_round.values() if len(points) == len(curves)]
    x = [statistics.fmean(point[account] for point in points) for points in everywhere]
    if not any(x):
        return None
    values = [[point["cells"][cell] for point in points] for points in everywhere]
    return Line(
        label,
        style,
        [amount / 1e6 for amount in x] if account == "bytes" else x,
        [statistics.fmean(of_point) for of_point in values],
        [statistics.stdev(of_point) for of_point in values] if len(curves) > 1 else (),
    )


def _group_chart(
    results: Mapping[str, Any], cell: str, scores: Mapping[str, Mapping[str, Any]]
) -> Chart:
    score = next(iter(scores_of(results).values()))
    rows = [
        (group, {name: stat["mean"] for name, stat in of_group.items()})
        for group, of_group in scores.items()
    ]
    title = f"{score} of each group: {cell_label(cell)}"
    if len(rows) > ALL_SHOWN:
        left_out = len(rows) - 2 * ENDS_SHOWN
        gap: tuple[str, dict[str, float]] = (f"… {left_out} groups between …", {})
        rows = [*rows[:ENDS_SHOWN], gap, *rows[-ENDS_SHOWN:]]
        title += f", the {ENDS_SHOWN} lowest and the {ENDS_SHOWN} highest of {len(scores)}"
    drawn, main = styles(list(results["arms"])), main_arm(results)
    names = [name for name in results["arms"] if any(name in values for _, values in rows)]
    names.sort(key=lambda name: name != main)
    arms = {name: (arm_label_in(name, cell), drawn[name]) for name in names}
    lowest, highest = rows[0], rows[-1]
    return Chart(
        f"groups-{_slug(cell)}",
        title,
        f"{title}. Lowest for {arms[names[0]][0]}: {lowest[0]}, "
        f"{number(lowest[1].get(names[0]))}; highest: {highest[0]}, "
        f"{number(highest[1].get(names[0]))}.",
        lambda narrow: dot_chart(rows, arms, score, narrow),
    )


def _slug(cell: str) -> str:
    return cell.replace(".", "-").replace("_", "-")
