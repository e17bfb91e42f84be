"""Tables of plurality: whether each arm's predictions depend on the group."""

from collections.abc import Iterable, Mapping
from typing import Any

from plurallm.results.report.names import arm_label_in, cell_label, cells_of, mean_std, number
from plurallm.results.report.sheet import Sheet

PLURALITY = {
    **{"own": "own context", "swapped": "swapped", "gain": "gain", "low": "lower\nlimit"},
    **{"correlation": "correlation", "slope": "slope", "between": "apart"},
    "assigned": "rightly\nassigned",
}
"""Numbers of the plurality and how tables call them."""

PLURALITY_NOTE = (
    "Own context: alignment with the group's own context; swapped: with another group's. Lower "
    "limit: of the gain's 95 % interval over questions. Correlation and slope: of predicted with "
    "true differences between two groups. Apart: distance between the predictions for two groups. "
    "Rightly assigned: where two groups differ by 10 points or more, how often the prediction from "
    "the own context is nearer to a group's answers than the other group's; 0.5 by chance."
)


def plurality_sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """Whether each arm's predictions depend on the group: a table for each cell that has pairs."""
    sheets = []
    for cell in cells_of(results):
        scored = {
            name: arm["plurality"][cell]
            for name, arm in results["arms"].items()
            if cell in arm.get("plurality", {})
        }
        if scored:
            true = next(iter(scored.values()))["true_between"]
            sheets.append(
                Sheet(
                    f"Plurality over {cell_label(cell)}",
                    ("predictor", *PLURALITY.values(), "tells groups\napart"),
                    tuple(
                        (
                            arm_label_in(name, cell),
                            *(_told(key, numbers.get(key)) for key in PLURALITY),
                            _verdict(numbers["tells_apart"]["values"].values()),
                        )
                        for name, numbers in scored.items()
                    ),
                    note=f"The answers themselves lie {mean_std(true)} apart. {PLURALITY_NOTE}",
                )
            )
    return sheets


def _told(key: str, stat: Mapping[str, Any] | None) -> str:
    """Deviations of two numbers only: with all of them a terminal is too narrow."""
    if stat is None:
        return number(None)
    return mean_std(stat) if key in ("gain", "correlation") else number(stat["mean"], 3)


def _verdict(seeds: Iterable[float]) -> str:
    told = [bool(seed) for seed in seeds]
    if len(set(told)) == 1:
        return "yes" if told[0] else "no"
    return f"{sum(told)} of {len(told)} seeds"
