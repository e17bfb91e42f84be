"""A run's folder, Weights & Biases offline, and progress."""

import io
import json
import logging
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from plurallm.config.digest import config_dict
from plurallm.config.schema import Config
from plurallm.record.lock import check_unlocked
from plurallm.record.progress import ProgressTracker, progress_text
from plurallm.record.run_folder import RunFolder
from plurallm.record.trackers import Trackers, open_trackers, versions
from plurallm.record.wandb_tracker import WandbTracker

CELLS = {
    "train_groups.seen_questions": {"alignment": 0.5, "worst": 0.25},
    "held_out_groups.seen_questions": {"alignment": 0.75, "worst": 0.125},
}


def metrics(number: int, **more: Any) -> dict[str, Any]:
    return {"round": number, "step": 2 * number, "train_loss": 1 / number, **more}


def timings(number: int) -> dict[str, Any]:
    return {"round": number, "seconds": {"train": 0.5 * number}, "bytes_up": 100 * number}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]


def log_rounds(folder: RunFolder, *numbers: int, **more: Any) -> None:
    for number in numbers:
        folder.log_round(metrics(number, **more), timings(number))


# The run's folder


def test_a_round_is_a_line_in_either_file(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs" / "run")
    log_rounds(folder, 1, 2, cells=CELLS)
    folder.close()
    assert lines(folder.path / "metrics.jsonl") == [metrics(n, cells=CELLS) for n in (1, 2)]
    assert lines(folder.path / "timings.jsonl") == [timings(n) for n in (1, 2)]


def test_lines_are_there_before_the_run_ends(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == b""
    log_rounds(folder, 1)
    assert lines(tmp_path / "run/metrics.jsonl") == [metrics(1)]
    assert not (tmp_path / "run/summary.json").exists()


def test_numbers_come_back_to_the_bit(tmp_path: Path) -> None:
    numbers = [*np.random.default_rng(1).normal(size=100).tolist(), 0.1 + 0.2, 5e-324, 1e22]
    folder = RunFolder(tmp_path / "run")
    folder.log_round({"round": 1, "numbers": numbers}, {"round": 1})
    assert lines(tmp_path / "run/metrics.jsonl")[0]["numbers"] == numbers


@pytest.mark.parametrize("started", [False, True])
def test_an_occupied_folder_is_refused_and_left_alone(tmp_path: Path, started: bool) -> None:
    folder = RunFolder(tmp_path)
    if started:
        log_rounds(folder, 1)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume=") as error:
        RunFolder(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_that_goes_on_is_not_resumed(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log_rounds(folder, 1, 2, 3)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="still goes on"):
        RunFolder(tmp_path, resumed_round=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    folder.close()
    RunFolder(tmp_path, resumed_round=1)
    assert [line["round"] for line in lines(tmp_path / "metrics.jsonl")] == [1]


def test_the_lock_names_its_holder_and_is_let_go_however_that_ends(tmp_path: Path) -> None:
    hold = "from pathlib import Path; from plurallm.record.lock import lock_run; import sys, time\n"
    hold += "with lock_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen(
        [sys.executable, "-c", hold, tmp_path], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = rf"still goes on \(process {holder.pid} on .+, since 20.+\)"
        for refused in (lambda: RunFolder(tmp_path), lambda: check_unlocked(tmp_path)):
            with pytest.raises(FileExistsError, match=said):
                refused()
        holder.kill()
    check_unlocked(tmp_path)
    RunFolder(tmp_path).close()


def test_a_folder_without_a_run_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    log_rounds(RunFolder(tmp_path), 1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log_rounds(RunFolder(tmp_path), 1, 2, 3, 4, 5)
    folder = RunFolder(tmp_path, resumed_round=3)
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert [line["round"] for line in lines(tmp_path / name)] == [1, 2, 3]
    log_rounds(folder, 4)
    for name in ("metrics.jsonl", "timings.jsonl"):
        assert [line["round"] for line in lines(tmp_path / name)] == [1, 2, 3, 4]


@pytest.mark.parametrize("keep", [1, 20, -1])
def test_resuming_cuts_half_a_line(tmp_path: Path, keep: int) -> None:
    log_rounds(RunFolder(tmp_path), 1, 2, 3)
    file = tmp_path / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    file.write_bytes(whole.removesuffix(last) + last[:keep])
    RunFolder(tmp_path, resumed_round=3)
    assert file.read_bytes() == whole.removesuffix(last)


def test_resuming_keeps_the_bytes_of_what_stays(tmp_path: Path) -> None:
    groups = {"Côte d'Ivoire": 1, 'a "b"\\c': 2, "two\u2028lines": 3, "next\x85line": 4}
    log_rounds(RunFolder(tmp_path), 1, 2, groups=groups)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    RunFolder(tmp_path, resumed_round=2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_configuration_and_overrides_are_saved(
    tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    overrides = ["data.train_groups=['Côte d\\'Ivoire']", "seed=3"]
    config = tiny_config(*overrides)
    RunFolder(tmp_path / "run").save_config(config, overrides)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text()) == config_dict(config)
    assert yaml.safe_load((tmp_path / "run/overrides.yaml").read_text()) == overrides


def test_models_and_summary_are_saved_and_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for number in (1, 2):
        weights = {"w": np.arange(3, dtype=np.float32) * number}
        folder.save_model("model-best", weights, {"round": number})
        assert np.array_equal(
            load_file(tmp_path / "model-best/model.safetensors")["w"], weights["w"]
        )
        assert json.loads((tmp_path / "model-best/config.json").read_text()) == {"round": number}
    folder.finish({"rounds": 2, "groups": {"Côte d'Ivoire": {}}})
    assert json.loads((tmp_path / "summary.json").read_text())["groups"] == {"Côte d'Ivoire": {}}
    assert not list(tmp_path.rglob("*.part"))


# Weights & Biases


@pytest.fixture
def nobody_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb-data"))


def wandb_records(folder: Path) -> list[Any]:
    """Records of the one offline run below a folder, to the last one."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 10
    while True:
        records = list(read_records(file.read_bytes()))
        # wandb's process writes the end some milliseconds after it has said that it is done.
        if any(kind(record) == "exit" for record in records) or time.monotonic() > deadline:
            return records
        time.sleep(0.01)


def read_records(content: bytes) -> Iterator[Any]:
    """Read a ``.wandb`` file: wandb brings the types of the records but no reader.

    It is LevelDB's log format after seven bytes of header. A record is cut into chunks that do not
    cross blocks of 32 KiB; a chunk has a checksum (4 bytes), a length (2) and a place in the
    record (1: all of it, 2: first, 3: middle, 4: last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    assert content.startswith(b":W&B")
    position, data = 7, b""
    while position + 7 <= len(content):
        left_in_block = 2**15 - position % 2**15
        if left_in_block < 7:
            position += left_in_block
            continue
        _, length, place = struct.unpack_from("<IHB", content, position)
        data = (b"" if place in (1, 2) else data) + content[position + 7 : position + 7 + length]
        position += 7 + length
        if position > len(content):
            return
        if place in (1, 4):
            yield Record.FromString(data)


def kind(record: Any) -> str:
    return str(record.WhichOneof("record_type"))


def values(items: Any) -> dict[str, Any]:
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


@pytest.mark.usefixtures("nobody_logged_in")
def test_an_offline_run_holds_every_number(
    tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config("tracking=wandb", "tracking.project=tests", "tracking.group=some")
    folder = tmp_path / "a-run"
    folder.mkdir()
    tracker = WandbTracker(config, folder)  # auto: nobody is logged in
    tracker.log_round(metrics(1, groups_trained=["A"], done=True), timings(1))
    tracker.log_round(metrics(4, cells=CELLS, groups={"A": {"role": "train"}}), timings(4))
    tracker.finish({"cells": CELLS, "seed": 3, "versions": {"plurallm": "0"}})
    tracker.close()

    records = wandb_records(folder)
    rounds = [
        (record.history.step.num, values(record.history.item))
        for record in records
        if kind(record) == "history"
    ]
    assert [step for step, _ in rounds] == [1, 4]
    for number, (_, logged) in zip((1, 4), rounds, strict=True):
        expected = {
            "round": number,
            "step": 2 * number,
            "train_loss": 1 / number,
            "seconds/train": 0.5 * number,
            "bytes_up": 100 * number,
        }
        if number == 4:
            expected |= {
                f"cells/{cell}/{name}": value
                for cell, scores in CELLS.items()
                for name, value in scores.items()
            }
        assert {key: value for key, value in logged.items() if key[0] != "_"} == expected

    (run,) = [record.run for record in records if kind(record) == "run"]
    assert (run.project, run.run_group, run.display_name) == ("tests", "some", "a-run")
    saved = values(run.config.update)
    assert saved["model"]["width"] == 16
    assert saved["seed"] == 1
    summary: dict[str, Any] = {}
    for record in records:
        if kind(record) == "summary":
            summary |= values(record.summary.update)
    assert summary["cells/held_out_groups.seen_questions/alignment"] == 0.75
    assert summary["seed"] == 3
    (end,) = [record.exit for record in records if kind(record) == "exit"]
    assert end.exit_code == 0


@pytest.mark.usefixtures("nobody_logged_in")
def test_a_run_that_goes_on_is_one_run_of_wandb(
    tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config("tracking=wandb", "tracking.mode=offline")
    ids = []
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        tracker = WandbTracker(config, tmp_path / folder)
        tracker.close()
        ids.append((tmp_path / folder / "wandb-id.txt").read_text().strip())
    assert ids[0] == ids[1] != ids[2]
    files = [file.stem for file in (tmp_path / "a").glob("wandb/offline-run-*/run-*.wandb")]
    assert set(files) == {f"run-{ids[0]}"}


@pytest.mark.usefixtures("nobody_logged_in")
def test_a_run_that_was_not_finished_ends_as_failed(
    tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config("tracking=wandb", "tracking.mode=offline")
    tracker = WandbTracker(config, tmp_path)
    tracker.log_round(metrics(1), timings(1))
    tracker.close()
    codes = [record.exit.exit_code for record in wandb_records(tmp_path) if kind(record) == "exit"]
    assert codes == [1]


# Progress


def test_off_a_terminal_a_round_is_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    tracker = ProgressTracker(rounds=20, first_round=2)
    with caplog.at_level(logging.INFO, "plurallm"):
        tracker.log_round(metrics(3), {})
        tracker.log_round(metrics(4, cells=CELLS), {})
    tracker.finish({})
    tracker.close()
    assert caplog.messages == [
        "round 3/20  loss 0.3333",
        "round 4/20  loss 0.2500  alignment 0.7500",
    ]
    assert stream.getvalue() == ""


def test_on_a_terminal_a_bar_shows_rounds_and_the_last_alignment(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal, caplog.at_level(logging.INFO, "plurallm"):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stderr", terminal)
        tracker = ProgressTracker(rounds=20, first_round=2)
        tracker.log_round(metrics(4, cells=CELLS), {})
        tracker.log_round(metrics(5), {})
        tracker.close()
        monkeypatch.undo()
        terminal.flush()
        written = b""
        while select.select([ours], [], [], 1.0)[0]:  # a terminal hands out what it got in parts
            written += os.read(ours, 2**16)
    os.close(ours)
    shown = written.decode()
    assert "5/20" in shown
    assert "loss 0.2000" in shown
    assert "alignment 0.7500" in shown.rpartition("loss 0.2000")[2]
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is back
    assert caplog.messages == []


def test_the_headline_is_of_held_out_groups_where_there_are_any() -> None:
    assert progress_text(metrics(4, cells=CELLS)).endswith("alignment 0.7500")
    trained = {"train_groups.seen_questions": CELLS["train_groups.seen_questions"]}
    assert progress_text(metrics(4, cells=trained)).endswith("alignment 0.5000")
    assert progress_text(metrics(4)) == "loss 0.2500"


# Together


class Recorded:
    def __init__(self, told: list[tuple[str, Any]]) -> None:
        self.told = told

    def log_round(self, metrics: Any, timings: Any) -> None:
        self.told.append(("round", metrics["round"]))

    def finish(self, summary: Any) -> None:
        self.told.append(("finish", summary))

    def close(self) -> None:
        self.told.append(("close", None))


def test_all_trackers_are_told_and_closed_after_a_failure_too() -> None:
    told: list[tuple[str, Any]] = []

    def run() -> None:
        with Trackers(Recorded(told), Recorded(told)) as trackers:
            trackers.log_round({"round": 3}, {})
            raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="power"):
        run()
    assert told == [("round", 3), ("round", 3), ("close", None), ("close", None)]


def test_the_folder_is_written_first(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    with open_trackers(tiny_config(), RunFolder(tmp_path / "run"), 0) as trackers:
        trackers.log_round(metrics(1), timings(1))
        trackers.finish({"rounds": 1})
    assert lines(tmp_path / "run/metrics.jsonl") == [metrics(1)]
    assert json.loads((tmp_path / "run/summary.json").read_text()) == {"rounds": 1}


def test_versions_name_what_numbers_depend_on() -> None:
    found = versions()
    assert {"plurallm", "python", "flwr", "torch", "numpy", "scikit-learn"} <= set(found)
    assert found["numpy"] == np.__version__
