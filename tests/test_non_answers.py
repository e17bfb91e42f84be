"""Options that are no answers, codes off the scale, questions with several answers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from test_content import RUN, export

from plurallm.config.compose import load_config
from plurallm.data.inspection import print_inspection
from plurallm.data.non_answers import is_non_answer
from plurallm.data.reading import read_survey
from plurallm.data.survey import Survey
from plurallm.data.tasks import load_survey
from plurallm.federate.in_process import run_in_process
from plurallm.reward import PreferenceRewardModel, read_context

Write = Callable[..., Path]

NONE = ["DK", "Refused", "No answer", "Not applicable", "Don’t know", "DK/Refused", "N/A"]
REASON = "option that is no answer (data.non_answers=keep keeps it)"


@pytest.mark.parametrize(
    "option",
    [
        *NONE,
        *("don't know", "DON'T KNOW (VOL)", "No answer/refused", "Don't know / Unsure"),
        *("Missing; Not available", "Missing; Not applicable for other reasons"),
        *("Other missing; Multiple answers Mail (EVS)", "Prefer not to say", "(Refused)", "dk "),
        *("Don't know (DO NOT READ)", "DK-Ref", "I don't know", "I'm not sure", "DK & NA", "idk"),
        *("Don't know [98]", "98 = Don't know", "99. Refused", "<Refused>", "No answer (99)"),
        *("I prefer not to answer", "Decline to state", "Do not know / Refuse", "System missing"),
        *("Not Applicable [DO NOT READ]", "Can't choose", "Missing; Unknown"),
    ],
)
def test_what_is_no_answer(option: str) -> None:
    assert is_non_answer(option)


@pytest.mark.parametrize(
    "option",
    [
        *("Yes", "No", "None", "None at all", "Neither", "Neither agree nor disagree", "Other"),
        *("Don't know anyone (VOL)", "Nothing", "Not at all", "Never", "Not important", "98"),
        *(
            "Undecided voters",
            "Refugees",
            "Skip school",
            "1. Yes",
            "10 (Complete trust)",
            "Undecided",
        ),
        *("I refused the offer", "No one", "Andrea", "Unknown soldier", "Yes or don't know"),
    ],
)
def test_what_is_an_answer(option: str) -> None:
    assert not is_non_answer(option)


def row(number: int, options: list[str], counts: list[int], **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}",
        "question": f"Should the town spend on matter {number}?",
        "options": options,
        "group": "North",
        "counts": counts,
    } | more


def shares(survey: Survey, group: str = "North") -> dict[str, dict[str, float]]:
    own = survey.answers[group]
    asked = [survey.questions[number] for number in own.question_Q]
    return {
        question.id: dict(zip(question.options, share_O.tolist(), strict=False))
        for question, share_O in zip(asked, own.share_QO, strict=True)
    }


def test_non_answers_are_dropped_or_kept_and_counted(write_survey: Write) -> None:
    path = write_survey(
        [
            row(0, ["Yes", "No", "Don't know"], [30, 10, 60]),
            row(1, ["Refused", "More", "Less", "DK"], [5, 1, 3, 1], ordinal=[9, 1, 2, 8]),
            row(2, ["Yes", "No"], [1, 1]),
            row(3, ["Yes", "No", "DK"], [0, 0, 7]),
            row(4, ["Yes", "DK", "Refused"], [5, 1, 1]),
        ]
    )
    dropped = read_survey(path, "custom")
    assert shares(dropped) == {
        "q0": pytest.approx({"Yes": 0.75, "No": 0.25}),
        "q1": pytest.approx({"More": 0.25, "Less": 0.75}),
        "q2": {"Yes": 0.5, "No": 0.5},
    }
    assert dropped.answers["North"].respondents_Q is not None
    assert dropped.answers["North"].respondents_Q.tolist() == [40, 4, 2]
    assert dropped.questions[1].ordinal == (1, 2)
    assert dropped.dropped == {
        REASON: 4,
        "answer of a group that chose only options that are no answers": 1,
        "question with fewer than two options that are answers": 1,
    }
    kept = read_survey(path, "custom", "keep")
    assert len(kept.questions) == 5
    assert kept.dropped == {}
    assert shares(kept)["q0"] == {"Yes": 0.3, "No": 0.1, "Don't know": 0.6}
    own = ["data=custom", f"data.path={path}"]
    for key, survey in (("", dropped), ("drop", dropped), ("keep", kept)):
        more = [f"data.non_answers={key}"] if key else []
        assert load_survey(load_config([*own, *more], None).data).questions == survey.questions


def test_every_reader_drops_them_unless_told_otherwise(write_survey: Write, tmp_path: Path) -> None:
    for source in ("custom", "globalopinionqa", "opinionqa", "nodes"):
        path = [] if source in ("nodes", "globalopinionqa") else ["data.path=/a.csv"]
        assert load_config([f"data={source}", *path], None).data.non_answers == "drop"
    custom = write_survey([row(0, ["Yes", "No", "DK"], [3, 1, 4])], "custom.csv")
    opinions = tmp_path / "global.csv"
    selections = "defaultdict(<class 'list'>, {'North': [0.375, 0.125, 0.5]})"
    opinions.write_text(
        "question,selections,options\n"
        f"""q,"{selections}","['Yes', 'No', 'DK/Refused']"\n"""
    )
    counts = write_survey(
        [
            {
                **{"key": "k", "question": "q", "options": ["Yes", "No", "Refused"]},
                **{"option_ordinal": [1, 2], "group": "North", "attribute": "CREGION"},
                "counts": [3, 1, 4],
            }
        ],
        "counts.csv",
    )
    for path, source in ((custom, "custom"), (opinions, "globalopinionqa"), (counts, "opinionqa")):
        survey = read_survey(path, source)
        assert list(shares(survey).values()) == [{"Yes": 0.75, "No": 0.25}]
        assert survey.dropped == {REASON: 1}
        kept = read_survey(path, source, "keep")
        assert list(next(iter(shares(kept).values())).values()) == [0.375, 0.125, 0.5]
        assert kept.dropped == {}
    (context,) = read_context(custom)
    assert (context.options, context.shares) == (("Yes", "No"), (0.75, 0.25))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_who_does_not_answer_does_not_count(data: st.DataObject, write_survey: Write) -> None:
    plain, mixed = [], []
    for number in range(data.draw(st.integers(1, 6))):
        options = ["Yes", "No", "Perhaps"][: data.draw(st.integers(2, 3))]
        size = len(options)
        counts = data.draw(st.lists(st.integers(0, 99), min_size=size, max_size=size).filter(any))
        plain.append(row(number, options, counts))
        none = data.draw(st.lists(st.sampled_from(NONE), max_size=3, unique=True))
        places = [data.draw(st.integers(0, size)) for _ in none]
        both = list(zip(options, counts, strict=True))
        for option, place in zip(none, places, strict=True):
            both.insert(place, (option, data.draw(st.integers(0, 99))))
        mixed.append(row(number, [o for o, _ in both], [c for _, c in both]))
    one = read_survey(write_survey(plain, "plain.csv"), "custom")
    other = read_survey(write_survey(mixed, "mixed.csv"), "custom")
    assert other.questions == one.questions
    left, right = one.answers["North"], other.answers["North"]
    assert np.array_equal(left.question_Q, right.question_Q)
    widest = left.share_QO.shape[1]
    np.testing.assert_allclose(right.share_QO[:, :widest], left.share_QO, rtol=0, atol=1e-12)
    assert left.respondents_Q is not None
    assert right.respondents_Q is not None
    assert right.respondents_Q.tolist() == left.respondents_Q.tolist()


# What check-data warns of


def printed(path: Path, *overrides: str) -> str:
    console = Console(width=300, record=True)
    own = ["data=custom", f"data.path={path}", "embedding.width=32", *overrides]
    print_inspection(load_config(own, None), console)
    return console.export_text()


def many(*special: dict[str, Any]) -> list[dict[str, Any]]:
    """Questions with nothing wrong, and then others, from row 12 on."""
    return [row(n, ["A", "B", "C"], [40, 30, 30], ordinal=[1, 2, 3]) for n in range(10)] + [
        row(10 + n, **own) for n, own in enumerate(special)
    ]


def test_nothing_is_warned_of_without_reason(write_survey: Write) -> None:
    fine = many(
        {"options": ["A", "B", "C"], "counts": [5, 3, 2], "ordinal": [1, 2, 1.5]},
        {"options": ["A", "B", "C", "D"], "counts": [9, 9, 9, 9], "ordinal": [-2, -1, 1, 2]},
        {"options": ["A", "B"], "counts": [90, 60], "ordinal": [0, 10]},
    )
    assert read_survey(write_survey(fine), "custom").doubts == ()


def test_check_data_warns_of_non_answers_with_their_row(write_survey: Write) -> None:
    path = write_survey(many({"options": ["Yes", "No", "DK"], "counts": [9, 9, 9]}))
    for keep in ("drop", "keep"):
        told = printed(path, f"data.non_answers={keep}")
        assert "Warning: row 12: question 'q10' has options that are no answers: 'DK'." in told
        assert "data.non_answers=drop leaves them out" in told
    assert f"Left out: 1 x {REASON}." in printed(path)


CODES = [[1, 2, 3, 98, 99], [1, 2, 3, 8, 9], [1, 2, 3, 4, -1], [-9, 1, 2, 3, -8], [2, 3, 1, 7, 6]]


@pytest.mark.parametrize("codes", [*CODES, [1, 2, 3, 9, 6], [0, 5, 10, 99, 88], [1, 2, 3, 777, 4]])
def test_check_data_warns_of_codes_off_the_scale(codes: list[int], write_survey: Write) -> None:
    options = ["Low", "Middle", "High", "x", "y"]
    path = write_survey(many({"options": options, "counts": [9] * 5, "ordinal": codes}))
    told = printed(path)
    assert "Warning: row 12: question 'q10' has the ordinal values" in told
    assert "Remove those options with their counts" in told
    # Codes of options that are dropped do no harm.
    options[3:] = ["Refused", "Don't know"]
    path = write_survey(many({"options": options, "counts": [9] * 5, "ordinal": [1, 2, 3, 98, 99]}))
    assert "ordinal values 1" not in printed(path)


def test_check_data_warns_of_several_answers_of_one_person(write_survey: Write) -> None:
    options = ["Radio", "Papers", "Web"]
    path = write_survey(
        many(
            {"options": options, "counts": [90, 80, 70]},
            {
                "options": options,
                "counts": [30, 30, 30],
                "question": "Where do you read news? Select all that apply.",
            },
        )
    )
    told = printed(path)
    assert "row 12: question 'q10' seems to let people choose several options (2.4 times" in told
    assert "row 13: question 'q11' seems to let people choose several options (its text" in told
    assert "Make a question with the options 'chosen' and 'not chosen' of each" in told


def test_many_doubts_of_a_kind_are_a_number(write_survey: Write) -> None:
    path = write_survey([row(n, ["Yes", "No", "DK"], [9, 9, 9]) for n in range(40)])
    told = printed(path)
    assert told.count("has options that are no answers") == 5
    assert "the same of 35 more questions" in told


def test_a_bundle_reads_contexts_as_its_run_read_its_survey(
    write_survey: Write, tmp_path: Path
) -> None:
    rows = [
        row(number, ["Yes", "No", "Don't know"], [number + 1, 3, number + 2]) | {"group": group}
        for number in range(40)
        for group in ("North", "East", "South")
    ]
    path = write_survey(rows)
    own = [text for text in RUN if "_groups=" not in text]
    context = write_survey(rows[::3][:20], "context.csv")
    for rule, options in (("drop", 2), ("keep", 3)):
        run = tmp_path / f"run-{rule}"
        more = [f"data.path={path}", f"data.non_answers={rule}", "federation.rounds=1"]
        run_in_process([*own, *more, f"output_dir={run}"])
        export(run, tmp_path / rule)
        model = PreferenceRewardModel.from_pretrained(tmp_path / rule)
        assert {len(own.options) for own in model.read_context(context)} == {options}
    # A bundle of 0.1.0, which counted them.
    config = json.loads((tmp_path / "drop" / "config.json").read_text())
    for key in ("non_answers", "content", "probe"):
        del config[key]
    (tmp_path / "drop" / "config.json").write_text(json.dumps(config))
    assert PreferenceRewardModel.from_pretrained(tmp_path / "drop").non_answers == "keep"
