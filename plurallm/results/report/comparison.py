"""Tables of a comparison, or of a run in the shape of one."""

from collections.abc import Mapping, Sequence
from typing import Any

from plurallm.results.compare.verdicts import is_oracle
from plurallm.results.report.names import (
    ACCOUNTS,
    FAIRNESS,
    ORACLE_MARK,
    VARIANTS,
    arm_label,
    arm_label_in,
    cell_label,
    cells_of,
    main_arm,
    mean_std,
    number,
    scores_of,
)
from plurallm.results.report.sheet import Sheet

SPREAD = "± is the standard deviation over seeds."
VARIANT_NOTES = {
    "honest": "Honest groups: without those that attack.",
    "personal": "Personal models: one for each training group, which never leaves its node.",
    "trunk": "The global model without experts: what the scores of single rounds are of.",
    "population": "All experts alike: what is predicted of a group without its context.",
}
ORACLE = "* oracle: uses the training groups' answers that training withheld."


def score_sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """Every arm in the four cells: one table for each score that the results have."""
    cells = cells_of(results)
    return [
        Sheet(
            f"{heading}, mean over groups",
            ("predictor", *(cell_label(cell).replace(", ", ",\n") for cell in cells)),
            tuple(
                (
                    label or _with_seeds(name, results),
                    *(_marked(name, cell, scores.get(cell), metric) for cell in cells),
                )
                for name, label, scores in _scored(results)
            ),
            note=" ".join(_notes(results, cells)),
            strong=_main_row(results, _scored(results)),
        )
        for metric, heading in scores_of(results).items()
    ]


def fairness_sheet(results: Mapping[str, Any], cell: str) -> Sheet:
    """Fairness over the groups of a cell, for every arm that has it."""
    rows = [row for row in _scored(results) if cell in row[2]]
    metrics = [metric for metric in FAIRNESS if any(metric in row[2][cell] for row in rows)]
    return Sheet(
        f"Fairness over {cell_label(cell)}",
        ("predictor", *(FAIRNESS[metric] for metric in metrics)),
        tuple(
            (
                label or arm_label_in(name, cell),
                *(
                    mean_std(
                        scores[cell].get(metric),
                        digits=4 if metric.startswith("fi") else 3,
                    )
                    for metric in metrics
                ),
            )
            for name, label, scores in rows
        ),
        note=" ".join(_notes(results, [cell])),
        strong=_main_row(results, rows),
    )


def group_sheet(results: Mapping[str, Any], role: str, column: str) -> Sheet | None:
    """Alignment of every group of a role, the main arm's lowest first; None without groups.

    Parameters
    ----------
    results : mapping
        As ``comparison_results`` gives them.
    role : str
        ``"train"`` or ``"held_out"``.
    column : str
        ``"seen_questions"`` or ``"unseen_questions"``.
    """
    scores = group_scores(results, role, column)
    if not scores:
        return None
    row, cell = ("held_out_groups" if role == "held_out" else "train_groups"), column
    names = [name for name in results["arms"] if any(name in of for of in scores.values())]
    return Sheet(
        f"{next(iter(scores_of(results).values()))} of {cell_label(f'{row}.{cell}')}",
        ("group", *(arm_label_in(name, f"{row}.{cell}") for name in names)),
        tuple(
            (group, *(mean_std(of_group.get(name)) for name in names))
            for group, of_group in scores.items()
        ),
        note=SPREAD if len(results["seeds"]) > 1 else "",
    )


def group_scores(
    results: Mapping[str, Any], role: str, column: str
) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Alignment over seeds by group and arm, the main arm's lowest group first."""
    scores: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, arm in results["arms"].items():
        for row in arm["groups"]:
            if row["role"] == role and column in row:
                scores.setdefault(row["group"], {})[name] = row[column]
    main = main_arm(results) or next(iter(results["arms"]))

    def place(item: tuple[str, dict[str, Mapping[str, Any]]]) -> tuple[bool, float, str]:
        group, of_group = item
        return main not in of_group, of_group.get(main, {"mean": 0.0})["mean"], group

    return dict(sorted(scores.items(), key=place))


def convergence_sheets(results: Mapping[str, Any]) -> list[Sheet]:
    """By cell where each arm and seed converged, and federated training as a multiple of pooled."""
    sheets = []
    for cell, found in results["convergence"].items():
        sheets.append(_convergence_sheet(cell, found))
        if found["ratios"]:
            sheets.append(_ratio_sheet(cell, found))
    return sheets


def _convergence_sheet(cell: str, found: Mapping[str, Any]) -> Sheet:
    rows = [
        (
            arm_label(name),
            seed,
            number(found["targets"][seed]),
            *(_amount(point, account) for account in ACCOUNTS),
        )
        for name, of_seed in found["arms"].items()
        for seed, point in of_seed.items()
    ]
    return Sheet(
        f"Spent until converged, on {cell_label(cell)}",
        ("arm", "seed", "target", *ACCOUNTS.values()),
        tuple(rows),
        labels=1,
        note="– not reached within the run.",
    )


def _ratio_sheet(cell: str, found: Mapping[str, Any]) -> Sheet:
    rows = []
    for name, ratios in found["ratios"].items():
        row = [f"of {arm_label(name)}"]
        for account in ACCOUNTS:
            ratio = ratios[account]
            row.append(
                "–"
                if ratio is None
                else f"{number(ratio['median'], 2)} ({_join(ratio['values'].values())})"
            )
        rows.append(tuple(row))
    return Sheet(
        f"Spent by federated training until converged, as a multiple, on {cell_label(cell)}",
        ("multiple", *ACCOUNTS.values()),
        tuple(rows),
        note="Median over seeds (each seed); below 1 federated training needs less. "
        "– where one of the two did not converge with every seed, or sends no weights.",
    )


def privacy_sheet(results: Mapping[str, Any]) -> Sheet | None:
    """Whom each private arm protected, and how well; None where none is."""
    rows = [
        (
            arm_label(name),
            arm["privacy"]["protects"],
            f"{arm['privacy']['epsilon']:.4g}",
            f"{arm['privacy']['delta']:g}",
        )
        for name, arm in results["arms"].items()
        if arm["privacy"] is not None
    ]
    if not rows:
        return None
    return Sheet("Differential privacy", ("arm", "protects", "epsilon", "delta"), tuple(rows))


def seconds_sheet(results: Mapping[str, Any]) -> Sheet | None:
    """Seconds of every trained arm and seed; None where none were taken."""
    seeds = [str(seed) for seed in results["seeds"]]
    rows = [
        (arm_label(name), *(number(arm["seconds"].get(seed), 0) for seed in seeds))
        for name, arm in results["arms"].items()
        if arm["seconds"]
    ]
    if not rows:
        return None
    return Sheet("Seconds", ("arm", *(f"seed {seed}" for seed in seeds)), tuple(rows))


_Scored = tuple[str, str, Mapping[str, Any]]
"""A row of scores: the arm, the row's label where it is not the arm's own, cells."""


def _scored(results: Mapping[str, Any]) -> list[_Scored]:
    """Every arm, each followed by the honest groups' and the personal models' scores, if any."""
    rows: list[_Scored] = []
    for name, arm in results["arms"].items():
        rows.append((name, "", arm["cells"]))
        for variant, cells in arm["variants"].items():
            rows.append((name, f"– its {VARIANTS[variant]}", cells))
    return rows


def _with_seeds(name: str, results: Mapping[str, Any]) -> str:
    done, wanted = len(results["arms"][name]["seeds"]), len(results["seeds"])
    return arm_label(name) + ("" if done == wanted else f" ({done} of {wanted} seeds)")


def _marked(name: str, cell: str, metrics: Mapping[str, Any] | None, metric: str) -> str:
    if metrics is None or metric not in metrics:
        return "–"
    return mean_std(metrics[metric]) + (ORACLE_MARK if is_oracle(name, cell) else "")


def _notes(results: Mapping[str, Any], cells: Sequence[str]) -> list[str]:
    lines = [SPREAD] if len(results["seeds"]) > 1 else []
    variants = {variant for arm in results["arms"].values() for variant in arm["variants"]}
    lines += [text for variant, text in VARIANT_NOTES.items() if variant in variants]
    oracles = any(is_oracle(name, cell) for name in results["arms"] for cell in cells)
    return [*lines, ORACLE] if oracles else lines


def _main_row(results: Mapping[str, Any], rows: Sequence[_Scored]) -> frozenset[int]:
    main = main_arm(results)
    return frozenset(
        number for number, (name, label, _) in enumerate(rows) if name == main and not label
    )


def _amount(point: Mapping[str, float] | None, account: str) -> str:
    if point is None:
        return "–"
    if account == "bytes":
        return f"{point['bytes'] / 1e6:,.1f}"
    return f"{point[account]:,}"


def _join(values: Sequence[float] | Any) -> str:
    return ", ".join(number(value, 2) for value in values)
