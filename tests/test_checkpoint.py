"""Checkpoints: complete or not at all, and never silently another."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from plurallm.record.checkpoint import (
    Arrays,
    Checkpoint,
    load_checkpoint,
    save_arrays,
    save_checkpoint,
)

STATE = {
    "totals": {"train": 1.25, "bytes_up": 2**40},
    "best": {"round": 3, "cell": "train_groups.unseen_questions", "alignment": 0.1 + 0.2},
    "text": 'grüße "日本"\n',
    "none": None,
}


def arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return {
        "first.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "double": rng.normal(size=4),
        "scalar": np.array(rng.normal()),
        "steps": rng.integers(0, 2**60, 3),
        "special": np.array([np.nan, -0.0, np.inf, 5e-324]),
        "empty": np.zeros((0, 4), dtype=np.float32),
    }


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        (array.dtype, array.shape, array.tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name, array in one.items()
    )


def save_rounds(folder: Path, *rounds: int) -> list[Path]:
    return [save_checkpoint(folder, Checkpoint(n, arrays(n), STATE)) for n in rounds]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    saved = Checkpoint(7, arrays(), STATE)
    path = save_checkpoint(tmp_path / "new" / "checkpoint", saved)
    assert path.is_file()
    loaded = load_checkpoint(path.parent)
    assert loaded.round_number == 7
    assert same(loaded.arrays, saved.arrays)
    assert loaded.state == STATE


@pytest.mark.parametrize(
    "view",
    [
        np.arange(6.0).reshape(2, 3).T,
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12.0)[::3],
        np.arange(4.0)[::-1],
    ],
    ids=["transposed", "Fortran", "strided", "reversed"],
)
def test_an_array_that_is_a_view_is_saved_by_its_values(tmp_path: Path, view: np.ndarray) -> None:
    save_arrays(tmp_path / "model.safetensors", {"w": view})
    assert np.array_equal(load_file(tmp_path / "model.safetensors")["w"], view)
    save_checkpoint(tmp_path, Checkpoint(1, {"w": view}, {}))
    assert np.array_equal(load_checkpoint(tmp_path).arrays["w"], view)


def test_the_two_newest_are_kept_and_nothing_else(tmp_path: Path) -> None:
    save_rounds(tmp_path, 5)
    assert names(tmp_path) == ["round-000005.safetensors"]
    save_rounds(tmp_path, 10, 100, 1000)
    assert names(tmp_path) == ["round-000100.safetensors", "round-001000.safetensors"]
    assert load_checkpoint(tmp_path).round_number == 1000


def test_a_round_that_is_saved_again_replaces_itself(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1, 2)
    save_checkpoint(tmp_path, Checkpoint(2, arrays(99), {}))
    assert names(tmp_path) == ["round-000001.safetensors", "round-000002.safetensors"]
    assert same(load_checkpoint(tmp_path).arrays, arrays(99))


def test_without_a_checkpoint_there_is_no_file(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="holds no complete checkpoint") as error:
            load_checkpoint(folder)
        assert str(folder) in str(error.value)


def test_half_a_file_that_was_being_written_is_not_looked_at(tmp_path: Path) -> None:
    save_rounds(tmp_path, 1)
    (tmp_path / "round-000002.part").write_bytes(b"half")
    assert load_checkpoint(tmp_path).round_number == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip_in_the_data(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content)


def strip_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def swap_weights(path: Path) -> None:
    # Whole and readable, but not what was saved.
    other = save_checkpoint(path.parent.parent / "other", Checkpoint(2, arrays(50), STATE))
    content, header = path.read_bytes(), int.from_bytes(path.read_bytes()[:8], "little") + 8
    path.write_bytes(content[:header] + other.read_bytes()[header:])


@pytest.mark.parametrize(
    "damage", [cut, halve, empty, lengthen, flip_in_the_data, strip_metadata, swap_weights]
)
def test_a_damaged_newest_falls_back_to_the_one_before_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage
) -> None:
    folder = tmp_path / "checkpoint"
    _, newest = save_rounds(folder, 1, 2)
    damage(newest)
    with caplog.at_level(logging.WARNING, "plurallm"):
        loaded = load_checkpoint(folder)
    assert loaded.round_number == 1
    assert same(loaded.arrays, arrays(1))
    assert len(caplog.messages) == 1
    assert str(newest) in caplog.messages[0]
    assert "damaged" in caplog.messages[0]


def test_when_both_are_damaged_both_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved = save_rounds(tmp_path, 1, 2)
    for path in saved:
        cut(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path)
    for path, message in zip(saved[::-1], caplog.messages, strict=True):
        assert str(path) in message


def test_no_flipped_bit_is_taken_for_a_checkpoint(tmp_path: Path) -> None:
    small = {"w": np.array([1.5, -2.5], dtype=np.float32)}
    path = save_checkpoint(tmp_path / "one", Checkpoint(1, small, {"best": None}))
    content = path.read_bytes()
    folder = tmp_path / "flipped"
    folder.mkdir()
    flipped_path = folder / path.name
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        flipped_path.write_bytes(flipped)
        with pytest.raises(FileNotFoundError):
            load_checkpoint(folder)
    shutil.copy(path, flipped_path)
    assert load_checkpoint(folder).round_number == 1


def test_writing_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (saved,) = save_rounds(tmp_path, 1)
    before = saved.read_bytes()
    with pytest.raises((TypeError, ValueError)):
        save_checkpoint(tmp_path, Checkpoint(1, arrays(), {"no JSON": object()}))
    with pytest.raises(Exception):  # noqa: B017, PT011  (what safetensors says of objects)
        save_arrays(saved, {"objects": np.array([object()])})
    assert saved.read_bytes() == before
    assert names(tmp_path) == [saved.name]


def test_a_models_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for seed in (1, 2):
        save_arrays(path, arrays(seed))
        assert same(load_file(path), arrays(seed))
    assert names(tmp_path) == ["model.safetensors"]


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from plurallm.record.checkpoint import Checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # as a disk that is full
try:
    save_checkpoint(Path(sys.argv[1]), Checkpoint(3, {"w": np.ones(9999)}, {}))
except OSError as error:
    print(error)
"""


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/round-000003.safetensors cannot be written: ")
    assert "File too large" in line
