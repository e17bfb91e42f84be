"""Colours, markers and dashes of the charts: each arm is told from the others by all three."""

from collections.abc import Sequence
from dataclasses import dataclass

COLOURS = {
    "page": ("#ffffff", "#15181c"),
    "ink": ("#1b1f24", "#e6e8eb"),
    "muted": ("#59636e", "#9aa4af"),
    "rule": ("#d3d8de", "#343a42"),
    "series-0": ("#0064a8", "#5cb3f5"),
    "series-1": ("#c2410c", "#ff9157"),
    "series-2": ("#00795b", "#36c99b"),
    "series-3": ("#9a3f8f", "#e08fd6"),
    "series-4": ("#876300", "#e3b341"),
    "series-5": ("#4b5a86", "#a9b8f0"),
    "series-6": ("#b0124f", "#ff7aa8"),
    "series-7": ("#2f6f7a", "#7fd0de"),
}
"""By name, for a light and a dark page. Contrast with the page is at least 3:1 for what is drawn,
4.5:1 for what is written (WCAG 2.2); the series stay apart for the colour-blind (after Okabe and
Ito)."""

Dash = tuple[float, ...]


@dataclass(frozen=True)
class Style:
    """How one arm is drawn.

    Attributes
    ----------
    colour : str
        A key of ``COLOURS``.
    marker : str
        Matplotlib's name of it.
    dash : tuple of float
        Lengths drawn and left out, in line widths; empty for a solid line.
    """

    colour: str
    marker: str
    dash: Dash = ()

    @property
    def light(self) -> str:
        """The colour on a light page, which the figures are drawn for."""
        return COLOURS[self.colour][0]


_NAMED = {
    "model": Style("series-0", "o"),
    "federated": Style("series-0", "o"),
    "pooled_steps": Style("series-1", "s", (5, 1.5)),
    "pooled_rounds": Style("series-2", "^", (5, 1.5, 1, 1.5)),
    "local": Style("series-3", "D", (1, 1.2)),
    "paper": Style("series-4", "v", (8, 2)),
    "personal=none": Style("series-5", "P", (3, 1)),
    "personal": Style("series-6", "p", (4, 1.5, 1, 1.5)),
    "uniform": Style("muted", "|", (1, 3)),
    "context_mean": Style("muted", "1", (1, 1.5)),
    "mean": Style("muted", "x", (6, 2)),
    "mixture": Style("muted", "*", (6, 2, 1, 2)),
    "neighbours": Style("muted", "+", (3, 3)),
}
_OTHERS = tuple(
    Style(f"series-{number % 8}", marker, dash)
    for number, (marker, dash) in enumerate(
        [("X", (2, 2)), ("<", (4, 4)), (">", (6, 1, 1, 1, 1, 1)), ("h", (10, 3)), ("d", (2, 1))],
        start=6,
    )
)


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """Style of every arm: named ones always look the same, others follow their order."""
    others = [name for name in arms if name not in _NAMED]
    return {name: _NAMED.get(name) or _OTHERS[others.index(name) % len(_OTHERS)] for name in arms}
