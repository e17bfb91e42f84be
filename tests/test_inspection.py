"""What check-data says of a file."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from plurallm.config.compose import load_config
from plurallm.config.schema import Config
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.inspection import expected_roles, overlap, print_inspection
from plurallm.data.survey import Survey
from plurallm.data.synthetic import generate_survey

Write = Callable[..., Path]


def rows(groups: dict[str, Sequence[int]], **more: Any) -> list[dict[str, Any]]:
    """Rows in which each group answers the questions of its numbers."""
    return [
        {
            "question_id": f"q{number}",
            "question": f"Question {number}?",
            "options": ["Yes", "No"] if number % 2 else ["Yes", "No", "Maybe"],
            "group": group,
            "counts": [number + 1, 7] if number % 2 else [number + 1, 7, 2],
            **more,
        }
        for group, numbers in groups.items()
        for number in numbers
    ]


def printed(path: Path, *overrides: str) -> str:
    choice = () if any(text.startswith("data=") for text in overrides) else ("data=custom",)
    config = load_config([*choice, f"data.path={path}", *overrides], None)
    text = io.StringIO()
    print_inspection(config, Console(file=text, width=120))
    return text.getvalue()


def cells(text: str, first: str) -> list[str]:
    """Cells of the table's row that begins with a text."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"│ {first} "))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_overlap_counts_pair_by_pair_and_question_by_question() -> None:
    survey = generate_survey(num_groups=5, num_questions=40)
    found = overlap(survey)
    answered = {group: set(own.question_Q.tolist()) for group, own in survey.answers.items()}
    for row, one in enumerate(found.groups):
        others = set().union(*(own for group, own in answered.items() if group != one))
        assert found.alone_G[row] == len(answered[one] - others)
        for column, other in enumerate(found.groups):
            assert found.shared_GG[row, column] == len(answered[one] & answered[other])
    for number in range(40):
        assert found.groups_N[number] == sum(number in own for own in answered.values())


def test_overlap_by_hand(make_survey: Callable[..., Survey]) -> None:
    found = overlap(
        make_survey(
            {
                "A": {"q1": [1, 0], "q2": [1, 0], "q3": [0, 1]},
                "B": {"q2": [0, 1], "q4": [1, 0]},
                "C": {"q4": [1, 0]},
            }
        )
    )
    assert found.groups == ("A", "B", "C")
    np.testing.assert_array_equal(found.shared_GG, [[3, 1, 0], [1, 2, 1], [0, 1, 1]])
    np.testing.assert_array_equal(found.groups_N, [1, 2, 1, 2])
    np.testing.assert_array_equal(found.alone_G, [2, 0, 0])


def test_a_file_is_described(write_survey: Write) -> None:
    path = write_survey(rows({"North": range(40), "East": range(20, 60), "[Far] South": range(5)}))
    text = printed(path, "data.unseen_questions=0.0", "data.held_out_groups=[North]")
    assert str(path) in text
    assert "one row for each question and group; answers as counts" in text
    assert "3 groups, 60 questions, 85 answers" in text
    assert "Nothing was left out." in text
    assert cells(text, "North") == ["North", "40", "40", "0", "15", "held out"]
    assert cells(text, "East") == ["East", "40", "40", "0", "20", "training"]
    # Brackets are no markup.
    assert cells(text, "[Far] South")[1:] == ["5", "5", "0", "0", "too few questions"]
    assert "at least 5, median 40, at most 40" in text
    assert "│       2 │        30 │                   0 │" in text  # options
    assert "2 │        25 │   42% │" in text  # groups
    assert "share: at least 0, median 5, at most 20; pairs that share none: 1 of 3." in text
    assert "another group answered too: [Far] South (5), East (20), North (25)." in text
    assert "takes part with at least 21 seen questions" in text


def test_seen_and_unseen_questions_follow_the_configuration(write_survey: Write) -> None:
    path = write_survey(rows({"North": range(100)}))
    _, questions, seen, unseen, *_ = cells(printed(path, "data.unseen_questions=0.5"), "North")
    assert int(seen) + int(unseen) == int(questions) == 100
    assert 30 < int(unseen) < 70


def test_a_file_of_one_group_is_enough_for_a_node(write_survey: Write) -> None:
    text = printed(write_survey(rows({"North": range(40)})))
    assert cells(text, "North")[-1] == "training"
    assert "1 group, 40 questions" in text
    assert "One group: overlap shows only" in text
    listed = printed(
        write_survey(rows({"North": range(40)})),
        "data.train_groups=[South,East]",
        "data.held_out_groups=[North]",
    )
    assert cells(listed, "North")[-1] == "held out"
    assert "Listed, but not in this file: South, East." in listed
    assert "would not start: data lists group 'South', which the survey does not have" in listed


def test_what_was_left_out_is_counted(write_survey: Write) -> None:
    half = rows({"North": range(30)}, ordinal="")
    half += rows({"North": range(31, 91, 2)}, ordinal=[1, 2])
    path = write_survey(half)
    assert "data.distance=wasserstein takes: 30." in printed(path)
    text = printed(path, "data.distance=wasserstein")
    assert "Left out: 30 x question without ordinal values." in text
    assert "│       2 │        30 │                  30 │" in text


def test_roles_that_cannot_be_given_are_told(make_survey: Callable[..., Survey]) -> None:
    def config(*overrides: str) -> Config:
        return load_config(list(overrides), None)

    roles, problem = expected_roles({"a": 5, "b": 9}, config())
    assert roles == {"a": "too few questions", "b": "too few questions"}
    assert problem is not None
    assert "no training group is left" in problem
    roles, problem = expected_roles({"a": 50, "b": 90, "c": 70}, config("data.groups=[a,c]"))
    assert roles["b"] == "no part"
    assert sorted(roles[name] for name in "ac") == ["held out", "training"]
    assert problem is None


def test_a_bad_row_is_named(write_survey: Write) -> None:
    bad = rows({"North": range(3)})
    bad[1]["counts"] = [-1, 2]
    path = write_survey(bad)
    with pytest.raises(SurveyError, match=rf"{path}, row 3: group 'North' has the share or count"):
        printed(path)
