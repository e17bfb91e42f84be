"""What a notebook user writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import TINY

import plurallm as pl
from plurallm.config.error import ConfigError
from plurallm.data.formats.tabular import SurveyError
from plurallm.results.prediction import predict
from plurallm.results.rows import Rows

SMALL = [*TINY[1:], "threads=1", "training.steps_per_round=2"]
GROUPS = ("North", "South", "East", "West")


def answers(counts: bool = True) -> pd.DataFrame:
    """60 questions with two or three options, answered by four groups."""
    draw = np.random.default_rng(1)
    rows = []
    for number in range(60):
        options = ["Yes", "No", "Perhaps"][: 2 + number % 2]
        for group in GROUPS:
            told = draw.integers(1, 50, len(options))
            cells = {"counts": told.tolist()} if counts else {"shares": told / told.sum()}
            rows.append(
                {
                    "question_id": f"q{number}",
                    "question": f"What about matter {number}?",
                    "options": options,
                    "group": group,
                    **cells,
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def study() -> pl.Study:
    survey = pl.Survey.from_frame(answers())
    overrides = [text for text in SMALL if not text.startswith("data.num")]
    return pl.Study.load(survey, held_out=["South"], overrides=overrides)


@pytest.fixture(scope="module")
def run(study: pl.Study, tmp_path_factory: pytest.TempPathFactory) -> pl.Run:
    return pl.train(study, rounds=2, strategy="term", output_dir=tmp_path_factory.mktemp("run"))


def test_a_frame_is_a_survey(study):
    frame = answers()
    assert set(study.survey.answers) == set(GROUPS)
    assert study.roles.held_out == ("South",)
    assert set(study.roles.train) == {"North", "East", "West"}
    own = frame[frame.group == "West"].set_index("question_id").counts
    answered = study.survey.answers["West"]
    assert [question.id for question in study.survey.questions] == sorted(own.index)
    for row, question in enumerate(study.survey.questions):
        told_O = np.array(own[question.id])
        share_O = answered.share_QO[row, : len(told_O)]
        np.testing.assert_array_equal(share_O, told_O / told_O.sum())
        assert answered.respondents_Q[row] == told_O.sum()


def test_shares_and_ordinals_of_a_frame_are_kept(tmp_path):
    frame = answers(counts=False)
    frame["ordinal"] = [[1.0, 2.0] if len(o) == 2 else None for o in frame.options]
    survey = pl.Survey.from_frame(frame)
    study = pl.Study.load(survey, overrides=[f"cache_dir={tmp_path}"])
    assert study.survey.questions == survey.questions
    for group in GROUPS:
        np.testing.assert_allclose(
            study.survey.answers[group].share_QO, survey.answers[group].share_QO, rtol=1e-15
        )
    (kept,) = (tmp_path / "surveys").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_polars_frame_is_one_too():
    polars = pytest.importorskip("polars")
    survey = pl.Survey.from_frame(polars.DataFrame(answers().to_dict("list")))
    assert survey.questions == pl.Survey.from_frame(answers()).questions


def test_what_is_wrong_with_a_frame_names_its_row():
    frame = answers()
    frame.at[4, "counts"] = [1, 2, 3, 4]
    with pytest.raises(SurveyError, match="the frame, row 5: group 'North' has 4 shares or counts"):
        pl.Survey.from_frame(frame)
    with pytest.raises(TypeError, match="neither a pandas nor a polars frame, but dict"):
        pl.Survey.from_frame({})


def test_groups_that_are_no_list_or_unknown_are_told(tmp_path):
    survey = pl.Survey.from_frame(answers())
    with pytest.raises(ConfigError, match=r"given as a list: \['South'\]"):
        pl.Study.load(survey, held_out="South")
    with pytest.raises(ConfigError, match="'Soth', which the survey does not have; near it: South"):
        pl.Study.load(survey, held_out=["Soth"])


def test_a_run_tells_its_scores_and_predicts(run, study):
    rows = run.scores.to_pandas().set_index(["predictor", "cell"])
    summary = json.loads((run.folder / "summary.json").read_text())
    cell = "held_out_groups.seen_questions"
    assert rows.loc[("model", cell), "alignment"] == summary["cells"][cell]["alignment"]
    assert ("uniform", cell) in rows.index
    assert {row["group"] for row in run.groups} == set(GROUPS)
    assert run.report().read_text().lower().startswith("<!doctype html>")
    context = study.context("South")
    assert len(context) == study.config.evaluation.context_questions
    forecast = run.reward_model().predict("Is it doing well?", ["Yes", "No"], context)
    assert sum(forecast.shares) == pytest.approx(1)
    named = run.reward_model(["South"]).predict("Is it doing well?", ["Yes", "No"], "South")
    assert named == forecast


def test_the_shell_predicts_as_python_does(run, study, capsys, tmp_path):
    question = ["--question", "Is it doing well?", "--options", "Yes", "No"]
    predict([str(run.folder), *question, "--group", "South", "--json"])
    (shown,) = json.loads(capsys.readouterr().out)
    model = run.reward_model(["South", "West"])
    forecast = model.predict("Is it doing well?", ["Yes", "No"], "South")
    assert shown["group"] == "South"
    assert tuple(shown["shares"].values()) == forecast.shares
    model.save_pretrained(tmp_path / "bundle")
    predict([str(tmp_path / "bundle"), *question])
    table = capsys.readouterr().out
    assert all(name in table for name in ("South", "West", f"{forecast.shares[0]:.4f}"))
    frame = answers()
    file = tmp_path / "new.csv"
    one = frame[frame.group == "East"].head(10)
    lists = {name: one[name].map(json.dumps) for name in ("options", "counts")}
    one.assign(**lists).to_csv(file, index=False)
    predict([str(tmp_path / "bundle"), *question, "--context", str(file), "--json"])
    assert json.loads(capsys.readouterr().out)[-1]["group"] == str(file)
    run.reward_model().save_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="releases no group's context: name one with --context"):
        predict([str(tmp_path / "empty"), *question])


def test_a_script_without_a_guard_compares(study, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import plurallm as pl\n"
        "print('once')\n"
        f"results = pl.compare(pl.Study.of({list(study.overrides)!r}), ['federated', 'mixture'], "
        "[1], overrides=['federation.rounds=1', 'compare.jobs=1'])\n"
        "print(results.table())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("once") == 1
    assert "mixture" in done.stdout
    (folder,) = (tmp_path / "outputs").iterdir()
    results = pl.Results(folder)
    assert {row["arm"] for row in results.table()} == {"federated", "mixture"}
    assert {row["arm"] for row in results.rows("groups")} == {"federated", "mixture"}
    with pytest.raises(ValueError, match="no table 'cell'; there are cells"):
        results.rows("cell")


def test_the_door_imports_nothing_before_it_is_asked():
    code = "import sys, plurallm; plurallm.__all__; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout == "False\n"
    assert set(pl.__all__) <= set(dir(pl))
    with pytest.raises(AttributeError, match="no attribute 'Studie'"):
        _ = pl.Studie  # type: ignore[attr-defined]


def test_folders_that_hold_something_else_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        pl.Run(tmp_path)
    with pytest.raises(ConfigError, match="not the folder of a comparison"):
        pl.Results(tmp_path)


def test_rows_print_as_a_table():
    rows = Rows([{"arm": "a", "mean": 0.5, "std": None}])
    assert "0.5000" in repr(rows)
    assert repr(Rows()) == "no rows"
