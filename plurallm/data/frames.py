"""Surveys as data frames, and as files of our own format."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plurallm.config.directories import writing
from plurallm.data.formats.tabular import refuse_doubles
from plurallm.data.reading import survey_of_rows
from plurallm.data.survey import Survey

_PLACE = Path("the frame")
_WHOLE = 1e-6  # a count that is this near a whole number is one: shares times people


def frame_survey(frame: Any) -> Survey:
    """Read a pandas or polars frame in our own format.

    Parameters
    ----------
    frame : pandas.DataFrame or polars.DataFrame
        Columns ``question_id, question, options, group`` and ``shares`` or ``counts``, optionally
        ``ordinal``; lists as lists, arrays or JSON.

    Returns
    -------
    Survey
        Questions in the order of their ids. Options that are no answers are kept: a
        study drops them unless ``data.non_answers=keep``.

    Raises
    ------
    SurveyError
        Naming the row (the first is 1) and the reason.
    """
    if hasattr(frame, "to_dicts"):
        rows: Iterable[Mapping[str, Any]] = frame.to_dicts()
    elif hasattr(frame, "to_dict"):
        refuse_doubles(_PLACE, map(str, frame.columns))
        rows = frame.to_dict("records")
    else:
        raise TypeError(f"neither a pandas nor a polars frame, but {type(frame).__name__}")
    numbered = ((number, _plain(row)) for number, row in enumerate(rows, start=1))
    return survey_of_rows(_PLACE, numbered, "custom", "keep")


def keep_survey(survey: Survey, folder: Path) -> Path:
    """Keep a survey as a file, named by its content, that only its owner can read.

    Parameters
    ----------
    survey : Survey
        Any survey.
    folder : Path
        The cache.

    Returns
    -------
    Path
        A CSV file in our own format, under ``surveys`` in the folder.
    """
    content = survey_text(survey).encode()
    path = folder / "surveys" / f"{hashlib.blake2b(content, digest_size=16).hexdigest()}.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with writing(path):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            partial.replace(path)
    return path


def survey_text(survey: Survey) -> str:
    """A survey as CSV in our own format, which ``read_survey`` reads back as the same survey."""
    columns = ["question_id", "question", "options", "group", "shares", "counts", "ordinal"]
    if any(own.effective_Q is not None for own in survey.answers.values()):
        columns.append("effective")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(_rows(survey))
    return text.getvalue()


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Cells without arrays and without NaN, which pandas writes where nothing stands."""
    return {
        str(name): cell.tolist()
        if isinstance(cell, np.ndarray)
        else None
        if isinstance(cell, float) and cell != cell
        else cell
        for name, cell in row.items()
    }


def _rows(survey: Survey) -> Iterator[dict[str, Any]]:
    """Rows by question."""
    row_of = {
        group: {int(position): row for row, position in enumerate(answers.question_Q)}
        for group, answers in survey.answers.items()
    }
    for position, question in enumerate(survey.questions):
        for group, answers in survey.answers.items():
            row = row_of[group].get(position)
            if row is None:
                continue
            share_O = answers.share_QO[row, : len(question.options)]
            cells: dict[str, Any] = {
                "question_id": question.id,
                "question": question.text,
                "options": json.dumps(question.options, ensure_ascii=False),
                "group": group,
                "ordinal": None if question.ordinal is None else json.dumps(question.ordinal),
            }
            if answers.respondents_Q is None:
                cells["shares"] = json.dumps(share_O.tolist())
            else:
                count_O = share_O * answers.respondents_Q[row]
                whole_O = np.round(count_O)
                near_O = np.abs(count_O - whole_O) < _WHOLE
                cells["counts"] = json.dumps(np.where(near_O, whole_O, count_O).tolist())
            if answers.effective_Q is not None:
                cells["effective"] = float(answers.effective_Q[row])
            yield cells
