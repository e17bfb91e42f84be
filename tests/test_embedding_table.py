"""Vectors out of a file, and published pickles converted to such a file.

``tests/pickles`` holds made-up rows in the layout of GPO's code, written by the version of pandas
in the file's name: a column of numbers lies between those of objects, and the Llama-2 file repeats
its rows for two groups, as OpinionQA's does.
"""

import csv
import importlib.util
import math
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from plurallm.cli import main
from plurallm.config.compose import load_config
from plurallm.config.overrides import absolute_overrides
from plurallm.data.embedders.lookup import TableEmbedding, write_vectors
from plurallm.data.embedding.pairs import distinct_pairs
from plurallm.data.embedding.table import embed_pairs, embedding_table
from plurallm.data.survey import Question, Survey
from plurallm.data.tasks import group_tasks, load_survey, survey_table

PROJECT = Path(__file__).resolve().parent.parent
PICKLES = sorted((PROJECT / "tests" / "pickles").glob("*.pkl"))
SURVEY = Survey(
    "made up",
    (
        Question("1", "How is it?\nToday, I mean", ("1", "Fine, thanks", "Don't know")),
        Question("2", "Good?", ("Yes", "No")),
    ),
    {},
)


def load_converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "convert_embeddings", PROJECT / "scripts" / "convert_embeddings.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


converter = load_converter()


def vectors_of(*rows: list[float]) -> np.ndarray:
    """Rows of mean square 1."""
    return np.stack([np.array(row) / np.sqrt(np.mean(np.square(row))) for row in rows])


# Published pickles


@pytest.mark.parametrize("source", PICKLES, ids=lambda path: path.stem)
def test_a_published_pickle_becomes_vectors_of_the_surveys_texts(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "vectors.npz"
    assert converter.main([str(source), str(target)]) == 0
    assert "5 distinct texts, 3 wide" in capsys.readouterr().out
    own = TableEmbedding("table", str(target), True)
    table_RD = embed_pairs(list(distinct_pairs(SURVEY, own)), own)
    expected_RD = vectors_of([2, 1, -2.5], [3, 1, -2.5], [4, 1, -2.5], [0, 1, -2.5], [1, 1, -2.5])
    assert table_RD == pytest.approx(expected_RD, abs=1e-6)


def test_pickles_of_several_versions_are_tested() -> None:
    assert len(PICKLES) == 3


class Runs:
    """What a pickle can do: call anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, "mkdir"), (eval, "eval"), (getattr, "getattr"), (np.load, "load")],
)
def test_a_pickle_that_would_run_something_is_refused_by_name(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    protocol: int,
    function: Callable[..., Any],
    name: str,
) -> None:
    trace = tmp_path / "trace"
    source = tmp_path / "hostile.pkl"
    source.write_bytes(pickle.dumps({"a": Runs(function, str(trace))}, protocol))
    assert converter.main([str(source), str(tmp_path / "o.npz")]) == 2
    error = capsys.readouterr().err
    assert f"{name}, which no table needs: refused, nothing was run" in error
    assert str(source) in error
    assert not trace.exists()
    assert not (tmp_path / "o.npz").exists()


def test_a_hostile_call_inside_a_real_table_is_refused(tmp_path: Path) -> None:
    # The last thing a real file does, before it stops, becomes a call of os.system.
    real = PICKLES[0].read_bytes()
    source = tmp_path / "hostile.pkl"
    source.write_bytes(
        real[:-1] + b"0cposix\nsystem\n(S'touch " + str(tmp_path).encode() + b"/x'\ntR."
    )
    with pytest.raises(ValueError, match=r"posix\.system, which no table needs"):
        converter.read_table(source)
    assert not (tmp_path / "x").exists()


def test_what_is_known_is_taken_down_and_not_called(tmp_path: Path) -> None:
    # Even numpy and pandas stay out of it: these arguments would raise in any of them.
    source = tmp_path / "odd.pkl"
    source.write_bytes(b"cpandas.core.frame\nDataFrame\n(S'odd'\nS'arguments'\ntR.")
    with pytest.raises(ValueError, match=r"odd\.pkl is no table that pandas 1\.3 or later pickled"):
        converter.read_table(source)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2]), pickle.dumps("a")])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "other.pkl"
    source.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pkl is no table"):
        converter.read_table(source)


def test_a_vector_with_a_number_that_is_not_finite_is_refused_with_its_row(tmp_path: Path) -> None:
    source = tmp_path / "nan.pkl"
    number, nan = (b"G" + struct.pack(">d", value) for value in (-2.5, math.nan))
    content = PICKLES[0].read_bytes()
    assert number in content
    source.write_bytes(content.replace(number, nan))
    with pytest.raises(ValueError, match=r"nan\.pkl, row 0: .*not finite"):
        converter.convert(source, tmp_path / "vectors.npz")


def test_a_pickle_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "huge.pkl"
    source.write_bytes(b"\x80\x05\x8e" + (2**60).to_bytes(8, "little"))  # a byte string of 2^60
    with pytest.raises(ValueError, match=r"huge\.pkl"):
        converter.read_table(source)


ALPACA = (
    "Below is an instruction that [...].\n\n### Instruction:\nAnswer\n\n### Input:\n"
    "Which?\n\nOptions:\nA. One\nor two\nB. A. Smith\n\n### Response:\n"
)


@pytest.mark.parametrize(
    ("answer", "option"), [("A. One\nor two", "A. One\nor two"), ("B. A. Smith", "B. A. Smith")]
)
def test_options_with_line_breaks_and_initials_are_kept_whole(answer: str, option: str) -> None:
    question = "Which?\n\nOptions:\nA. One\nor two\nB. A. Smith"
    assert converter.split_prompt(ALPACA + answer) == (question, option)


@pytest.mark.parametrize(
    "text",
    ["Which? One", ALPACA + "C. Three", ALPACA + "A. Smith", ALPACA.replace("\nB. A", "\nD. A")],
)
def test_another_prompt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not in GPO's Alpaca or Llama-2 prompt"):
        converter.split_prompt(text)


def test_the_target_must_be_an_npz_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert converter.main([str(PICKLES[0]), str(tmp_path / "vectors.pkl")]) == 2
    assert "ends in .npz" in capsys.readouterr().err


# embedding=table


def test_every_survey_can_have_its_own_file(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    base = ["data.num_questions=60", f"cache_dir={tmp_path}"]
    config = load_config(
        [*base, "embedding=table", "embedding.path=own.npz", "embedding.list_options=false"],
        tmp_path,
    )
    survey = load_survey(config.data)
    pairs = list(distinct_pairs(survey, config.embedding))
    values_RD = np.random.default_rng(1).normal(size=(len(pairs), 4)).astype(np.float32)
    write_vectors(path, pairs[::-1], values_RD[::-1])
    table_RD = survey_table(survey, config).numpy()
    assert table_RD == pytest.approx(vectors_of(*values_RD.tolist()), abs=1e-6)
    group = next(iter(survey.answers))
    seen = group_tasks(survey, [group], config)[group].seen
    question = survey.questions[seen.question_Q[0]]
    rows = [pairs.index((question.text, option)) for option in question.options]
    assert seen.row_QO[0][seen.mask_QO[0]].tolist() == rows


def test_options_are_listed_for_the_whole_task(tmp_path: Path) -> None:
    path = tmp_path / "listed.npz"
    config = load_config(
        [
            "data.num_questions=60",
            f"cache_dir={tmp_path}",
            "embedding=table",
            f"embedding.path={path}",
        ],
        None,
    )
    survey = load_survey(config.data)
    pairs = list(distinct_pairs(survey, config.embedding))
    assert all("\n\nOptions:\nA. " in question for question, _ in pairs)
    write_vectors(path, pairs, np.eye(len(pairs), dtype=np.float32))
    table_RD = survey_table(survey, config)
    assert (table_RD.argmax(1) == np.arange(len(pairs))).all()
    group = next(iter(survey.answers))
    seen = group_tasks(survey, [group], config)[group].seen
    for row, own in zip(seen.question_Q.tolist(), seen.row_QO[:, 1].tolist(), strict=True):
        assert pairs[own][0].startswith(survey.questions[row].text)
        assert pairs[own][1] == f"B. {survey.questions[row].options[1]}"


def test_the_first_missing_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "part.npz"
    own = TableEmbedding("table", str(path), False)
    write_vectors(path, [("Good?", "Yes")], np.ones((1, 2), dtype=np.float32))
    wanted = [("Good?", "Yes"), ("Good?", "No"), ("Bad?", "No")]
    with pytest.raises(
        ValueError, match=r"part\.npz lacks 2 of 3 texts, first: question 'Good\?' with option 'No'"
    ):
        embed_pairs(wanted, own)


def test_a_changed_file_gives_another_table(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    own = TableEmbedding("table", str(path), False)
    for vector in ([3.0, 1.0, 1.0], [1.0, 3.0]):
        write_vectors(path, [("Good?", "Yes")], np.array([vector], dtype=np.float32))
        table_RD = embedding_table([("Good?", "Yes")], own, tmp_path)
        assert table_RD.numpy() == pytest.approx(vectors_of(vector), abs=1e-6)


def test_a_vector_of_length_0_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.npz"
    write_vectors(path, [("Good?", "Yes")], np.zeros((1, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"no finite vector for \('Good\?', 'Yes'\)"):
        embed_pairs([("Good?", "Yes")], TableEmbedding("table", str(path), False))


@pytest.mark.parametrize("kind", ["text", "npy", "pickled", "incomplete", "unequal"])
def test_another_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.npz"
    texts, ones = np.array(["Good?"]), np.ones((1, 2), dtype=np.float32)
    if kind == "text":
        path.write_text("no vectors")
    elif kind == "npy":
        with path.open("wb") as file:
            np.save(file, ones)
    elif kind == "pickled":
        np.savez(path, question=texts.astype(object), option=texts, vector=ones)
    elif kind == "incomplete":
        np.savez(path, question=texts, vector=ones)
    else:
        np.savez(path, question=texts, option=texts, vector=np.ones((2, 2), dtype=np.float32))
    with pytest.raises(ValueError, match=r"other\.npz(: question| is no npz file)"):
        embed_pairs([("Good?", "Yes")], TableEmbedding("table", str(path), False))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    own = TableEmbedding("table", str(tmp_path / "absent.npz"), False)
    with pytest.raises(ValueError, match=r"absent\.npz"):
        embedding_table([("Good?", "Yes")], own, tmp_path)


def test_two_vectors_for_one_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npz"
    pair = ("Roads?", "Yes")
    config = TableEmbedding("table", str(path), False)
    write_vectors(path, [pair, pair], np.array([[1, 2], [1, 2]], np.float32))
    assert embed_pairs([pair], config).shape == (1, 2)
    write_vectors(path, [pair, pair], np.array([[1, 2], [2, 1]], np.float32))
    with pytest.raises(ValueError, match="rows 0 and 1 have different vectors"):
        embed_pairs([pair], config)


def test_the_texts_to_embed_are_written_and_looked_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["data.num_questions=60", "embedding=table", "embedding.path=mine.npz"]
    for listed in ("true", "false"):
        overrides = [*own, f"embedding.list_options={listed}"]
        out = tmp_path / f"texts-{listed}.csv"
        command = ["plurallm", "texts", out.name, *overrides]
        monkeypatch.setattr("sys.argv", command)
        main()
        with out.open(encoding="utf-8", newline="") as file:
            rows = [(row["question"], row["option"]) for row in csv.DictReader(file)]
        assert f"{len(rows)} texts" in capsys.readouterr().out
        vector_RD = np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32)
        write_vectors(tmp_path / "mine.npz", rows, vector_RD)
        config = load_config([f"{own[0]}", *absolute_overrides(overrides[1:], tmp_path)], None)
        assert survey_table(load_survey(config.data), config).shape == (len(rows), 8)
        monkeypatch.setattr("sys.argv", command)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert f"{out} is there already" in capsys.readouterr().err
        write_vectors(tmp_path / "mine.npz", rows[1:], vector_RD[1:])
        with pytest.raises(ValueError, match=r"lacks 1 of .*plurallm texts OUT\.csv"):
            survey_table(load_survey(config.data), config)
