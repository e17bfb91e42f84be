"""OpinionQA's two layouts, its refusals and its ordinal values."""

import csv
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plurallm.config.compose import load_config
from plurallm.data.formats.opinionqa import with_ordinals
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.non_answers import REASON
from plurallm.data.reading import read_survey
from plurallm.data.roles import assign_roles, count_seen
from plurallm.data.survey import Question, Survey
from plurallm.data.tasks import load_survey

Row = dict[str, Any]
Write = Callable[..., Path]

COUNTS: Row = {
    "wave": "W1",
    "key": "WORRY_W1",
    "attribute": "SEX",
    "group": "Female",
    "question": "Do you worry?",
    "options": ["A lot", "Not at all", "Some", "Refused"],
    "option_ordinal": [1.0, 2.0, 1.5],
    "counts": [10, 20, 10, 60],
    "n": 100,
}
DISTRIBUTION: Row = {
    "key": "WORRY_W1",
    "question": "Do you worry?",
    "references": "['A lot', 'Not at all', 'Some', 'Refused']",
    "qkey": "WORRY_W1",
    "group": "Female",
    "attribute": "SEX",
    "D_H": "[0.25, 0.5, 0.25]",
    "answer": "Some",
}
WORRY = Question("WORRY_W1", "Do you worry?", ("A lot", "Not at all", "Some"), (1.0, 2.0, 1.5))


def shares(survey: Survey, group: str) -> list[list[float]]:
    return survey.answers[group].share_QO.tolist()


# Refusals


def test_counts_leave_out_the_refusals(write_survey: Write) -> None:
    rows = [COUNTS, COUNTS | {"group": "Male", "counts": [0, 3, 1, 0]}]
    survey = read_survey(write_survey(rows), "opinionqa")
    assert survey.questions == (WORRY,)
    assert shares(survey, "Female") == [[0.25, 0.5, 0.25]]
    assert shares(survey, "Male") == [[0, 0.75, 0.25]]
    assert survey.dropped == {REASON: 1}
    assert survey.layout == "OpinionQA, respondents for each option; answers as counts"


@pytest.mark.parametrize(
    "options",
    [
        ["A lot", "Not at all", "Some", "Not sure", "Refused"],
        ["A lot", "Not at all", "Some", "Refused", "Not sure"],
        ["A lot", "Refused", "Not at all", "Some", "Not sure"],
    ],
)
def test_refusals_may_be_several_and_stand_anywhere(
    write_survey: Write, options: list[str]
) -> None:
    counts = {"A lot": 10, "Not at all": 20, "Some": 10, "Not sure": 3, "Refused": 5}
    row = COUNTS | {"options": options, "counts": [counts[option] for option in options]}
    row |= {"option_ordinal": [1.0, 2.0, 1.5]}
    survey = read_survey(write_survey([row]), "opinionqa")
    assert survey.questions == (WORRY,)
    assert shares(survey, "Female") == [[0.25, 0.5, 0.25]]
    row = DISTRIBUTION | {"references": repr(options)}
    survey = read_survey(write_survey([row], "d.csv"), "opinionqa")
    assert survey.questions[0].options == WORRY.options
    assert shares(survey, "Female") == [[0.25, 0.5, 0.25]]


def test_a_group_of_which_all_refused_is_dropped_and_counted(write_survey: Write) -> None:
    rows = [COUNTS, COUNTS | {"group": "Male", "counts": [0, 0, 0, 7]}]
    survey = read_survey(write_survey(rows), "opinionqa")
    assert list(survey.answers) == ["Female"]
    assert survey.dropped == {REASON: 1, "group whose respondents all refused": 1}


# Distributions


@pytest.mark.parametrize("cell", ["[0.25, 0.5, 0.25]", "[0.25 0.5  0.25]", "[0.25 0.5\n 2.5e-01]"])
def test_distributions_are_read_as_lists_and_as_numpy_prints_them(
    write_survey: Write, cell: str
) -> None:
    survey = read_survey(write_survey([DISTRIBUTION | {"D_H": cell}]), "opinionqa")
    assert survey.questions == (Question("WORRY_W1", "Do you worry?", WORRY.options),)
    assert shares(survey, "Female") == [[0.25, 0.5, 0.25]]
    assert survey.layout == "OpinionQA, distributions D_H; answers as shares"


def test_what_opinionqas_notebook_adds_is_used(write_survey: Write) -> None:
    # Its combined table repeats a row for each model, shuffles the references of some, and writes
    # the options behind the question.
    row = DISTRIBUTION | {
        "question": "Do you worry? [A lot/Not at all/Some/Refused]",
        "question_raw": "Do you worry?",
        "ordinal": "[1.0, 2.0, 1.5]",
        "ordinal_refs": "['A lot', 'Not at all', 'Some']",
    }
    shuffled = row | {"references": "['Some', 'Refused', 'A lot', 'Not at all']"}
    survey = read_survey(write_survey([row, row, shuffled]), "opinionqa")
    assert survey.questions == (WORRY,)
    assert survey.dropped == {"row that repeats an earlier one": 2}


# Rows that say the same twice, or another thing


def test_repeated_and_contradictory_rows_are_dropped_and_counted(write_survey: Write) -> None:
    rows = [
        COUNTS,
        COUNTS | {"counts": [1, 2, 1, 0]},  # the same shares
        COUNTS | {"counts": [4, 0, 0, 0]},
        COUNTS | {"question": "Do you not?", "group": "Male"},
        COUNTS | {"options": ["Much", "Not at all", "Some", "Refused"], "group": "Male"},
    ]
    survey = read_survey(write_survey(rows), "opinionqa")
    assert survey.dropped == {
        REASON: 1,
        "row that repeats an earlier one": 1,
        "row that contradicts an earlier one, which is kept": 1,
        "row with another text or options than the first of its key": 2,
    }
    assert shares(survey, "Female") == [[0.25, 0.5, 0.25]]
    assert list(survey.answers) == ["Female"]


# Groups


def test_names_that_attributes_share_carry_theirs(write_survey: Write) -> None:
    names = [("RACE", "Other"), ("POLPARTY", "Other"), ("CITIZEN", "Yes"), ("RACE", "Refused")]
    rows = [COUNTS | {"attribute": attribute, "group": name} for attribute, name in names]
    survey = read_survey(write_survey(rows), "opinionqa")
    assert set(survey.answers) == {
        "RACE Other",
        "POLPARTY Other",
        "CITIZEN Yes",
        "RACE Refused",
    }
    config = load_config(["data.groups=all", "data.held_out_fraction=0.25"], None)
    assert len(assign_roles(dict.fromkeys(survey.answers, 99), config).held_out) == 1


def test_a_name_of_two_attributes_is_refused(write_survey: Write) -> None:
    path = write_survey([COUNTS, COUNTS | {"attribute": "RACE"}])
    with pytest.raises(SurveyError, match=r"row 3: group 'Female' is of attribute 'RACE', but was"):
        read_survey(path, "opinionqa")


def test_gpos_groups_take_part_as_far_as_the_file_has_them(write_survey: Write) -> None:
    groups = ["Female", "Male", "Democrat", "Republican", "Independent"]
    rows = [
        COUNTS | {"key": f"Q{number}", "question": f"{number}?", "group": group, "attribute": group}
        for group in groups
        for number in range(30)
    ]
    overrides = ["data=opinionqa", f"data.path={write_survey(rows)}"]
    config = load_config(overrides, None)
    roles = assign_roles(count_seen(load_survey(config.data), config), config)
    assert sorted(roles.groups) == ["Democrat", "Female", "Male", "Republican"]
    assert len(roles.held_out) == 2  # of 4, the nearest to 40 %
    assert len(roles.absent) == 18
    assert {"Hindu", "White"} < set(roles.absent)
    everyone = load_config([*overrides, "data.groups=all"], None)
    roles = assign_roles(count_seen(load_survey(everyone.data), everyone), everyone)
    assert "Independent" in roles.groups
    assert roles.absent == ()


# Refused rows

REFUSED: dict[str, tuple[Row, str]] = {
    "counts of another length": (COUNTS | {"counts": [1, 2, 3]}, "3 counts for 4 options"),
    "ordinal values without options": (
        COUNTS | {"option_ordinal": [1, 2, 3, 4]},
        "4 shares or ordinal values for the answers ['A lot'",
    ),
    "negative count": (COUNTS | {"counts": [-1, 2, 3, 0]}, "has the share or count -1"),
    "count as text": (COUNTS | {"counts": ["1", 2, 3, 0]}, "has '1' where a number"),
    "other ordinal values": (
        COUNTS | {"group": "Male", "option_ordinal": [3, 2, 1]},
        "has another text, options or ordinal than before",
    ),
    "no key": (COUNTS | {"key": " "}, "no question_id"),
    "no group": (COUNTS | {"group": ""}, "no group"),
    "too many shares": (DISTRIBUTION | {"D_H": "[0.2, 0.2, 0.2, 0.4]"}, "4 shares or ordinal"),
    "shares of another sum": (DISTRIBUTION | {"D_H": "[0.2, 0.2, 0.2]"}, "sum to 0.6 instead of 1"),
    "words": (DISTRIBUTION | {"D_H": "[much]"}, "column 'D_H' is not a list of numbers"),
    "nan": (DISTRIBUTION | {"D_H": "[nan, 0.5, 0.5]"}, "has the share or count nan"),
    "code": (DISTRIBUTION | {"references": "print('x')"}, "'references' is not a Python list"),
}


@pytest.mark.parametrize("cell", ["[nan nan nan]", "[nan, nan, nan]", "[]", "", "nan"])
def test_a_distribution_of_nobody_is_dropped_and_counted(write_survey: Write, cell: str) -> None:
    rows = [DISTRIBUTION, DISTRIBUTION | {"group": "Male", "D_H": cell}]
    survey = read_survey(write_survey(rows), "opinionqa")
    assert list(survey.answers) == ["Female"]
    assert survey.dropped == {"group whose respondents all refused": 1}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_is_refused_with_file_row_and_reason(write_survey: Write, case: str) -> None:
    bad, reason = REFUSED[case]
    path = write_survey([COUNTS if "counts" in bad else DISTRIBUTION, bad])
    with pytest.raises(SurveyError) as refusal:
        read_survey(path, "opinionqa")
    assert str(refusal.value).startswith(f"{path}, row 3: ")
    assert reason in str(refusal.value)


def test_a_missing_column_is_named_by_the_nearer_layout(write_survey: Write) -> None:
    for row, column in ((COUNTS, "option_ordinal"), (DISTRIBUTION, "D_H")):
        path = write_survey([{key: cell for key, cell in row.items() if key != column}])
        with pytest.raises(SurveyError, match=f"column '{column}' is missing; the columns are "):
            read_survey(path, "opinionqa")


def test_another_layout_is_recognised_in_the_message(write_survey: Write) -> None:
    with pytest.raises(SurveyError, match=r"is missing; .*; they are those of data=opinionqa$"):
        read_survey(write_survey([COUNTS]), "custom")
    own = {"question_id": "q", "question": "?", "options": [], "group": "A", "shares": []}
    with pytest.raises(SurveyError, match=r"is missing; .*; they are those of data=custom$"):
        read_survey(write_survey([own]), "opinionqa")


# Ordinal values from elsewhere


def write_info(path: Path, rows: Sequence[tuple[str, Any]]) -> Path:
    """Write as much of ``info.csv`` as counts: keys and Python lists of options and values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["", "key", "references", "option_ordinal"])
        writer.writerows(
            [number, key, DISTRIBUTION["references"], str(ordinal)]
            for number, (key, ordinal) in enumerate(rows)
        )
    return path


def test_ordinal_values_come_from_another_table(tmp_path: Path, write_survey: Write) -> None:
    rows = [DISTRIBUTION, DISTRIBUTION | {"qkey": "OTHER_W1"}]
    path = write_survey(rows)
    info = write_info(tmp_path / "info.csv", [("WORRY_W1", [1.0, 2.0, 1.5]), ("THIRD_W1", [1])])
    other, worry = with_ordinals(read_survey(path, "opinionqa"), info).questions
    assert worry == WORRY
    assert other.ordinal is None
    overrides = ["data=opinionqa", f"data.path={path}"]
    with pytest.raises(ValueError, match=r"survey\.csv has none: give data\.ordinals=FILE"):
        load_survey(load_config(overrides, None).data)
    assert (
        len(
            load_survey(
                load_config([*overrides, "data.distance=jensen_shannon"], None).data
            ).questions
        )
        == 2
    )
    survey = load_survey(load_config([*overrides, f"data.ordinals={info}"], None).data)
    assert survey.questions == (WORRY,)
    assert survey.dropped == {"question without ordinal values": 1}


def test_a_counts_file_has_ordinal_values_for_another(write_survey: Write) -> None:
    rows = [COUNTS, COUNTS | {"group": "Male"}]
    counts, weighted = write_survey(rows), write_survey([DISTRIBUTION], "d.csv")
    assert with_ordinals(read_survey(weighted, "opinionqa"), counts).questions == (WORRY,)


REFUSED_ORDINALS: dict[str, tuple[list[tuple[str, Any]], str]] = {
    "no list": ([("WORRY_W1", "1, 2")], "row 2: column 'option_ordinal' is not JSON"),
    "twice": (
        [("WORRY_W1", [1, 2, 3]), ("WORRY_W1", [3, 2, 1])],
        "row 3: key 'WORRY_W1' had other ordinal values before",
    ),
    "too short": (
        [("WORRY_W1", [1, 2])],
        "'WORRY_W1' has the options ['A lot', 'Not at all', 'Some'], but",
    ),
    "words": ([("WORRY_W1", json.dumps(["a", "b", "c"]))], "could not convert"),
}


@pytest.mark.parametrize("case", REFUSED_ORDINALS)
def test_bad_ordinal_values_are_refused(tmp_path: Path, write_survey: Write, case: str) -> None:
    rows, reason = REFUSED_ORDINALS[case]
    survey = read_survey(write_survey([DISTRIBUTION]), "opinionqa")
    info = write_info(tmp_path / "info.csv", rows)
    with pytest.raises(SurveyError) as refusal:
        with_ordinals(survey, info)
    assert str(refusal.value).startswith(str(info))
    assert reason in str(refusal.value)
    with pytest.raises(SurveyError, match="columns key, option_ordinal"):
        with_ordinals(survey, write_survey([{"qkey": "A"}], "other.csv"))


@pytest.mark.parametrize("column", ["references", "options"])
@pytest.mark.parametrize("order", list(itertools.permutations(("A lot", "Not at all", "Some"))))
def test_ordinal_values_go_to_options_by_their_text(
    write_survey: Write, order: tuple[str, ...], column: str
) -> None:
    value = {"A lot": 1.0, "Not at all": 2.0, "Some": 1.5}
    names: object = [*order, "Refused"]
    info = write_survey(
        [
            {
                "key": "WORRY_W1",
                column: str(names) if column == "references" else names,
                "option_ordinal": [value[name] for name in order],
            }
        ],
        "info.csv",
    )
    survey = read_survey(write_survey([DISTRIBUTION]), "opinionqa")
    assert with_ordinals(survey, info).questions == (WORRY,)


def test_ordinal_values_without_the_texts_of_their_options_are_refused(
    write_survey: Write,
) -> None:
    survey = read_survey(write_survey([DISTRIBUTION]), "opinionqa")
    info = write_survey([{"key": "WORRY_W1", "option_ordinal": [1, 2, 1.5]}], "info.csv")
    with pytest.raises(SurveyError, match="references or options, which name the option"):
        with_ordinals(survey, info)


# Real data


@pytest.fixture
def real() -> Path:
    project = Path(__file__).resolve().parent.parent
    folder = project / os.environ.get("PLURALLM_TEST_DATA", "../shared/data") / "opinionqa"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set PLURALLM_TEST_DATA to the folder of the test data")
    return folder.resolve()


def test_the_development_files_read_whole_and_name_questions_alike(real: Path) -> None:
    counts = real / "oqa_counts_disagreement500.csv.gz"
    weighted = real / "oqa_weighted_DH_party_income_494q.csv.gz"
    overrides = ["data=opinionqa", f"data.path={counts}"]
    config = load_config(overrides, None)
    survey = load_survey(config.data)
    assert len(survey.questions) == 486
    assert survey.dropped == {REASON: 507, "question whose ordinal values are all equal": 8}
    roles = assign_roles(count_seen(survey, config), config)
    assert (len(roles.train), len(roles.held_out), len(roles.absent)) == (5, 3, 14)
    other = load_survey(
        load_config(
            ["data=opinionqa", f"data.path={weighted}", f"data.ordinals={counts}"], None
        ).data
    )
    assert {question.id for question in other.questions} == {q.id for q in survey.questions}
    assert other.dropped == {
        REASON: 1,  # "Does not apply"; refusals are not in these distributions
        "row with another text or options than the first of its key": 20,
        "question whose ordinal values are all equal": 8,
    }
    # The same people, unweighted and weighted: close, and in the same order of options.
    by_key = {q.id: number for number, q in enumerate(other.questions)}
    ours, theirs = survey.answers["Democrat"], other.answers["Democrat"]
    row = {number: index for index, number in enumerate(theirs.question_Q.tolist())}
    gaps = [
        np.abs(ours.share_QO[index, :3] - theirs.share_QO[row[number], :3]).max()
        for index, position in enumerate(ours.question_Q.tolist())
        if (number := by_key[survey.questions[position].id]) in row
    ]
    assert len(gaps) == 485
    assert float(np.mean(gaps)) < 0.05
