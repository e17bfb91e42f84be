"""How figures look: Matplotlib's settings, for a light page."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context

from plurallm.results.report.colours import COLOURS

INK, MUTED, RULE = (COLOURS[name][0] for name in ("ink", "muted", "rule"))

RC: dict[Any, Any] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "svg.fonttype": "none",
}


@contextmanager
def drawing(identities: str | None = None) -> Iterator[None]:
    """Settings under which figures are made and saved; also a decorator.

    Parameters
    ----------
    identities : str, optional
        What the identities inside an SVG are made from; without, they are random.
    """
    with rc_context(RC | {"svg.hashsalt": identities}), warnings.catch_warnings():
        # A script that this font lacks: the reader's browser has a font for it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield
