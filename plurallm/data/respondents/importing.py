"""``plurallm import``: persons' answers as a table of groups, or a draft of their codebook."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from plurallm.config.compose import load_config
from plurallm.config.overrides import absolute_overrides, hydra_quote
from plurallm.config.surveys import RespondentData
from plurallm.data.frames import survey_text
from plurallm.data.respondents.asking import known_variables
from plurallm.data.respondents.draft_codebook import codebook_text, draft_rows, variable_row
from plurallm.data.respondents.respondent_files import read_sheet


def import_survey(arguments: Sequence[str]) -> None:
    """Write a survey in our own format with the codebook used, or a draft of a codebook.

    Parameters
    ----------
    arguments : sequence of str
        Of ``plurallm import``; ``--help`` lists them.

    Raises
    ------
    SurveyError
        Naming file, row and reason.
    FileExistsError
        When what would be written is there already.
    """
    args = _parser().parse_args(arguments)
    overrides = [*args.overrides, *([] if args.out is None or "=" not in args.out else [args.out])]
    out = None if args.out is None or "=" in args.out else Path(args.out)
    if (out is None) == (args.draft_codebook is None):
        raise ValueError(
            "plurallm import takes FILE and the survey.csv to write, or --draft-codebook"
        )
    if not any(text.startswith("data=") for text in overrides):
        overrides = ["data=respondents", *overrides]
    if args.draft_codebook is not None:
        overrides += ["data.group_by=respondent", "data.weight=null"]
    overrides = [*overrides, f"data.path={hydra_quote(str(args.file))}"]
    data = load_config(absolute_overrides(overrides, Path.cwd()), None).data
    if args.draft_codebook is not None:
        assert isinstance(data, RespondentData)
        _draft(data, args.draft_codebook)
    else:
        assert out is not None
        if not out.name.endswith(".csv"):
            raise ValueError(f"{out}: the survey is written as .csv")
        survey = data.read()
        written = [(out, survey_text(survey))]
        if isinstance(data, RespondentData):
            sheet = read_sheet(Path(str(data.path)), data.encoding, data.sheet, data.delimiter)
            variables, _ = known_variables(sheet, data)
            asked = {question.id for question in survey.questions}
            rows = [
                variable_row(variables[name], column.codes)
                | {"use": "true" if name in asked else "false"}
                for name, column in sheet.columns.items()
            ]
            written.append((out.with_suffix(".codebook.csv"), codebook_text(rows)))
        _write(written)
        print(f"{len(survey.answers)} groups, {len(survey.questions)} questions: {survey.layout}")
        for reason, count in survey.dropped.items():
            print(f"left out: {count} x {reason}")
        for doubt in survey.doubts:
            print(f"warning: {doubt}")
        for path, _ in written:
            print(f"written: {path}")


def _draft(data: RespondentData, out: Path) -> None:
    sheet = read_sheet(Path(str(data.path)), data.encoding, data.sheet, data.delimiter)
    rows = draft_rows(sheet, known_variables(sheet, data)[0])
    _write([(out, codebook_text(rows))])
    print(f"{sheet.persons} persons, {len(rows)} columns: {sheet.told}")
    for row in rows:
        if row.get("note"):
            print(f"{row['variable']}: {row['note']}")
    print(f"written: {out}; complete it, and give it as data.codebook={out}")


def _write(files: Sequence[tuple[Path, str]]) -> None:
    for path, _ in files:
        if path.exists():
            raise FileExistsError(f"{path} is there already: remove it, or choose another name")
    for path, text in files:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="plurallm import", description=__doc__)
    parser.add_argument("file", type=Path, help="CSV, TSV, parquet, Excel, SPSS or Stata")
    parser.add_argument(
        "out", nargs="?", help="the survey.csv to write, one row per question and group"
    )
    parser.add_argument(
        "overrides", nargs="*", help="data.group_by=[cntry] data.weight=pspwght ..."
    )
    parser.add_argument(
        "--draft-codebook", type=Path, metavar="OUT", help="write a draft of a codebook instead"
    )
    return parser
