"""The launcher: what it hands to Flower, how it ends, and what it leaves behind."""

import importlib.util
import itertools
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest
import torch
from flwr.common.config import parse_config_args
from hypothesis import given
from hypothesis import strategies as st

from plurallm.config.compose import load_config
from plurallm.config.overrides import hydra_quote, split_overrides

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
TINY = (
    *("data.num_groups=4", "data.num_questions=80", "data.held_out_fraction=0.5"),
    *("embedding.width=32", "model.width=16", "model.heads=2", "model.feedforward=16"),
    *("model.layers=1", "training.steps_per_round=2", "evaluation.every=1"),
)
HOSTILE = [
    "",
    "a=b c",
    "data.train_groups=[Nigeria,'India (Current national sample)']",
    "x=\"double\" and 'single' and `back`",
    "output_dir='/tmp/it\\'s here/a=b, c'",
    "k={a: 1, b: [2, 3]}",
    "key=$HOME;rm #\\ \\n",
    "tab\tline\nbreak\r\x7f\x01",
    "grüße=日本 🎉",
    'ends="""\\',
]


def load_launcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launcher", SCRIPTS / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launcher = load_launcher()


@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_run_config_is_toml_that_splits_into_the_overrides(overrides: list[str]) -> None:
    assert shlex.split(tomllib.loads(launcher.run_config(overrides))["overrides"]) == overrides


def test_flower_reads_hostile_overrides_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(launcher.run_config(HOSTILE), encoding="utf-8")
    assert split_overrides(parse_config_args([str(file)])["overrides"]) == HOSTILE


@pytest.mark.parametrize("threads", [None, 1, 3, 1000])
def test_actors_fit_into_cores_and_gpus(
    monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    config = load_config([f"threads={threads or 'null'}"], None)
    for nodes, gpus in itertools.product((1, 7, 130), (0, 1, 3)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        text, actors = launcher.plan_resources(config, nodes)
        values = parse_config_args([text])
        own = threads or max(1, 16 // nodes)  # by default no core is left idle
        share = values.pop("client-resources-num-gpus")
        assert values == {
            "num-supernodes": nodes,
            "client-resources-num-cpus": own,
            "init-args-num-cpus": actors * own,
        }
        assert 1 <= actors <= nodes
        assert isinstance(share, float)
        assert share == round(share, 4)
        assert (share > 0) == (gpus > 0)
        assert gpus == 0 or math.ceil(actors / gpus) * share <= 1


def test_a_named_device_is_left_to_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    text, _ = launcher.plan_resources(load_config(["device=cuda:1"], None), 4)
    assert parse_config_args([text])["client-resources-num-gpus"] == 0.0


def test_half_a_line_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert launcher.complete_lines(file) == []
    file.write_text('{"round": 1}\n{"rou')
    assert launcher.complete_lines(file) == ['{"round": 1}']


@pytest.mark.parametrize("script", ["run.sh", "test.sh"])
def test_help_needs_no_installation(script: str) -> None:
    shown = subprocess.run(["bash", SCRIPTS / script, "--help"], capture_output=True, check=True)
    assert shown.stdout.startswith(b"Usage: ")


def test_refused_configuration_starts_nothing(tmp_path: Path) -> None:
    run = start(tmp_path, "federation.roundz=3")
    out, err = run.communicate(timeout=120)
    assert run.returncode == 2
    assert out == ""
    assert "roundz" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"round": 1}\n')
    run = start(tmp_path, "output_dir=.")
    assert "holds a run" in run.communicate(timeout=120)[1]
    assert run.returncode == 2
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


# Whole runs. Everything that a test's launcher starts inherits a mark of that test.

MARK = "PLURALLM_TEST_MARK"


@pytest.fixture(autouse=True)
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark what the test starts; at its end nothing of that may be left."""
    value = uuid.uuid4().hex
    monkeypatch.setenv(MARK, value)
    yield value
    left = processes(value)
    for process in left:
        process.kill()
    assert left == []


def processes(mark: str) -> list[psutil.Process]:
    found = psutil.process_iter(["environ"])
    return [
        p for p in found if (p.info["environ"] or {}).get(MARK) == mark and p.pid != os.getpid()
    ]


def start(directory: Path, *overrides: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, SCRIPTS / "run.py", *overrides],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.1)


def home_of(folder: Path) -> Path:
    """Give the run's FLWR_HOME, from where Flower says that it installed the app."""
    found = re.search(r" to (\S+)/apps/", (folder / "flower.log").read_text())
    assert found is not None
    return Path(found[1])


@pytest.mark.slow
def test_two_runs_at_a_time_finish_and_agree(tmp_path: Path) -> None:
    runs = [start(tmp_path, *TINY, "federation.rounds=3") for _ in range(2)]
    folders = []
    for run in runs:
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        *_, last = out.splitlines()
        folders.append(Path(last.removeprefix("Run folder: ")))
        assert "round 3/3" in out
        assert "held out" in out
    assert len(set(folders)) == 2
    for folder in folders:
        assert folder.parent == tmp_path / "outputs"
        assert json.loads((folder / "summary.json").read_text())["rounds"] == 3
        assert not home_of(folder).exists()
    first, second = ((folder / "metrics.jsonl").read_bytes() for folder in folders)
    assert first == second


@pytest.mark.slow
def test_failed_run_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "it's [here], a=b"
    run = start(tmp_path, *TINY, "device=cuda:99", f"output_dir={hydra_quote(folder.name)}")
    _, err = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "The run failed: " in err
    assert "device=cuda:99 is not available" in err
    assert str(folder / "flower.log") in err
    assert not home_of(folder).exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_run_leaves_nothing_and_can_be_resumed(
    tmp_path: Path, mark: str, number: signal.Signals
) -> None:
    rounds = 20
    run = start(
        *(tmp_path, *TINY, f"federation.rounds={rounds}", "federation.checkpoint_every=1"),
        *("evaluation.every=20", "output_dir=a"),
    )
    wait_for(lambda: len(launcher.complete_lines(tmp_path / "a" / "metrics.jsonl")) > 2)
    begin = time.monotonic()
    run.send_signal(number)
    time.sleep(0.1)
    run.send_signal(number)  # an impatient user
    _, err = run.communicate(timeout=60)
    assert time.monotonic() - begin < 20
    assert run.returncode == 128 + number
    assert "Traceback" not in err
    assert processes(mark) == []
    assert not home_of(tmp_path / "a").exists()
    if number == signal.SIGINT:
        run = start(tmp_path, "resume=a")
        out, err = run.communicate(timeout=300)
        assert run.returncode == 0, err
        assert "round 1/" not in out
        lines = launcher.complete_lines(tmp_path / "a" / "metrics.jsonl")
        assert [json.loads(line)["round"] for line in lines] == list(range(1, rounds + 1))


@pytest.mark.slow
def test_stopped_while_starting(tmp_path: Path, mark: str) -> None:
    run = start(tmp_path, *TINY)
    wait_for(lambda: len(processes(mark)) > 1)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode == 130


@pytest.mark.slow
def test_lost_superlink_is_an_error(tmp_path: Path, mark: str) -> None:
    run = start(tmp_path, *TINY, "federation.rounds=1000", "output_dir=a")
    wait_for((tmp_path / "a" / "metrics.jsonl").exists)
    for process in processes(mark):
        if any("flower-superlink" in word for word in process.cmdline()):
            process.kill()
    _, err = run.communicate(timeout=60)
    assert run.returncode == 1
    assert "SuperLink ended" in err


def test_the_callers_threads_are_not_those_of_every_actor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert "OMP_NUM_THREADS" not in launcher.surroundings(tmp_path)["env"]
