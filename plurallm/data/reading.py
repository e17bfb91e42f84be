"""Survey files: their layouts, told apart by their columns.

A bad row is refused with file, row and reason.
"""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from plurallm.config.schema import KINDS
from plurallm.data.builder import Builder
from plurallm.data.formats.cells import CellError
from plurallm.data.formats.tabular import SurveyError, check_file, table_rows
from plurallm.data.layout import Layout
from plurallm.data.non_answers import drop_non_answers
from plurallm.data.sources.table_files import TableData
from plurallm.data.survey import Survey


def read_survey(
    path: Path,
    source: str,
    non_answers: str = "drop",
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    shares_sum: float | None = None,
) -> Survey:
    """Read a survey file.

    Parameters
    ----------
    path : Path
        CSV (``.csv``, ``.csv.gz``), TSV (``.tsv``, ``.tsv.gz``) or parquet (``.parquet``).
    source : str
        A name of ``conf/data`` whose files are tables: ``"custom"`` for one row per question and
        group with the columns ``question_id, question, options, group`` and ``shares`` or
        ``counts`` (optionally ``ordinal``), lists as JSON; ``"globalopinionqa"`` for ``question,
        selections, options``; ``"opinionqa"`` for either layout of OpinionQA.
    non_answers : str
        ``"drop"``: options such as "Don't know" or "Refused" are left out and counted, and the
        shares of the others sum to 1; ``"keep"``: they count as opinions.
    delimiter, encoding : str, optional
        Of a text; see ``table_rows``.
    shares_sum : float, optional
        What shares sum to in the custom layout; 1 by default.

    Returns
    -------
    Survey
        Questions by their ids, groups by their names: the order of the rows does not matter.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    """
    check_file(path)
    rows = table_rows(path, delimiter, encoding)
    return survey_of_rows(path, rows, source, non_answers, shares_sum)


def survey_of_rows(
    path: Path,
    rows: Iterator[tuple[int, dict[str, Any]]],
    source: str,
    non_answers: str,
    shares_sum: float | None = None,
) -> Survey:
    """Make a survey of the rows of a table.

    Parameters
    ----------
    path : Path
        What messages name as the file.
    rows : iterator of (int, dict)
        Number and cells of each row.
    source, non_answers, shares_sum
        As for ``read_survey``.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    """
    first = next(rows, None)
    if first is None:
        raise SurveyError(f"{path}: no usable row")
    layout = _choose_layout(path, source, first[1])
    builder = Builder(
        path, itertools.chain([first], rows), non_answers == "keep", shares_sum or 1.0
    )
    try:
        layout.read(builder)
    except CellError as error:
        raise builder.refuse(str(error)) from error
    survey = builder.build(layout.name)
    if not survey.answers:
        raise SurveyError(f"{path}: no usable row")
    return survey if non_answers == "keep" else drop_non_answers(survey)


def table_layouts() -> dict[str, tuple[Layout, ...]]:
    """Layouts of every choice of ``conf/data`` whose files are tables."""
    kinds = KINDS["data"].all.items()
    return {name: kind.layouts() for name, kind in kinds if issubclass(kind, TableData)}


def _choose_layout(path: Path, source: str, cells: Mapping[str, Any]) -> Layout:
    known = table_layouts()
    nearest = min(known[source], key=lambda layout: len(_missing(layout, cells)))
    if not _missing(nearest, cells):
        return nearest
    others = [
        f"data={other}"
        for other, layouts in known.items()
        if any(not _missing(layout, cells) for layout in layouts)
    ]
    hint = f"; they are those of {' or '.join(others)}" if others else ""
    raise SurveyError(
        f"{path}: column {_missing(nearest, cells)[0]!r} is missing; "
        f"the columns are {', '.join(map(str, cells))}{hint}"
    )


def _missing(layout: Layout, cells: Mapping[str, Any]) -> list[str]:
    return [name for name in layout.columns if name not in cells]
