"""Vectors of texts, and the table on disk.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from plurallm.data.embedders.hashing import HashingEmbedding
from plurallm.data.embedding.pairs import distinct_pairs
from plurallm.data.embedding.table import embedding_table
from plurallm.data.survey import Question, Survey

HASHING = HashingEmbedding("hashing", 512)
PAIRS = [
    ("Do you support or oppose a tax on fuel?", "Strongly support"),
    ("Do you support or oppose a tax on fuel?", "Strongly oppose"),
    ("Do you support a higher tax on fuel?", "Strongly support"),
    ("How much do you trust doctors and hospitals?", "A great deal"),
    ("¿Confía en los médicos?", "Sí"),
    ("Where do you stand on this scale?", "1"),
    ("Where do you stand on this scale?", "2"),
]


def tables(cache: Path) -> list[Path]:
    return sorted((cache / "embeddings").glob("*.npy"))


def embed_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("embedding ")]


def test_rows_are_the_distinct_pairs_in_the_surveys_order() -> None:
    survey = Survey(
        "made up",
        (
            Question("1", "Good?", ("Yes", "No")),
            Question("2", "Bad?", ("Yes", "No")),
            Question("3", "Good?", ("No", "Perhaps")),  # another question with the same text
        ),
        {},
    )
    assert distinct_pairs(survey, HASHING) == {
        ("Good?", "Yes"): 0,
        ("Good?", "No"): 1,
        ("Bad?", "Yes"): 2,
        ("Bad?", "No"): 3,
        ("Good?", "Perhaps"): 4,
    }


def test_vectors_are_deterministic_and_each_its_pairs_own() -> None:
    table_RD = HASHING.embed(PAIRS, "cpu", None)
    assert table_RD.dtype == np.float32
    assert table_RD.shape == (len(PAIRS), 512)
    assert np.array_equal(HASHING.embed(PAIRS, "cpu", None), table_RD)
    backwards_RD = HASHING.embed(PAIRS[::-1], "cpu", None)
    assert np.array_equal(backwards_RD[::-1], table_RD)
    for row, pair in enumerate(PAIRS):
        assert np.array_equal(HASHING.embed([pair], "cpu", None)[0], table_RD[row])
    assert len(np.unique(table_RD, axis=0)) == len(PAIRS)


def test_a_text_gives_the_same_vector_in_a_long_list() -> None:
    many = [(f"Question number {number}?", f"Answer {number}") for number in range(5000)]
    table_RD = HashingEmbedding("hashing", 16).embed(many, "cpu", None)
    for row in (0, 2047, 2048, 4096, 4999):
        alone_RD = HashingEmbedding("hashing", 16).embed([many[row]], "cpu", None)
        assert np.array_equal(alone_RD[0], table_RD[row])


def test_known_vectors_stay() -> None:
    # A trained model reads vectors as it learned them. A change of them needs another _VERSION.
    table_RD = HashingEmbedding("hashing", 8).embed([("Do you agree?", "Yes")], "cpu", None)
    assert table_RD[0].tolist() == pytest.approx(KNOWN, abs=1e-6)


KNOWN = [0.632456, 1.234427, 0.308607, 1.882124, 0.0, 0.632456, -2.679125, 0.0]


def test_the_mean_square_of_a_row_is_about_1() -> None:
    square_R = (HASHING.embed(PAIRS[:5], "cpu", None) ** 2).mean(1)
    assert square_R.mean() == pytest.approx(1, abs=0.1)
    assert square_R.min() > 0.7
    assert square_R.max() < 1.3


def test_similar_texts_lie_nearer_than_others() -> None:
    table_RD = HASHING.embed(PAIRS, "cpu", None)
    table_RD /= np.linalg.norm(table_RD, axis=1, keepdims=True)
    likeness_RR = table_RD @ table_RD.T
    reworded, other = likeness_RR[0, 2], likeness_RR[0, 3]
    assert reworded > other + 0.3
    inflected, unlike = (
        np.corrcoef(HASHING.embed([("Immigration?", "x"), (text, "x")], "cpu", None)[:, :256])[0, 1]
        for text in ("Immigrants?", "Wealth?")
    )
    assert inflected > unlike + 0.2


def test_question_and_option_have_a_half_each() -> None:
    table_RD = HASHING.embed(PAIRS, "cpu", None)
    assert np.array_equal(table_RD[0, :256], table_RD[1, :256])  # one question
    assert not np.array_equal(table_RD[0, 256:], table_RD[1, 256:])
    assert np.array_equal(table_RD[0, 256:], table_RD[2, 256:])  # one option


def test_the_table_is_computed_once_and_read_back_bitwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plurallm")
    first_RD = embedding_table(PAIRS, HASHING, tmp_path)
    (file,) = tables(tmp_path)
    written = file.stat()
    second_RD = embedding_table(PAIRS, HASHING, tmp_path)
    assert embed_messages(caplog) == ["embedding 7 texts with hashing"]
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (written.st_mtime_ns, written.st_ino)
    assert first_RD.dtype == torch.float32
    assert torch.equal(first_RD, second_RD)
    assert np.array_equal(first_RD.numpy(), HASHING.embed(PAIRS, "cpu", None))
    assert not list(file.parent.glob("*.part"))


def test_what_is_in_the_cache_is_what_is_used(tmp_path: Path) -> None:
    embedding_table(PAIRS, HASHING, tmp_path)
    (file,) = tables(tmp_path)
    np.save(file, np.full((len(PAIRS), 512), 3, dtype=np.float32))
    assert (embedding_table(PAIRS, HASHING, tmp_path) == 3).all()


def test_the_returned_table_is_not_the_file(tmp_path: Path) -> None:
    table_RD = embedding_table(PAIRS, HASHING, tmp_path)
    table_RD.zero_()
    assert embedding_table(PAIRS, HASHING, tmp_path).any()


@pytest.mark.parametrize(
    ("pairs", "width"),
    [
        (PAIRS, 256),
        (PAIRS[:-1], 512),
        (PAIRS[::-1], 512),
        ([*PAIRS[:-1], ("Where do you stand on this scale?", "3")], 512),
        ([*PAIRS[:-1], ("Where do you stand on this scale", "?2")], 512),
    ],
)
def test_other_texts_or_another_width_have_another_table(
    tmp_path: Path, pairs: list[tuple[str, str]], width: int
) -> None:
    embedding_table(PAIRS, HASHING, tmp_path)
    table_RD = embedding_table(pairs, HashingEmbedding("hashing", width), tmp_path)
    assert len(tables(tmp_path)) == 2
    assert np.array_equal(
        table_RD.numpy(), HashingEmbedding("hashing", width).embed(pairs, "cpu", None)
    )


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
    file.write_text("no table")


def pickled(file: Path) -> None:
    np.save(file, np.array([{"a": 1}] * len(PAIRS), dtype=object), allow_pickle=True)


def too_few_rows(file: Path) -> None:
    np.save(file, np.zeros((len(PAIRS) - 1, 512), dtype=np.float32))


def too_wide_numbers(file: Path) -> None:
    np.save(file, np.zeros((len(PAIRS), 512)))


@pytest.mark.parametrize("damage", [cut, empty, text, pickled, too_few_rows, too_wide_numbers])
def test_a_damaged_table_is_refused_by_name(tmp_path: Path, damage) -> None:
    embedding_table(PAIRS, HASHING, tmp_path)
    (file,) = tables(tmp_path)
    damage(file)
    with pytest.raises(ValueError, match="delete it") as refusal:
        embedding_table(PAIRS, HASHING, tmp_path)
    assert str(file) in str(refusal.value)
    file.unlink()
    embedding_table(PAIRS, HASHING, tmp_path)


OTHER_PROCESS = """
import logging, sys, time
from pathlib import Path
import sklearn.feature_extraction.text
from plurallm.data.embedders.hashing import HashingEmbedding
from plurallm.data.embedding.table import embedding_table
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
folder = Path(sys.argv[1])
pairs = [(f"Question number {n} of many?", f"Answer {n}") for n in range(4000)]
(folder / "ready").touch()
while not (folder / "go").exists():
    time.sleep(0.001)
table = embedding_table(pairs, HashingEmbedding("hashing", 256), folder)
sys.stdout.buffer.write(table.numpy().tobytes())
"""


def test_two_processes_that_start_together_make_one_table(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "plurallm")
    pairs = [(f"Question number {number} of many?", f"Answer {number}") for number in range(4000)]
    project = Path(__file__).resolve().parent.parent
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"},
    )
    while not (tmp_path / "ready").exists() and other.poll() is None:
        time.sleep(0.001)
    (tmp_path / "go").touch()
    table_RD = embedding_table(pairs, HashingEmbedding("hashing", 256), tmp_path)
    output, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors.decode()
    assert output == table_RD.numpy().tobytes()
    assert len(embed_messages(caplog)) + errors.count(b"embedding 4000 texts") == 1
    assert len(tables(tmp_path)) == 1
    assert not list((tmp_path / "embeddings").glob("*.part"))
