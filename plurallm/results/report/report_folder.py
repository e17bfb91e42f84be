"""From the folder of a run or of a comparison to its report: tables printed, files written."""

from pathlib import Path
from typing import Any

from plurallm.config.error import ConfigError
from plurallm.results.compare.summary import comparison_results
from plurallm.results.report.comparison import (
    convergence_sheets,
    fairness_sheet,
    privacy_sheet,
    score_sheets,
)
from plurallm.results.report.csv_export import write_json, write_tables
from plurallm.results.report.names import cells_of
from plurallm.results.report.page import write_page
from plurallm.results.report.plurality_sheets import plurality_sheets
from plurallm.results.report.single_run import run_results
from plurallm.results.report.tables import print_result, wide_console
from plurallm.results.report.verdict import difference_sheet, verdict_sheet


def report_folder(folder: Path) -> dict[str, Any]:
    """Print the tables of a run or a comparison, and write its report as ``write_report``."""
    results = write_report(folder)
    if "command" in results:
        print_comparison(results)
    else:
        print_result(folder)
    return results


def write_report(folder: Path) -> dict[str, Any]:
    """Write the report of a run or a comparison.

    Parameters
    ----------
    folder : Path
        Of a finished run, or of a comparison of which at least one arm is done. Gets
        ``report.html``, ``cells.csv``, ``groups.csv`` and ``curves.csv``; a comparison's also
        ``convergence.csv`` and ``comparison.json``.

    Returns
    -------
    dict
        The results, as ``comparison_results`` gives them.

    Raises
    ------
    ConfigError
        When the folder holds neither.
    """
    if (folder / "compare.yaml").is_file():
        results = comparison_results(folder)
        write_json(results, folder / "comparison.json")
    elif (folder / "config.yaml").is_file():
        results = run_results(folder)
    else:
        raise ConfigError(f"{folder} is the folder of no run and of no comparison")
    write_tables(results, folder)
    write_page(results, folder / "report.html")
    return results


def print_comparison(results: dict[str, Any]) -> None:
    """Print what a comparison found: the verdict, then the tables behind it."""
    console = wide_console()

    def say(*lines: str) -> None:
        for line in lines:
            console.print(line, highlight=False, markup=False)

    if results["missing"]:
        say(f"Not done, and not in any table: {'; '.join(results['missing'])}.", "")
    sheets = [
        verdict_sheet(results),
        difference_sheet(results),
        *score_sheets(results),
        *plurality_sheets(results),
        *(fairness_sheet(results, cell) for cell in cells_of(results)),
        *convergence_sheets(results),
        privacy_sheet(results),
    ]
    for sheet in sheets:
        if sheet is not None:
            console.print(sheet.for_terminal())
    if results["unanswered"]:
        say(
            f"{len(results['unanswered'])} pairs of a group and a question that no other training "
            "group answered: group mean and group mixture predict them uniformly."
        )
