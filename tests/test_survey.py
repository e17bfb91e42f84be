"""Survey files: every layout and spelling that is read, and every refusal."""

import csv
import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from plurallm.config.compose import load_config
from plurallm.config.surveys import DELIMITERS
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label, normal_form
from plurallm.data.reading import read_survey as read_as_told
from plurallm.data.survey import Answers, Question, Survey
from plurallm.data.tasks import load_survey

Row = dict[str, Any]
Write = Callable[..., Path]

read_survey = partial(read_as_told, non_answers="keep")
"""As a file holds it; what is no answer is tested in test_non_answers."""


AGREE: Row = {
    "question_id": "q1",
    "question": "Do you agree?",
    "options": ["Yes", "No", "Don't know"],
    "group": "North",
    "shares": [0.25, 0.5, 0.25],
}
TRUST: Row = {
    "question_id": "q2",
    "question": 'How far, in "your" words, do you\ntrust them?',
    "options": ["Much", "Little"],
    "group": "North",
    "shares": [0.125, 0.875],
}
SOUTH: Row = {**AGREE, "group": "South", "shares": [1, 0, 0]}


def without(row: Row, *columns: str) -> Row:
    return {column: cell for column, cell in row.items() if column not in columns}


def check_three_rows(survey: Survey) -> None:
    """What ``AGREE``, ``TRUST`` and ``SOUTH`` say."""
    assert survey.questions == (
        Question("q1", "Do you agree?", ("Yes", "No", "Don't know")),
        Question("q2", 'How far, in "your" words, do you\ntrust them?', ("Much", "Little")),
    )
    assert list(survey.answers) == ["North", "South"]
    north, south = survey.answers.values()
    assert north.question_Q.tolist() == [0, 1]
    assert north.share_QO.tolist() == [[0.25, 0.5, 0.25], [0.125, 0.875, 0.0]]
    assert south.question_Q.tolist() == [0]
    assert south.share_QO.tolist() == [[1.0, 0.0, 0.0]]
    assert survey.dropped == {}


# Our own format


@pytest.mark.parametrize("name", ["survey.csv", "survey.csv.gz"])
def test_csv_is_read_plain_and_gzipped(write_survey: Write, name: str) -> None:
    path = write_survey([AGREE, TRUST, SOUTH], name)
    survey = read_survey(path, "custom")
    check_three_rows(survey)
    assert survey.source == str(path)


def test_a_byte_order_mark_is_no_part_of_the_first_column(write_survey: Write) -> None:
    path = write_survey([AGREE, TRUST, SOUTH])
    content = b"\xef\xbb\xbf" + path.read_bytes()
    path.write_bytes(content)
    check_three_rows(read_survey(path, "custom"))
    zipped = path.with_suffix(".csv.gz")
    zipped.write_bytes(gzip.compress(content))
    check_three_rows(read_survey(zipped, "custom"))


@pytest.mark.parametrize("lists", ["json", "native"])
def test_parquet_is_read_with_json_and_with_native_lists(tmp_path: Path, lists: str) -> None:
    rows = [dict(row) for row in (AGREE, TRUST, SOUTH)]
    if lists == "json":
        rows = [
            {key: json.dumps(cell) if isinstance(cell, list) else cell for key, cell in row.items()}
            for row in rows
        ]
    else:
        rows = [row | {"shares": [float(share) for share in row["shares"]]} for row in rows]
    path = tmp_path / "survey.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    check_three_rows(read_survey(path, "custom"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_counts_become_shares(tmp_path: Path, write_survey: Write, suffix: str) -> None:
    rows = [
        without(AGREE, "shares") | {"counts": [100, 200, 100]},
        without(TRUST, "shares") | {"counts": [0.5, 3.5]},  # weighted respondents
    ]
    path = tmp_path / "survey.parquet"
    if suffix == "csv":
        path = write_survey(rows)
    else:
        native = [row | {"counts": [float(count) for count in row["counts"]]} for row in rows]
        parquet.write_table(pyarrow.Table.from_pylist(native), path)
    shares = read_survey(path, "custom").answers["North"].share_QO
    assert shares.tolist() == [[0.25, 0.5, 0.25], [0.125, 0.875, 0.0]]


def test_shares_and_counts_may_mix_by_row(write_survey: Write) -> None:
    rows = [AGREE | {"counts": ""}, without(SOUTH, "shares") | {"shares": "", "counts": [0, 3, 1]}]
    survey = read_survey(write_survey(rows), "custom")
    assert survey.answers["South"].share_QO.tolist() == [[0, 0.75, 0.25]]


def test_an_ordinal_that_is_no_number_and_another_kind_of_file_are_refused(
    tmp_path: Path, write_survey: Write
) -> None:
    row = {"question_id": "q", "question": "Q?", "options": ["a", "b"], "group": "G"}
    with pytest.raises(SurveyError, match=r"row 2: ordinal has a value that is no number"):
        read_survey(write_survey([{**row, "shares": [0.5, 0.5], "ordinal": [1, None]}]), "custom")
    (tmp_path / "survey.xlsx").write_bytes(b"PK")
    with pytest.raises(SurveyError, match=r"survey\.xlsx: a survey file ends in \.csv"):
        read_survey(tmp_path / "survey.xlsx", "custom")


def test_ordinal_values_are_kept_where_there_are_any(write_survey: Write) -> None:
    rows = [AGREE | {"ordinal": ""}, TRUST | {"ordinal": [1, 2.5]}]
    agree, trust = read_survey(write_survey(rows), "custom").questions
    assert agree.ordinal is None
    assert trust.ordinal == (1.0, 2.5)


def test_rounded_shares_are_normalised(write_survey: Write) -> None:
    survey = read_survey(write_survey([AGREE | {"shares": [0.33, 0.33, 0.335]}]), "custom")
    (share_O,) = survey.answers["North"].share_QO
    assert share_O.sum() == pytest.approx(1, abs=1e-15)
    assert share_O == pytest.approx(np.array([0.33, 0.33, 0.335]) / 0.995)


def test_numbers_as_options_read_like_their_text(write_survey: Write) -> None:
    row = AGREE | {"options": [1, 2.0, 2.5], "question_id": 7}
    (question,) = read_survey(write_survey([row]), "custom").questions
    assert question.options == ("1", "2", "2.5")
    assert question.id == "7"


def test_large_numbers_as_options_keep_their_digits(write_survey: Write) -> None:
    row = AGREE | {"options": [1000000, 1000001, 0.12345678]}
    (question,) = read_survey(write_survey([row]), "custom").questions
    assert question.options == ("1000000", "1000001", "0.12345678")


def test_space_around_names_and_other_columns_do_not_matter(write_survey: Write) -> None:
    rows = [AGREE | {"wave": "3"}, SOUTH | {"group": " South  ", "question_id": "q1 ", "wave": ""}]
    survey = read_survey(write_survey(rows), "custom")
    assert list(survey.answers) == ["North", "South"]
    assert len(survey.questions) == 1


def test_questions_keep_the_order_of_the_file_and_positions_increase(write_survey: Write) -> None:
    rows = [AGREE, TRUST, TRUST | {"group": "South"}, SOUTH]
    survey = read_survey(write_survey(rows), "custom")
    assert [question.id for question in survey.questions] == ["q1", "q2"]
    assert survey.answers["South"].question_Q.tolist() == [0, 1]
    assert survey.answers["South"].share_QO.tolist() == [[1, 0, 0], [0.125, 0.875, 0]]


REFUSED_ROWS: dict[str, tuple[Row, str]] = {
    "negative share": (AGREE | {"shares": [-0.25, 1, 0.25]}, "'West' has the share or count -0.25"),
    "NaN": (AGREE | {"shares": "[NaN, 0.5, 0.5]"}, "'West' has the share or count nan"),
    "infinity": (AGREE | {"shares": "[Infinity, 0, 0]"}, "'West' has the share or count inf"),
    "null share": (AGREE | {"shares": [None, 0.5, 0.5]}, "'West' has None where a number"),
    "text as share": (AGREE | {"shares": ["0.5", 0.5, 0]}, "'West' has '0.5' where a number"),
    "truth as share": (AGREE | {"shares": [True, 0, 0]}, "'West' has True where a number"),
    "too few shares": (AGREE | {"shares": [0.5, 0.5]}, "'West' has 2 shares or counts for 3"),
    "too many shares": (AGREE | {"shares": [0, 0, 0.5, 0.5]}, "'West' has 4 shares or counts"),
    "sum below 1": (AGREE | {"shares": [0.25, 0.25, 0.25]}, "'West' sum to 0.75 instead of 1"),
    "percent": (AGREE | {"shares": [25, 50, 25]}, "'West' sum to 100 instead of 1"),
    "zeros": (AGREE | {"shares": [0, 0, 0]}, "'West' sum to 0 instead of 1"),
    "no counts": (
        without(AGREE, "shares") | {"shares": "", "counts": [0, 0, 0]},
        "counts of group 'West' sum to zero",
    ),
    "endless count": (
        without(AGREE, "shares") | {"shares": "", "counts": "[1" + "0" * 400 + ", 1, 1]"},
        "'West'",
    ),
    "counts beyond the largest number": (
        without(AGREE, "shares") | {"shares": "", "counts": "[1e308, 1e308, 1e308]"},
        "'West'",
    ),
    "both": (AGREE | {"counts": [1, 2, 1]}, "exactly one of the columns 'shares' and 'counts'"),
    "neither": (AGREE | {"shares": ""}, "exactly one of the columns 'shares' and 'counts'"),
    "no JSON": (AGREE | {"shares": "0.25;0.5;0.25"}, "column 'shares' is not JSON"),
    "single quotes": (AGREE | {"options": "['Yes', 'No', '?']"}, "column 'options' is not JSON"),
    "deep JSON": (AGREE | {"shares": "[" * 100_000}, "column 'shares'"),
    "digits without end": (AGREE | {"shares": f"[{'1' * 5000}]"}, "column 'shares'"),
    "no list": (AGREE | {"shares": {"Yes": 1}}, "column 'shares' is not a list"),
    "text as list": (AGREE | {"options": json.dumps("Yes")}, "column 'options' is not a list"),
    "no group": (AGREE | {"group": "  "}, "no group"),
    "no question_id": (AGREE | {"question_id": " "}, "no question_id"),
    "no text": (AGREE | {"question_id": "q9", "question": " "}, "'q9' has no text"),
    "one option": (
        AGREE | {"question_id": "q9", "options": ["Yes"], "shares": [1]},
        "'q9' has fewer than two options",
    ),
    "no option": (
        AGREE | {"question_id": "q9", "options": [], "shares": []},
        "'q9' has fewer than two options",
    ),
    "option twice": (
        AGREE | {"question_id": "q9", "options": ["Yes", "No", "Yes "]},
        "'q9' lists an option twice",
    ),
    "empty option": (
        AGREE | {"question_id": "q9", "options": ["Yes", "No", " "]},
        "'q9' has an option without text",
    ),
    "null option": (AGREE | {"question_id": "q9", "options": ["Yes", "No", None]}, "option"),
    "list as option": (AGREE | {"question_id": "q9", "options": ["Yes", "No", []]}, "option"),
    "other text": (AGREE | {"question": "Do you?"}, "'q1' has another text, options or ordinal"),
    "other options": (AGREE | {"options": ["Y", "N", "?"]}, "'q1' has another text, options"),
    "other order": (
        AGREE | {"options": ["No", "Yes", "Don't know"]},
        "'q1' has another text, options",
    ),
    "other ordinal": (AGREE | {"ordinal": [1, 2, 3]}, "'q1' has another text, options or ordinal"),
    "short ordinal": (
        AGREE | {"question_id": "q9", "ordinal": [1, 2]},
        "'q9' has 3 options but 2 ordinal values",
    ),
    "ordinal of words": (AGREE | {"question_id": "q9", "ordinal": ["low", "mid", "top"]}, "low"),
    "ordinal null": (AGREE | {"question_id": "q9", "ordinal": [1, 2, None]}, "None"),
    "ordinal NaN": (AGREE | {"question_id": "q9", "ordinal": "[1, 2, NaN]"}, "nan"),
}


@pytest.mark.parametrize("case", REFUSED_ROWS)
def test_a_bad_row_is_refused_with_file_row_and_reason(write_survey: Write, case: str) -> None:
    bad, reason = REFUSED_ROWS[case]
    row = without(bad, "group") | {"group": bad["group"].replace("North", "West")}
    # A good row before, so that the number of the row means something.
    path = write_survey([AGREE | {column: "" for column in row if column not in AGREE}, row])
    with pytest.raises(SurveyError) as refusal:
        read_survey(path, "custom")
    assert str(refusal.value).startswith(f"{path}, row 3: ")
    assert reason in str(refusal.value)


def test_a_repeated_answer_is_refused(write_survey: Write) -> None:
    path = write_survey([AGREE, SOUTH, AGREE])
    with pytest.raises(SurveyError, match=r"row 4: group 'North' has answered .*'q1' before"):
        read_survey(path, "custom")


def test_rows_are_counted_in_lines_of_the_file(write_survey: Write) -> None:
    path = write_survey([AGREE, TRUST, SOUTH | {"shares": "?"}])  # TRUST's text takes two lines
    with pytest.raises(SurveyError, match=r"row 5: column 'shares' is not JSON"):
        read_survey(path, "custom")


@pytest.mark.parametrize("column", ["question_id", "question", "options", "group"])
def test_a_missing_column_is_named(write_survey: Write, column: str) -> None:
    path = write_survey([without(AGREE, column)])
    with pytest.raises(SurveyError, match=rf"column '{column}' is missing; the columns are") as e:
        read_survey(path, "custom")
    assert str(path) in str(e.value)
    assert "shares" in str(e.value)


def test_neither_shares_nor_counts_as_columns(write_survey: Write) -> None:
    with pytest.raises(SurveyError, match=r"row 2: exactly one of the columns 'shares' and"):
        read_survey(write_survey([without(AGREE, "shares")]), "custom")


def middle_flipped(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]


REFUSED_FILES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "a cell too few": ("a.csv", lambda content: content + b"q7,Why?\r\n", "row 5: it has not"),
    "a cell too many": (
        "a.csv",
        lambda content: content.replace(b"North", b"North,West", 1),
        "row 2: it has not as many cells as the header",
    ),
    "Latin-1": (
        "a.csv",
        lambda content: content.replace(b"North", "Süd".encode("latin-1")),
        "not in UTF-8 but, it seems, in cp1252 (Windows-1252, Latin-1): give data.encoding=cp1252",
    ),
    "UTF-16": (
        "a.csv",
        lambda content: content.decode().encode("utf-16"),
        "give data.encoding=utf-16",
    ),
    "gzip cut off": ("a.csv.gz", lambda content: content[:-20], "not a readable CSV file"),
    "gzip damaged": (  # the first byte after the header: no such kind of block
        "a.csv.gz",
        lambda content: content[:10] + b"\xff" + content[11:],
        "not a readable CSV file",
    ),
    "gzip with another sum": (
        "a.csv.gz",
        lambda content: content[:-8] + bytes(4) + content[-4:],
        "not a readable CSV file",
    ),
    "gzip in name only": ("a.csv.gz", gzip.decompress, "not a readable CSV file"),
    "empty": ("a.csv", lambda content: b"", "no usable row"),
    "header only": ("a.csv", lambda content: content.splitlines()[0], "no usable row"),
    "parquet in name only": ("a.parquet", lambda content: content, "not a parquet file"),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_a_bad_file_is_refused_by_name(write_survey: Write, case: str) -> None:
    name, change, reason = REFUSED_FILES[case]
    path = write_survey([AGREE, SOUTH, AGREE | {"group": "East"}], name)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SurveyError) as refusal:
        read_survey(path, "custom")
    assert str(path) in str(refusal.value)
    assert reason in str(refusal.value)


@pytest.mark.parametrize("change", [middle_flipped, lambda content: content[:-10]])
def test_a_damaged_parquet_file_is_refused_by_name(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "survey.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([dict(AGREE)] * 3), path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(SurveyError, match=re.escape(str(path))):
        read_survey(path, "custom")


def test_a_parquet_row_is_refused_by_number(tmp_path: Path) -> None:
    path = tmp_path / "survey.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([dict(AGREE), dict(AGREE)]), path)
    with pytest.raises(SurveyError, match=r"survey.parquet, row 2: group 'North' has answered"):
        read_survey(path, "custom")


@pytest.mark.parametrize("layout", ["custom", "globalopinionqa"])
def test_a_missing_file_is_named_with_the_key(tmp_path: Path, layout: str) -> None:
    for path in (tmp_path / "absent.csv", tmp_path):
        with pytest.raises(SurveyError, match=r"(no such file|is a folder); data\.path") as refusal:
            read_survey(path, layout)
        assert str(path) in str(refusal.value)


text = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\r\t"), min_size=1
).filter(lambda drawn: bool(drawn.strip()))


name = text.map(label).filter(bool)  # one line


@st.composite
def surveys(draw: st.DrawFn) -> list[tuple[Question, dict[str, list[int]]]]:
    groups = draw(st.lists(name, min_size=1, max_size=3, unique_by=normal_form))
    ids = draw(st.lists(name, min_size=1, max_size=4, unique=True))
    asked = []
    for id_ in ids:
        options = draw(st.lists(text.map(str.strip), min_size=2, max_size=5, unique=True))
        question = Question(id_, draw(text).strip(), tuple(options))
        counts = st.lists(st.integers(0, 1000), min_size=len(options), max_size=len(options))
        answered = draw(st.sets(st.sampled_from(groups), min_size=1))
        asked.append((question, {group: draw(counts.filter(any)) for group in sorted(answered)}))
    return asked


@given(asked=surveys(), column=st.sampled_from(["shares", "counts"]), zipped=st.booleans())
def test_any_survey_survives_the_way_through_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[tuple[Question, dict[str, list[int]]]],
    column: str,
    zipped: bool,
) -> None:
    name = "survey.csv.gz" if zipped else "survey.csv"
    path = tmp_path_factory.getbasetemp() / f"round-trip-{name}"
    opener: Any = gzip.open if zipped else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "question", "options", "group", column])
        for question, answers in asked:
            for group, counts in answers.items():
                shares = [count / sum(counts) for count in counts]
                cells = (question.options, group, counts if column == "counts" else shares)
                writer.writerow(
                    [question.id, question.text, json.dumps(cells[0]), group, json.dumps(cells[2])]
                )
    survey = read_survey(path, "custom")
    asked = sorted(asked, key=lambda each: each[0].id)
    assert survey.questions == tuple(question for question, _ in asked)
    assert set(survey.answers) == {group for _, answers in asked for group in answers}
    for group, read in survey.answers.items():
        expected = [answers[group] for _, answers in asked if group in answers]
        assert len(read.question_Q) == len(expected)
        for share_O, counts in zip(read.share_QO, expected, strict=True):
            whole = np.zeros(len(share_O))
            whole[: len(counts)] = np.array(counts) / sum(counts)
            np.testing.assert_allclose(share_O, whole, rtol=0, atol=1e-15)


# GlobalOpinionQA

OPTIONS = ["Good", "Bad", "DK/Refused"]


def write_opinions(
    path: Path, rows: Sequence[tuple[str, Mapping[str, Sequence[float]] | str, Sequence[Any] | str]]
) -> Path:
    """Write the original layout: lists and dictionaries as Python prints them."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "selections", "options"])
        for question, selections, options in rows:
            if not isinstance(selections, str):
                selections = f"defaultdict(<class 'list'>, {dict(selections)!r})"
            writer.writerow([question, selections, str(options)])
    return path


def answers_by_text(survey: Survey, group: str) -> dict[str, list[float]]:
    own = survey.answers[group]
    asked = [survey.questions[number] for number in own.question_Q]
    return {
        question.text: share_O[: len(question.options)].tolist()
        for question, share_O in zip(asked, own.share_QO, strict=True)
    }


@pytest.mark.parametrize("name", ["opinions.csv", "opinions.csv.gz"])
def test_the_original_layout_is_read(tmp_path: Path, name: str) -> None:
    rows = [
        ("Is it good?", {"Chad": [0.5, 0.25, 0.25], "Peru": [1.0, 0.0, 0.0]}, OPTIONS),
        ("“Quoted”, isn't it?", {"Peru": [0.75, 0.25]}, ["It's so", 'The "other"']),
        ("Plain dictionary", "{'Chad': [0, 1]}", ["A", "B"]),
    ]
    survey = read_survey(write_opinions(tmp_path / name, rows), "globalopinionqa")
    options = {question.text: question.options for question in survey.questions}
    assert options.keys() == {row[0] for row in rows}
    assert options["“Quoted”, isn't it?"] == ("It's so", 'The "other"')
    assert answers_by_text(survey, "Chad") == {
        "Is it good?": [0.5, 0.25, 0.25],
        "Plain dictionary": [0, 1],
    }
    assert answers_by_text(survey, "Peru") == {
        "Is it good?": [1, 0, 0],
        "“Quoted”, isn't it?": [0.75, 0.25],
    }
    assert survey.dropped == {}


def test_what_the_file_is_known_to_lack_is_dropped_and_counted(tmp_path: Path) -> None:
    rows = [
        ("Nobody was asked", {}, OPTIONS),
        ("Nor here", "{}", OPTIONS),
        ("", {"Chad": [1.0, 0.0, 0.0]}, OPTIONS),
        ("Is it good?", {"Chad": [0.0, 0.0, 0.0], "Peru": [0.5, 0.5, 0.0]}, OPTIONS),
    ]
    survey = read_survey(write_opinions(tmp_path / "o.csv", rows), "globalopinionqa")
    assert survey.dropped == {
        "row without a country": 2,
        "row without question text": 1,
        "country whose shares sum to zero": 1,
    }
    assert [question.text for question in survey.questions] == ["Is it good?"]
    assert list(survey.answers) == ["Peru"]


def test_numbers_of_a_scale_become_texts(tmp_path: Path) -> None:
    rows = [("From 1 to 10?", {"Chad": [0.5, 0.25, 0.25]}, [1.0, 2.5, "10 - best"])]
    survey = read_survey(write_opinions(tmp_path / "o.csv", rows), "globalopinionqa")
    assert survey.questions[0].options == ("1", "2.5", "10 - best")


def test_a_repeated_question_is_one_whose_first_answers_count(tmp_path: Path) -> None:
    rows = [
        ("Is it good?", {"Chad": [1.0, 0.0, 0.0]}, OPTIONS),
        ("Is it good?", {"Chad": [0.0, 1.0, 0.0], "Peru": [0.0, 0.0, 1.0]}, OPTIONS),
        ("Is it good?", {"Chad": [0.0, 1.0]}, ["Good", "Bad"]),  # other options: another question
    ]
    survey = read_survey(write_opinions(tmp_path / "o.csv", rows), "globalopinionqa")
    assert len(survey.questions) == 2
    assert len({question.id for question in survey.questions}) == 2
    assert sorted(survey.answers["Chad"].share_QO.tolist()) == [[0, 1, 0], [1, 0, 0]]
    assert survey.answers["Peru"].share_QO.tolist() == [[0, 0, 1]]
    assert survey.dropped == {"country that already answered the question": 1}


def test_names_that_differ_in_space_only_are_one_country(tmp_path: Path) -> None:
    selections = {"Chad": [1.0, 0.0, 0.0], "Chad ": [0.0, 1.0, 0.0]}
    path = write_opinions(tmp_path / "o.csv", [("Is it good?", selections, OPTIONS)])
    survey = read_survey(path, "globalopinionqa")
    assert survey.answers["Chad"].share_QO.tolist() == [[1, 0, 0]]
    assert survey.dropped == {"country that already answered the question": 1}


def test_a_questions_identity_is_its_text_and_options(tmp_path: Path) -> None:
    row = ("Is it good?", {"Chad": [1.0, 0.0, 0.0]}, OPTIONS)
    other = ("Another", {"Peru": [1.0, 0.0]}, ["A", "B"])
    one = read_survey(write_opinions(tmp_path / "1.csv", [row, other]), "globalopinionqa")
    two = read_survey(write_opinions(tmp_path / "2.csv", [other, row]), "globalopinionqa")
    assert {q.text: q.id for q in one.questions} == {q.text: q.id for q in two.questions}


REFUSED_OPINIONS: dict[str, tuple[Any, Any, str]] = {
    "negative share": ({"Chad": [-0.5, 1.5, 0.0]}, OPTIONS, "'Chad' has the share or count -0.5"),
    "NaN": ("{'Chad': [nan, 1.0, 0.0]}", OPTIONS, "'selections' is not a Python dict"),
    "endless": ("{'Chad': [1e999, 1.0, 0.0]}", OPTIONS, "'Chad' has the share or count inf"),
    "wrong length": ({"Chad": [0.5, 0.5]}, OPTIONS, "'Chad' has 2 shares or counts for 3"),
    "wrong sum": ({"Chad": [0.5, 0.1, 0.1]}, OPTIONS, "'Chad' sum to 0.7 instead of 1"),
    "no shares": ({"Chad": []}, OPTIONS, "'Chad' has 0 shares"),
    "no list": ("{'Chad': 1.0}", OPTIONS, "'Chad' are not a list"),
    "no dictionary": ("[0.5, 0.5]", OPTIONS, "'selections' is not a Python dict"),
    "no literal": ("{'Chad': [0.5,", OPTIONS, "'selections' is not a Python dict"),
    "list as country": ("{['Chad']: [0.5, 0.5, 0.0]}", OPTIONS, "'selections' is not a Python"),
    "deep literal": ("[" * 5000, OPTIONS, "'selections' is not a Python dict"),
    "no country's name": ({" ": [0.5, 0.5, 0.0]}, OPTIONS, "no group"),
    "options no list": ({"Chad": [0.5, 0.5, 0.0]}, "Good, Bad", "'options' is not a Python list"),
    "one option": ({"Chad": [1.0]}, ["Good"], "has fewer than two options"),
    "option twice": ({"Chad": [0.5, 0.5]}, ["Good", "Good"], "lists an option twice"),
}


@pytest.mark.parametrize("case", REFUSED_OPINIONS)
def test_a_bad_row_of_the_original_layout_is_refused(tmp_path: Path, case: str) -> None:
    selections, options, reason = REFUSED_OPINIONS[case]
    rows = [("Is it good?", {"Chad": [1.0, 0.0, 0.0]}, OPTIONS), ("New?", selections, options)]
    path = write_opinions(tmp_path / "o.csv", rows)
    with pytest.raises(SurveyError) as refusal:
        read_survey(path, "globalopinionqa")
    assert str(refusal.value).startswith(f"{path}, row 3: ")
    assert reason in str(refusal.value)


@pytest.mark.parametrize("column", ["question", "selections", "options"])
def test_a_missing_column_of_the_original_layout_is_named(tmp_path: Path, column: str) -> None:
    path = tmp_path / "o.csv"
    cells = {"question": "New?", "selections": "{}", "options": "['A', 'B']"}
    del cells[column]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([cells.keys(), cells.values()])
    with pytest.raises(SurveyError, match=f"column '{column}' is missing"):
        read_survey(path, "globalopinionqa")


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    trace = tmp_path / "was-here"
    code = f"__import__('pathlib').Path({str(trace)!r}).touch()"
    assert eval(code) is None  # it would work
    assert trace.exists()
    trace.unlink()
    good = "{'Chad': [1.0, 0.0, 0.0]}"
    cells = [
        (code, OPTIONS),
        (f"defaultdict(<class 'list'>, {{'Chad': {code}}})", OPTIONS),
        (f"defaultdict({code}, {good})", OPTIONS),
        (f"{{'Chad': [{code}, 0.5, 0.5]}}", OPTIONS),
        (f"{{**{good}, 'Peru': {code}}}", OPTIONS),
        (f"defaultdict(<class 'list'>, {{}}) or {code} or ({{}})", OPTIONS),
        (good, f"['a', 'b', {code}]"),
    ]
    for number, (selections, options) in enumerate(cells):
        path = write_opinions(tmp_path / f"{number}.csv", [("Is it good?", selections, options)])
        with pytest.raises(SurveyError, match=r"row 2: column '(selections|options)' is not"):
            read_survey(path, "globalopinionqa")
    assert not trace.exists()


# Types


@pytest.mark.parametrize(
    ("question_Q", "shape"), [([0, 1], (1, 2)), ([0], (1,)), ([1, 0], (2, 2)), ([1, 1], (2, 2))]
)
def test_answers_check_their_shapes(question_Q: list[int], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="question"):
        Answers(np.array(question_Q), np.full(shape, 0.5))


# Real data


def test_the_development_file_of_globalopinionqa_reads_whole() -> None:
    project = Path(__file__).resolve().parent.parent
    folder = project / os.environ.get("PLURALLM_TEST_DATA", "../shared/data")
    path = folder / "globalopinionqa" / "global_opinions_dev.csv.gz"
    if not path.is_file():
        pytest.skip(f"no {path}: set PLURALLM_TEST_DATA to the folder of the test data")
    survey = read_survey(path, "globalopinionqa")
    assert len(survey.questions) == 2025
    assert len(survey.answers) == 134
    assert survey.dropped == {"row without a country": 20}
    assert len(survey.answers["Germany"].question_Q) == 842
    assert len(survey.answers["New Zealand"].question_Q) == 200
    widths = np.array([len(question.options) for question in survey.questions])
    for answers in survey.answers.values():
        np.testing.assert_allclose(answers.share_QO.sum(1), 1, rtol=0, atol=1e-12)
        beyond_QO = np.arange(answers.share_QO.shape[1]) >= widths[answers.question_Q, None]
        assert not answers.share_QO[beyond_QO].any()


@given(st.permutations(["question_id", "question", "options", "group", "counts"]), st.data())
def test_a_column_that_stands_twice_is_refused(columns: list[str], data: st.DataObject) -> None:
    double = data.draw(st.sampled_from(columns))
    columns = list(columns)
    columns.insert(data.draw(st.integers(0, len(columns))), double)
    cells = {
        "question_id": "a",
        "question": "Roads?",
        "options": '["Yes", "No"]',
        "group": "North",
        "counts": "[1, 2]",
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "joined.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, [cells[name] for name in columns]])
        with pytest.raises(SurveyError, match=f"'{double}' stands twice in the header"):
            read_survey(path, "custom")


# Delimiters, encodings, percent


ENCODINGS = {"cp1252": "cp1252", "latin-1": "cp1252", "utf-16": "utf-16"}


@pytest.mark.parametrize("ending", [".csv", ".CSV", ".csv.gz", ".Csv.Gz"])
@pytest.mark.parametrize("encoding", ["utf-8", *ENCODINGS])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_what_a_table_seems_to_be_written_in_is_named_with_its_key(
    tmp_path: Path, ending: str, encoding: str, delimiter: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=DELIMITERS[delimiter])
    writer.writerow(["question_id", "question", "options", "group", "counts"])
    # Programs that write semicolons between cells may write them in lists, too.
    between = "; " if delimiter == "semicolon" else ", "
    options, counts = between.join(['"Yes; sure"', '"No"']), between.join(["3", "1"])
    writer.writerow(["q", "Köln?", f"[{options}]", "Süd", f"[{counts}]"])
    path = tmp_path / f"survey{ending}"
    content = text.getvalue().encode(encoding)
    path.write_bytes(gzip.compress(content) if ending.lower().endswith(".gz") else content)
    keys: dict[str, Any] = {}
    if encoding != "utf-8":
        found = ENCODINGS[encoding]
        with pytest.raises(SurveyError, match=rf"give data\.encoding={found}$"):
            read_as_told(path, "custom")
        keys["encoding"] = found
    if delimiter != "comma":
        with pytest.raises(SurveyError, match=rf"separated by {delimiter}, .*=({delimiter}), or"):
            read_as_told(path, "custom", **keys)
        keys["delimiter"] = delimiter
    survey = read_as_told(path, "custom", **keys)
    assert survey.questions == (Question("q", "Köln?", ("Yes; sure", "No")),)
    assert survey.answers["Süd"].share_QO.tolist() == [[0.75, 0.25]]
    own = ["data=custom", f"data.path={path}", *(f"data.{k}={v}" for k, v in keys.items())]
    assert load_survey(load_config(own, None).data).fingerprint == survey.fingerprint


def test_tab_separated_files_are_read_by_their_ending(write_survey: Write) -> None:
    path = write_survey([AGREE])
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    tabs = path.with_name("survey.TSV")
    with tabs.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    assert read_survey(tabs, "custom").fingerprint == read_survey(path, "custom").fingerprint


def test_damaged_utf_8_and_utf_16_without_its_mark_are_told_apart(write_survey: Write) -> None:
    rows = [AGREE | {"group": name} for name in ("Süd", "Köln", "Zürich", "Łódź")]
    path = write_survey(rows)
    content = path.read_bytes()
    path.write_bytes(content.replace("Köln".encode(), b"K\xf6ln"))
    with pytest.raises(SurveyError, match="UTF-8 for the most part, but not in line 3: repair"):
        read_survey(path, "custom")
    for encoding in ("utf-16-le", "utf-16-be"):
        for name in ("Süd", "South"):
            text = content.decode().replace("Süd", name)
            if name == "South":
                text = text.encode("ascii", errors="replace").decode()
            path.write_bytes(text.encode(encoding))
            with pytest.raises(SurveyError, match=rf"seems, in {encoding}: give data\.encoding"):
                read_survey(path, "custom")
            survey = read_as_told(path, "custom", encoding=encoding)
            assert name in survey.answers


def test_percent_are_shares_where_it_is_said(write_survey: Write) -> None:
    row = {key: cell for key, cell in AGREE.items() if key not in ("shares", "counts")}
    size = len(row["options"])
    percent = [60.5, 39.4, *[0] * (size - 2)]
    path = write_survey([row | {"shares": percent}])
    with pytest.raises(SurveyError, match=r"as percent do: give data\.shares_sum=100$"):
        read_survey(path, "custom")
    own = ["data=custom", f"data.path={path}", "data.shares_sum=100"]
    (answers,) = load_survey(load_config(own, None).data).answers.values()
    assert answers.share_QO[0, 0] == pytest.approx(60.5 / 99.9)
    with pytest.raises(SurveyError, match="sum to 1 instead of 100"):
        read_as_told(
            write_survey([row | {"shares": [1, *[0] * (size - 1)]}]), "custom", shares_sum=100
        )


@pytest.mark.parametrize("column", ["question_id", "question", "options", "group"])
def test_a_nul_character_is_refused_with_row_and_column(write_survey: Write, column: str) -> None:
    broken = {"question_id": "z\0", "question": "Why\0?", "group": "We\0st"}
    cell = broken.get(column, ["A\0", *AGREE["options"][1:]])
    own = {"group": "East"} if column == "group" else {"group": "East", "question_id": "other"}
    with pytest.raises(SurveyError, match=rf"row 3: {column} .* holds a NUL character: remove it"):
        read_survey(write_survey([AGREE, AGREE | own | {column: cell}]), "custom")


# One name twice


def test_a_country_that_stands_twice_in_a_row_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "global.csv"
    for names in (("Chad", "Chad"), ("Chad", "Peru", "Chad")):
        cells = ", ".join(f"'{name}': [0.{n}, 0.{10 - n}]" for n, name in enumerate(names, 1))
        selections = f"defaultdict(<class 'list'>, {{{cells}}})"
        path.write_text(f"""question,selections,options\nq,"{selections}","['Yes', 'No']"\n""")
        with pytest.raises(SurveyError, match=r"row 2: column 'selections' has 'Chad' twice"):
            read_survey(path, "globalopinionqa")


def test_a_text_is_no_list_of_options() -> None:
    with pytest.raises(ValueError, match="the text 'Yes', not a list of texts"):
        Question("q", "Good?", "Yes")  # type: ignore[arg-type]
