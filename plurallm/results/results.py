"""A comparison, and how one is started from Python."""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, hydra_list
from plurallm.record.run_folder import new_run_folder
from plurallm.results.compare.run_comparison import compare_here
from plurallm.results.report.csv_export import tidy
from plurallm.results.report.report_folder import write_report
from plurallm.results.rows import Rows
from plurallm.study import Study


class Results:
    """What a comparison has found.

    Parameters
    ----------
    folder : str or Path
        Of a comparison of which at least one arm is done.

    Attributes
    ----------
    folder : Path
        The same.

    Raises
    ------
    ConfigError
        When it is not the folder of a comparison.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "compare.yaml").is_file():
            raise ConfigError(f"{folder} is not the folder of a comparison: no compare.yaml")

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything, as ``comparison.json`` holds it."""
        file = self.folder / "comparison.json"
        if not file.is_file():
            write_report(self.folder)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found

    def table(self, metric: str = "alignment") -> Rows:
        """One metric of every arm in every cell: mean, standard deviation and seeds."""
        return Rows(
            {
                "arm": name,
                "cell": cell,
                "mean": metrics[metric]["mean"],
                "std": metrics[metric]["std"],
                "seeds": len(metrics[metric]["values"]),
            }
            for name, arm in self.data["arms"].items()
            for cell, metrics in arm["cells"].items()
            if metric in metrics
        )

    def rows(self, name: str = "cells") -> Rows:
        """One observation a row: ``cells``, ``plurality``, ``groups`` or ``curves``."""
        tables = tidy(self.data)
        if name not in tables:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(tables)}")
        return Rows(tables[name])

    def report(self) -> Path:
        """Write the report; gives the page's path."""
        write_report(self.folder)
        return self.folder / "report.html"

    def __repr__(self) -> str:
        return f"Results({str(self.folder)!r})\n{self.table()!r}"


def compare(
    study: Study | None = None,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    *,
    output_dir: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> Results:
    """Compare arms over seeds, on the same groups and questions.

    Parameters
    ----------
    study : Study, optional
        On what; the built-in survey by default.
    arms : sequence of str, optional
        Names of arms (``conf/compare``), or overrides of a federated run such as
        ``"strategy=term"``.
    seeds : sequence of int, optional
        One run of each arm for each.
    output_dir : path, optional
        The comparison's folder; by default a new one in ``outputs``. Of a folder that holds the
        same comparison only what is missing is run.
    overrides : sequence of str, optional
        Any other key of ``conf/``.

    Returns
    -------
    Results
        With its report written.

    Raises
    ------
    ConfigError
        Naming the arm or key that is wrong.
    ArmsFailedError
        When an arm failed, after all others have run and are reported.
    """
    named = [] if arms is None else [f"compare.arms={hydra_list(arms)}"]
    named += [] if seeds is None else [f"compare.seeds=[{','.join(map(str, seeds))}]"]
    folder = output_dir or new_run_folder(Path.cwd() / "outputs", "compare-")
    start = () if study is None else study.overrides
    everything = absolute_overrides([*start, *overrides, *named], Path.cwd())
    failure = compare_here(everything, Path(folder).resolve())
    write_report(Path(folder))
    if failure is not None:
        raise failure
    return Results(folder)
