"""Persons' own answers: files, codebooks, groups, weights, and what is refused."""

import csv
import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pyreadstat
import pytest
from reference import respondent_shares

from plurallm.cli import main
from plurallm.config.compose import load_config
from plurallm.config.error import ConfigError
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.reading import read_survey
from plurallm.data.respondents.codes import Variable, answer_codes, conventional
from plurallm.data.respondents.tally import read_respondents, settings_text
from plurallm.data.survey import Survey
from plurallm.data.tasks import data_state, load_survey

CODEBOOK = """variable,question,options,codes,missing,type,use
q1,Do you agree?,1=Yes; 2=Partly; 3=No; 7=Refusal*; 8=Don't know*,,,ordinal,true
q2,How far do you trust parliament?,0=No trust; 10=Complete trust,0-10,77;88;99,ordinal,true
q3,"Tea; or not?","{""1"": ""Tea; black"", ""2"": ""Coffee"", ""9"": ""No answer""}",,,nominal,true
gender,Gender,1=Man; 2=Woman,,,nominal,false
age,Age,years,15-90,999,numeric,false
"""
PROJECT = Path(__file__).parents[1]
ESS = PROJECT / os.environ.get("PLURALLM_TEST_DATA", "../shared/data") / "ess11"
ESS_COLUMNS = (
    "data.codebook_columns={variable:var_name,question:question_text,options:answer_translation,"
    "codes:options_ranges_list,type:response_type,use:use_as_target}"
)
needs_ess = pytest.mark.skipif(not ESS.is_dir(), reason=f"no ESS data in {ESS}")


def persons(count: int = 400) -> pd.DataFrame:
    """Made-up answers, with codes for no answer and an empty cell."""
    draw = random.Random(1)
    rows = [
        {
            "id": float(number),
            "land": draw.choice(["Österreich", "Norge", "España"]),
            "gender": float(draw.choice([1, 2])),
            "age": float(draw.choice([*range(15, 91), 999])),
            "w": draw.choice([0.5, 1.25, 2.0, 0.8731]),
            "q1": draw.choice([1.0, 2.0, 3.0, 3.0, 7.0, 8.0]),
            "q2": float(draw.choice([*range(11), 77, 88])),
            "q3": draw.choice([1.0, 2.0, 9.0, None]),
        }
        for number in range(count)
    ]
    return pd.DataFrame(rows)


def write(frame: pd.DataFrame, path: Path) -> Path:
    """Write persons as the file's name says."""
    whole = {name: "Int64" for name in frame if name not in ("land", "w")}
    text = frame.astype(whole)
    ending = path.name.partition(".")[2]
    if ending == "csv":
        text.to_csv(path, index=False)
    elif ending == "csv.gz":
        text.to_csv(path, index=False, compression="gzip")
    elif ending == "tsv":
        text.to_csv(path, index=False, sep="\t", encoding="utf-16")
    elif ending == "txt":
        text.to_csv(path, index=False, sep=";", decimal=",", encoding="latin-1")
    elif ending == "parquet":
        frame.to_parquet(path)
    elif ending == "xlsx":
        text.to_excel(path, index=False)
    elif ending in ("sav", "zsav"):
        pyreadstat.write_sav(frame, path, compress=ending == "zsav")
    elif ending == "dta":
        pyreadstat.write_dta(frame, path)
    else:
        pyreadstat.write_por(frame, path)
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.csv"
    path.write_text(CODEBOOK, encoding="utf-8")
    return path


def survey_of(path: Path, *overrides: str) -> Survey:
    return load_config(["data=respondents", f"data.path={path}", *overrides], None).data.read()


def people(path: Path, frame: pd.DataFrame, book: Path, *overrides: str) -> Survey:
    return survey_of(write(frame, path), f"data.codebook={book}", *overrides)


ENDINGS = ("csv.gz", "tsv", "txt", "parquet", "xlsx", "sav", "zsav", "dta")


@pytest.mark.parametrize("weight", ["null", "w"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_gives_the_same_survey(
    tmp_path: Path, book: Path, ending: str, weight: str
) -> None:
    overrides = ("data.group_by=[land,age]", "data.bins={age:[15,30,50]}", f"data.weight={weight}")
    first = people(tmp_path / "people.csv", persons(), book, *overrides)
    other = people(tmp_path / f"people.{ending}", persons(), book, *overrides)
    assert other.fingerprint == first.fingerprint
    assert other.dropped == first.dropped
    assert "España / 15-29" in first.answers


def test_portable_files_are_read(tmp_path: Path, book: Path) -> None:
    frame = persons()[["gender", "q1", "q2", "q3"]]
    first = people(tmp_path / "people.sav", frame, book, "data.group_by=gender")
    upper = tmp_path / "upper.csv"  # the format has names in capitals
    upper.write_text(CODEBOOK.replace("q1,", "Q1,").replace("q2,", "Q2,").replace("q3,", "Q3,"))
    upper.write_text(upper.read_text().replace("gender,G", "GENDER,G"))
    other = people(tmp_path / "people.por", frame, upper, "data.group_by=GENDER")
    for name, own in first.answers.items():
        np.testing.assert_array_equal(own.share_QO, other.answers[name].share_QO)


@pytest.mark.parametrize("ending", ["sav", "dta"])
def test_labels_and_missing_codes_come_from_the_file(tmp_path: Path, ending: str) -> None:
    frame = persons()
    path = tmp_path / f"people.{ending}"
    labels = {
        "q1": {1: "Yes", 2: "Partly", 3: "No", 7: "Rather not", 8: "Don't know"},
        "gender": {1: "Man", 2: "Woman"},
    }
    texts = {"q1": "Do you agree?"}
    if ending == "sav":
        pyreadstat.write_sav(
            frame,
            path,
            column_labels=texts,
            variable_value_labels=labels,
            missing_ranges={"q1": [{"lo": 7, "hi": 9}]},
            variable_measure={"q1": "ordinal"},
        )
    else:
        frame["q1"] = frame["q1"].astype(object).where(frame["q1"] != 7, "a")
        labels["q1"] = {1: "Yes", 2: "Partly", 3: "No", "a": "Rather not", 8: "Don't know"}  # type: ignore[dict-item]
        pyreadstat.write_dta(
            frame,
            path,
            column_labels=texts,
            variable_value_labels=labels,
            missing_user_values={"q1": ["a"]},
        )
    survey = survey_of(path, "data.group_by=gender")
    (question,) = survey.questions
    assert (question.text, question.options) == ("Do you agree?", ("Yes", "Partly", "No"))
    assert question.ordinal == ((1, 2, 3) if ending == "sav" else None)
    rows = persons().astype(str).to_dict("records")
    expected = respondent_shares(rows, "gender", "q1", ["1.0", "2.0", "3.0"], None)
    for code, name in (("1.0", "Man"), ("2.0", "Woman")):
        np.testing.assert_allclose(survey.answers[name].share_QO[0], expected[code], atol=1e-12)
    kept = survey_of(path, "data.group_by=gender", "data.non_answers=keep")
    assert set(kept.questions[0].options) == {"Yes", "Partly", "No", "Rather not", "Don't know"}


def ess(*overrides: str) -> list[str]:
    return [
        *("data=respondents", f"data.path={ESS / 'ess11_respondents.csv.gz'}"),
        *(f"data.codebook={ESS / 'ess11_variables.csv'}", ESS_COLUMNS, *overrides),
    ]


def ess_rows() -> list[dict[str, str]]:
    with gzip.open(ESS / "ess11_respondents.csv.gz", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@needs_ess
@pytest.mark.parametrize("weight", [None, "pspwght", "anweight"])
@pytest.mark.parametrize(
    "by", ["data.group_by=cntry", "data.group_by=[cntry,gndr]", "data.group_by=[cntry,agea]"]
)
def test_shares_of_the_ess_are_those_of_a_slow_count(by: str, weight: str | None) -> None:
    overrides = [by, "data.bins={agea:[15,30,50,65]}"] if "agea" in by else [by]
    survey = load_config(ess(*overrides, f"data.weight={weight or 'null'}"), None).data.read()
    rows = ess_rows()
    for row in rows:
        age = int(row["agea"])
        bins = "15-29" if age < 30 else "30-49" if age < 50 else "50-64" if age < 65 else "65+"
        second = {"gndr": {"1": "Male", "2": "Female"}[row["gndr"]], "agea": bins}
        row["group"] = " / ".join(
            [row["cntry"], *(text for name, text in second.items() if name in by)]
        )
    if "agea" in by:
        rows = [row for row in rows if row["agea"] != "999"]
    assert len(survey.questions) == 21
    for position, question in enumerate(survey.questions):
        first = 0 if len(question.options) == 11 else 1
        codes = [str(first + place) for place in range(len(question.options))]
        expected = respondent_shares(rows, "group", question.id, codes, weight)
        assert expected.keys() == survey.answers.keys()
        for name, own in survey.answers.items():
            shares = own.share_QO[position, : len(codes)]
            np.testing.assert_allclose(shares, expected[name], rtol=0, atol=1e-12)


@needs_ess
def test_every_code_of_the_ess_is_accounted_for() -> None:
    data = load_config(ess("data.group_by=cntry"), None).data
    survey, census = read_respondents(settings_text(data), data_state(data))  # type: ignore[arg-type]
    rows = ess_rows()
    assert census.persons == len(rows) == 2100
    total = 0
    for question in survey.questions:
        own = census.questions[question.id]
        found = Counter(row[question.id] for row in rows)
        assert own.answered + own.empty + sum(row[2] for row in own.dropped) == 2100
        for code, _, count, _ in own.dropped:
            assert code in ("7", "8", "9", "77", "88", "99")
            assert found[code] == count
            total += count
    assert total == sum(n for why, n in survey.dropped.items() if why.startswith("answer")) == 1084


@needs_ess
def test_each_person_of_the_ess_is_a_group() -> None:
    by = ("data.group_by=respondent", "data.respondent_id=unique_id")
    survey = load_config(ess(*by), None).data.read()
    assert len(survey.answers) == 2100
    own = survey.answers["PL_64009"]
    assert set(np.unique(own.share_QO)) == {0.0, 1.0}
    assert (own.share_QO.sum(1) == 1).all()
    row = ess_rows()[0]
    trust = [question.id for question in survey.questions].index("trstprl")
    chosen = survey.questions[trust].options[int(own.share_QO[own.question_Q == trust][0].argmax())]
    assert chosen == row["trstprl"]


@needs_ess
@pytest.mark.parametrize("ending", ["tsv", "txt", "parquet", "xlsx", "sav", "dta"])
def test_the_ess_is_the_same_in_other_formats(tmp_path: Path, ending: str) -> None:
    frame = pd.read_csv(ESS / "ess11_respondents.csv.gz")
    path = tmp_path / f"ess.{ending}"
    if ending == "txt":
        frame.to_csv(path, sep=";", decimal=",", encoding="latin-1", index=False)
    elif ending == "tsv":
        frame.to_csv(path, sep="\t", index=False)
    elif ending == "xlsx":
        frame.to_excel(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        getattr(pyreadstat, f"write_{ending}")(frame, path)
    by = ("data.group_by=[cntry,gndr]", "data.weight=anweight")
    other = load_config([*ess(*by), f"data.path={path}"], None).data.read()
    assert other.fingerprint == load_config(ess(*by), None).data.read().fingerprint


def test_effective_number_of_weighted_people(tmp_path: Path, book: Path) -> None:
    frame = persons(4)
    frame[["land", "q1", "w"]] = [["A", 1, 3.0], ["A", 2, 1.0], ["A", 1, 0.0], ["B", 1, 5.0]]
    by = ("data.group_by=land", "data.weight=w", "data.smallest_group=2", "data.questions=[q1]")
    survey = people(tmp_path / "people.csv", frame, book, *by)
    (own,) = survey.answers.values()
    assert own.share_QO.tolist() == [[0.75, 0.25, 0.0]]
    assert own.respondents_Q is not None
    assert own.effective_Q is not None
    assert own.respondents_Q.tolist() == [2]
    assert own.effective_Q.tolist() == pytest.approx([16 / 10])
    assert survey.dropped["person whose weight is 0"] == 1
    assert survey.dropped["group of fewer than 2 persons (data.smallest_group)"] == 1


def test_attributes_side_by_side_share_a_role(tmp_path: Path, book: Path) -> None:
    from plurallm.data.roles import survey_roles

    path = write(persons(), tmp_path / "people.csv")
    overrides = [
        *("data=respondents", f"data.path={path}", f"data.codebook={book}"),
        *("data.group_by=[[land],[gender]]", "training.context_questions=[1,1]"),
        *("training.target_questions=[1,1]", "evaluation.context_questions=1"),
        "data.unseen_questions=0",
    ]
    config = load_config(overrides, None)
    survey = load_survey(config.data)
    assert set(survey.answers) == {
        *("land: España", "land: Norge", "land: Österreich", "gender: Man", "gender: Woman")
    }
    assert survey_roles(survey, config).held_out == ()
    named = [
        "data.train_groups=['land: España','land: Norge']",
        "data.held_out_groups=['gender: Man']",
    ]
    roles = survey_roles(survey, load_config([*overrides, *named], None))
    assert roles.held_out == ("gender: Man",)


def test_points_of_a_scale_without_labels() -> None:
    scale = Variable("x", labels={"0": "Never", "4": "Always", "9": "Refused"})
    assert answer_codes(scale, ["0", "2"]) == {
        **{"0": "0 (Never)", "1": "1", "2": "2", "3": "3", "4": "4 (Always)"}
    }
    assert answer_codes(scale, ["0", "4"]) == {"0": "Never", "4": "Always"}
    assert not conventional("4", ["1", "2", "3"])


def test_import_writes_the_same_survey(
    tmp_path: Path, book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(persons(), tmp_path / "people.sav")
    out = tmp_path / "survey.csv"
    settings = ["data.group_by=[land,gender]", "data.weight=w", f"data.codebook={book}"]
    monkeypatch.setattr("sys.argv", ["plurallm", "import", str(path), str(out), *settings])
    main()
    assert f"written: {out}" in capsys.readouterr().out
    direct, table = survey_of(path, *settings), read_survey(out, "custom")
    for name, own in direct.answers.items():
        other = table.answers[name]
        np.testing.assert_allclose(other.share_QO, own.share_QO, rtol=0, atol=1e-12)
        np.testing.assert_allclose(other.effective_Q, own.effective_Q, rtol=1e-15)
    settings[2] = f"data.codebook={tmp_path / 'survey.codebook.csv'}"
    assert survey_of(path, *settings).fingerprint == direct.fingerprint
    monkeypatch.setattr("sys.argv", ["plurallm", "import", str(path), str(out), *settings])
    with pytest.raises(SystemExit):
        main()
    assert "is there already" in capsys.readouterr().err


def test_draft_codebook_flags_what_is_suspicious(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(2)
    frame = pd.DataFrame(
        {
            "person": range(1000, 1100),
            "pay": [draw.choice([800, 1200, 6666, *range(1500, 1600)]) for _ in range(100)],
            "trust": [draw.choice([*range(11), 77, 88]) for _ in range(100)],
            "often": [draw.choice([1, 2, 3, 4, 5, 6, 7, 9, 77]) for _ in range(100)],
            "box_1": [draw.choice([0, 1]) for _ in range(100)],
            "box_2": [draw.choice([0, 1]) for _ in range(100)],
            "box_3": [draw.choice([0, 1]) for _ in range(100)],
            "why": [f"because of {draw.random():.3f}" for _ in range(100)],
            "weight": [draw.uniform(0.5, 2) for _ in range(100)],
        }
    )
    frame["pay"] = [6666, *frame["pay"][1:]]
    frame.to_csv(tmp_path / "people.csv", index=False)
    out = tmp_path / "draft.csv"
    arguments = ["import", str(tmp_path / "people.csv"), "--draft-codebook", str(out)]
    monkeypatch.setattr("sys.argv", ["plurallm", *arguments])
    main()
    with out.open(encoding="utf-8") as file:
        rows = {row["variable"]: row for row in csv.DictReader(file)}
    assert "identifier" in rows["person"]["note"]
    assert rows["pay"]["missing"] == "6666"
    assert rows["trust"]["missing"] == "77;88"
    assert rows["trust"]["codes"] == "0 to 10"
    assert rows["often"]["missing"] == "9;77"
    assert "one of 3 boxes" in rows["box_2"]["note"]
    assert "open answer" in rows["why"]["note"] or "identifier" in rows["why"]["note"]
    assert "weight" in rows["weight"]["note"]
    with pytest.raises(SurveyError, match="option 0 has no text: write it"):
        survey_of(tmp_path / "people.csv", f"data.codebook={out}", "data.group_by=trust")


def test_check_data_as_json(
    tmp_path: Path, book: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(persons(), tmp_path / "people.dta")
    settings = ["data=respondents", "data.group_by=land", "data.weight=w", f"data.codebook={book}"]
    monkeypatch.setattr("sys.argv", ["plurallm", "check-data", str(path), *settings, "--json"])
    main()
    facts: dict[str, Any] = json.loads(capsys.readouterr().out)
    own = facts["respondents"]
    frame = persons()
    assert own["rows"] == 400
    assert sum(group["persons"] for group in own["groups"].values()) == 400
    weights = frame["w"]
    effect = len(weights) * (weights**2).sum() / weights.sum() ** 2
    assert own["weights"]["design_effect"] == pytest.approx(effect)
    assert own["questions"]["q3"]["empty"] == int(frame["q3"].isna().sum())
    assert own["questions"]["q1"]["dropped"][0] == {
        "code": "7",
        "label": "Refusal",
        "persons": int((frame["q1"] == 7).sum()),
        "reason": "answer with a code that is no answer "
        "(data.non_answers=keep keeps labelled ones)",
    }
    monkeypatch.setattr("sys.argv", ["plurallm", "check-data", str(path), *settings])
    main()
    out = capsys.readouterr().out
    assert "design effect" in out
    assert "7 Refusal" in out


WRONG = {
    "group column": (
        "data.group_by=lnd",
        {},
        "has no column 'lnd', which data.group_by names; near it: land",
    ),
    "no weight column": ("data.weight=v", {}, "has no column 'v', which data.weight names"),
    "negative weight": ("data.weight=w", {"w": -1.0}, "row 3: the weight 'w' is '-1'"),
    "no weight": ("data.weight=w", {"w": None}, "row 3: the weight 'w' is empty"),
    "unknown code": (
        "data.weight=w",
        {"q1": 4.0},
        "row 3: column 'q1' has the code '4', which has no label",
    ),
    "age off scale": (
        "data.bins={age:[15,30]}",
        {"age": 95.0},
        "row 3: column 'age' has the code '95'",
    ),
    "questions": ("data.questions=[q9]", {}, "has no column 'q9', which data.questions names"),
    "one option": ("data.questions=[w]", {}, "question 'w' has fewer than two options"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_named_in_one_line(tmp_path: Path, book: Path, name: str) -> None:
    override, cells, message = WRONG[name]
    frame = persons()
    for column, value in cells.items():
        frame.loc[1, column] = value
    by = [] if "group_by" in override else ["data.group_by=land"]
    by = ["data.group_by=[land,age]"] if "bins" in override else by
    with pytest.raises(SurveyError) as error:
        people(tmp_path / "people.csv", frame, book, *by, override)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_code_without_a_label_can_be_dropped(tmp_path: Path, book: Path) -> None:
    frame = persons()
    frame.loc[1, "q1"] = 4.0
    by = ("data.group_by=land", "data.unlabelled=drop")
    survey = people(tmp_path / "people.csv", frame, book, *by)
    assert survey.dropped["answer with a code that has no label (data.unlabelled=drop)"] == 1


def test_damaged_files_are_named_in_one_line(tmp_path: Path, book: Path) -> None:
    whole = {name: write(persons(), tmp_path / f"a.{name}").read_bytes() for name in ENDINGS}
    for name in ("csv.gz", "parquet", "xlsx", "sav", "zsav", "dta"):
        path = tmp_path / f"cut.{name}"
        path.write_bytes(whole[name][: len(whole[name]) // 2])
        with pytest.raises(SurveyError, match=r"cut\.") as error:
            survey_of(path, f"data.codebook={book}", "data.group_by=land")
        assert "\n" not in str(error.value)
    (tmp_path / "locked.sav").write_bytes(b"ENCRYPTEDSAV" + bytes(99))
    with pytest.raises(SurveyError, match="it is encrypted"):
        survey_of(tmp_path / "locked.sav", "data.group_by=land")
    (tmp_path / "ragged.csv").write_text("a;b\n1;2\n1;2;3\n")
    with pytest.raises(SurveyError, match="Expected 2 columns, got 3"):
        survey_of(tmp_path / "ragged.csv", "data.group_by=a")
    (tmp_path / "twice.csv").write_text("a;a\n1;2\n")
    with pytest.raises(SurveyError, match="'a' stands twice"):
        survey_of(tmp_path / "twice.csv", "data.group_by=a")
    (tmp_path / "old.sas7bdat").write_bytes(b"1")
    with pytest.raises(SurveyError, match=r"a file of respondents ends in \.csv"):
        survey_of(tmp_path / "old.sas7bdat", "data.group_by=a")


def test_an_excel_file_with_two_sheets_needs_a_choice(tmp_path: Path, book: Path) -> None:
    path = write(persons(), tmp_path / "people.xlsx")
    file = openpyxl.load_workbook(path)
    file.create_sheet("Notes")
    file.save(path)
    file.close()
    settings = (f"data.codebook={book}", "data.group_by=land")
    with pytest.raises(SurveyError, match=r"has the sheets Sheet1, Notes: data\.sheet="):
        survey_of(path, *settings)
    assert len(survey_of(path, *settings, "data.sheet=Sheet1").answers) == 3


def test_a_file_without_labels_asks_for_a_codebook(tmp_path: Path) -> None:
    path = write(persons(), tmp_path / "people.csv")
    with pytest.raises(SurveyError, match="no column is a question"):
        survey_of(path, "data.group_by=land")


def test_the_same_person_twice(tmp_path: Path, book: Path) -> None:
    frame = persons()
    frame.loc[5, "id"] = 4.0
    by = ("data.group_by=respondent", "data.respondent_id=id")
    with pytest.raises(SurveyError, match=r"row 6: data\.respondent_id=id is '4', which stands"):
        people(tmp_path / "people.csv", frame, book, *by)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["data.group_by=land", "data.weight=w", "privacy=respondent"],
            "does not go with data.weight",
        ),
        (["data.group_by=[[land],[age]]", "privacy=respondent"], "side by side"),
        (["data.group_by=respondent", "data.weight=w"], "data.weight has no meaning"),
        (["data.group_by=[]"], "data.group_by must be"),
        (["data.group_by=land", "data.bins={age:[1,2]}"], "data.bins.age must be"),
        (["data.group_by=land", "data.smallest_group=0"], "data.smallest_group must be"),
        ([], "data.group_by has no value"),
    ],
)
def test_settings_that_do_not_go_together(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        load_config(["data=respondents", "data.path=/x.csv", *overrides], None)


def test_a_node_reads_its_own_persons(tmp_path: Path, book: Path) -> None:
    from plurallm.federate.node.permission import own_config, own_survey
    from plurallm.federate.node.settings import node_settings

    path = write(persons(), tmp_path / "people.sav")
    given = {
        "survey": str(path),
        "layout": "respondents",
        "groups": '"Norge / Man", "Norge / Woman"',
        "reader": f"'data.group_by=[land,gender]' data.codebook={book}",
    }
    settings = node_settings(given)
    assert settings is not None
    config = own_config(load_config(["data=nodes"], None), settings)
    survey = own_survey(config, settings)
    whole = survey_of(path, "data.group_by=[land,gender]", f"data.codebook={book}")
    assert tuple(survey.answers) == ("Norge / Man", "Norge / Woman")
    assert survey.fingerprints == {name: whole.fingerprints[name] for name in survey.answers}
    with pytest.raises(ConfigError, match=r"reader sets data\.path"):
        node_settings(given | {"reader": "data.path=/etc/passwd"})
    reader = given["reader"] + " data.weight=w"
    weighted = node_settings(given | {"reader": reader, "epsilon": 1})
    assert weighted is not None
    run = load_config(["data=nodes"], None)
    with pytest.raises(ConfigError, match=r"does not go with data\.weight"):
        own_config(run, weighted)
