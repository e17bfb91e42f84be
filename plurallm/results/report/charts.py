"""Two kinds of charts, drawn for a light page; ``svg`` lets them follow the reader's theme.

Each is drawn for one of two widths: text keeps its size on a narrow page, so that panels come below
each other there and group names above their dots.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from plurallm.results.report.colours import Style
from plurallm.results.report.drawing import RULE, drawing

WIDE, NARROW = 1040, 330
"""Widths in CSS pixels."""

STEPS = [1, 2, 5, 10]
"""Round distances between marks on an axis."""


@dataclass(frozen=True)
class Line:
    """One arm's course.

    Attributes
    ----------
    label : str
        For the legend.
    style : Style
        How it is drawn.
    x, y : sequence of float
        The course.
    spread : sequence of float
        Half the height of the band around it; empty for no band.
    """

    label: str
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """Lines over one axis, and levels that do not move.

    Attributes
    ----------
    x_label : str
        What the axis counts.
    lines : sequence of Line
        At least one.
    levels : mapping of str to (Style, float)
        Horizontal lines by label.
    """

    x_label: str
    lines: Sequence[Line]
    levels: Mapping[str, tuple[Style, float]]


@drawing()
def line_chart(panels: Sequence[Panel], y_label: str, narrow: bool) -> Figure:
    """Draw panels that share their vertical axis, side by side or below each other.

    Parameters
    ----------
    panels : sequence of Panel
        At least one.
    y_label : str
        What all lines measure.
    narrow : bool
        Whether it is for a narrow page.

    Returns
    -------
    Figure
        With a legend below.
    """
    handles = {label: handle for panel in panels for label, handle in _panel_handles(panel).items()}
    width = NARROW if narrow else min(WIDE, 350 * len(panels) + 60)
    columns = _legend_columns(handles, width, 55)
    legend_height = 20 * -(-len(handles) // columns) + 14
    height = legend_height + (230 * len(panels) if narrow else 310)
    figure = _figure(width, height)
    shape = (len(panels), 1) if narrow else (1, len(panels))
    axes = figure.subplots(*shape, sharey=True, squeeze=False).flat
    for index, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw_panel(ax, panel)
        if narrow or index == 0:
            ax.set_ylabel(y_label)
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns)
    return figure


@drawing()
def dot_chart(
    rows: Sequence[tuple[str, Mapping[str, float]]],
    arms: Mapping[str, tuple[str, Style]],
    x_label: str,
    narrow: bool,
) -> Figure:
    """Draw a dot for each arm in each row.

    Parameters
    ----------
    rows : sequence of (str, mapping of str to float)
        Name and value by arm, from top to bottom; a row without values is a gap.
    arms : mapping of str to (str, Style)
        Label and style by arm, the most important first.
    x_label : str
        What the dots measure.
    narrow : bool
        Whether it is for a narrow page.

    Returns
    -------
    Figure
        With a legend above.
    """
    handles = {label: _handle(style, line=False) for label, style in arms.values()}
    width = NARROW if narrow else WIDE
    columns = _legend_columns(handles, width, 30)
    step = 34 if narrow else 21
    height = 62 + step * len(rows) + 20 * -(-len(handles) // columns) + 14
    figure = _figure(width, height)
    ax = figure.subplots()
    for place, (name, values) in enumerate(rows):
        if narrow:
            ax.annotate(
                _short(name, 44),
                (0, place),
                xycoords=("axes fraction", "data"),
                xytext=(2, 6),
                textcoords="offset points",
            )
        if values:
            ax.hlines(place, min(values.values()), max(values.values()), RULE, linewidth=3)
    for arm, (_, style) in reversed(list(arms.items())):  # the first on top
        points = [(values[arm], place) for place, (_, values) in enumerate(rows) if arm in values]
        if points:
            ax.plot(*zip(*points, strict=True), linestyle="none", **_marker(style))
    ax.set_ylim(len(rows) - 0.4, -0.9 if narrow else -0.6)
    ax.set_yticks(range(len(rows)), [] if narrow else [_short(name, 40) for name, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(x_label)
    ax.xaxis.set_major_locator(MaxNLocator(5 if narrow else 9, steps=STEPS))
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper left",
        ncols=columns,
        handlelength=1,
    )
    return figure


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width / 72, height / 72), layout="constrained")


def _draw_panel(ax: Axes, panel: Panel) -> None:
    for style, level in panel.levels.values():
        ax.axhline(level, color=style.light, linewidth=1.2, dashes=style.dash or (1, 0))
    for line in panel.lines:
        every = max(1, len(line.x) // 6)
        ax.plot(line.x, line.y, **(_stroke(line.style) | _marker(line.style)), markevery=every)
        if line.spread:
            low = [value - half for value, half in zip(line.y, line.spread, strict=True)]
            high = [value + half for value, half in zip(line.y, line.spread, strict=True)]
            ax.fill_between(line.x, low, high, color=line.style.light, alpha=0.16, linewidth=0)
    ax.set_xlabel(panel.x_label)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    ax.yaxis.set_major_locator(MaxNLocator(6, steps=STEPS))
    ax.tick_params(labelleft=True)


def _panel_handles(panel: Panel) -> dict[str, Line2D]:
    lines = {line.label: _handle(line.style) for line in panel.lines}
    return lines | {label: _handle(style, dots=False) for label, (style, _) in panel.levels.items()}


def _handle(style: Style, line: bool = True, dots: bool = True) -> Line2D:
    stroke: dict[str, Any] = _stroke(style) if line else {"linestyle": "none"}
    return Line2D([], [], **({"color": style.light} | stroke | (_marker(style) if dots else {})))


def _stroke(style: Style) -> dict[str, Any]:
    width = 1.2 if style.colour == "muted" else 2.0
    return {"linestyle": (0, style.dash) if style.dash else "solid", "linewidth": width}


def _marker(style: Style) -> dict[str, Any]:
    return {"marker": style.marker, "markersize": 7, "color": style.light}


def _legend_columns(handles: Mapping[str, Line2D], width: float, handle: int) -> int:
    """How many columns fit, of a handle so wide and text of some 6 pixels a letter."""
    column = 6.2 * max(map(len, handles)) + handle
    return max(1, min(len(handles), int(width // column)))


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
