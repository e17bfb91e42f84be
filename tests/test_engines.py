"""Flower's simulation engine against the in-process one, and clients that fail in it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tiny
from run import LONGEST_TEMPORARY, plan_resources, temporary_folder

from plurallm.config.compose import load_config
from plurallm.deploy.processes import RunError
from plurallm.federate.in_process import run_in_process

REPOSITORY = Path(__file__).resolve().parent.parent
TINY = [
    *tiny.TINY,
    "data.num_groups=5",
    "evaluation.every=2",
    "federation.rounds=4",
    "federation.wait_seconds=90",
    "threads=1",
]

pytestmark = pytest.mark.slow


def flower_run(repository, folder, *overrides):
    command = [sys.executable, repository / "scripts/run.py", *TINY, f"output_dir={folder}"]
    return subprocess.run(
        [*command, *overrides],
        cwd=folder.parent,
        env=os.environ | {"PYTHONPATH": str(repository)},  # its package, not the installed one
        capture_output=True,
        text=True,
        check=False,
    )


def result_bytes(folder):
    files = ("metrics.jsonl", "model/model.safetensors", "model-best/model.safetensors")
    return [(folder / file).read_bytes() for file in files]


def test_both_engines_give_the_same_bits(tmp_path):
    run_in_process([*TINY, f"output_dir={tmp_path / 'here'}"])
    flower = flower_run(REPOSITORY, tmp_path / "flower")
    assert flower.returncode == 0, flower.stderr
    assert result_bytes(tmp_path / "here") == result_bytes(tmp_path / "flower")
    shared = flower_run(REPOSITORY, tmp_path / "shared", "federation.nodes=2")
    assert shared.returncode == 0, shared.stderr
    assert result_bytes(tmp_path / "here") == result_bytes(tmp_path / "shared")


@pytest.mark.parametrize("nodes", [1, 5])
def test_actors_share_the_cores_whatever_the_caller_has(tmp_path, monkeypatch, nodes):
    for library in ("OMP", "MKL"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "3")
    short = ("threads=null", "federation.rounds=1", f"federation.nodes={nodes}")
    done = flower_run(REPOSITORY, tmp_path / "run", *short)
    assert done.returncode == 0, done.stderr
    resources, _ = plan_resources(load_config(short, None), nodes)
    threads = int(re.search(r"client-resources-num-cpus=(\d+)", resources)[1])
    assert json.loads((tmp_path / "run/summary.json").read_text())["threads"] == [threads]


def spoiled_checkout(tmp_path, in_training):
    """A copy of the project whose clients run some more code when they are asked to train."""
    checkout = tmp_path / "checkout"
    for name in ("plurallm", "conf", "scripts"):
        shutil.copytree(REPOSITORY / name, checkout / name)
    shutil.copy2(REPOSITORY / "pyproject.toml", checkout)
    client = checkout / "plurallm/federate/client_app.py"
    mark = '    run = str(message.content["config"]["run"])\n'
    text = client.read_text()
    assert text.count(mark) == 1
    client.write_text(text.replace(mark, mark + in_training))
    return checkout


def test_a_client_process_that_dies_is_noticed(tmp_path):
    # Ray hands further messages to the dead actor: more groups fail, and soon the run must stop.
    checkout = spoiled_checkout(
        tmp_path,
        '    if "Belora" in asked and round_number == 2:\n'
        "        import os\n\n        os._exit(1)\n",
    )
    folder = tmp_path / "run"
    flower = flower_run(checkout, folder, "data.train_groups=[Belora]", "data.groups=all")
    rounds = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    if len(rounds) > 1:
        assert "died" in rounds[1]["groups_refused"]["Belora"]
    if flower.returncode == 0:
        assert [line["round"] for line in rounds] == [1, 2, 3, 4]
    else:
        assert "groups brought an update" in flower.stderr
        assert "ActorDiedError: The actor died unexpectedly" in flower.stderr
        assert not (folder / "summary.json").exists()


def test_clients_that_all_raise_fail_the_run_with_their_reason(tmp_path):
    checkout = spoiled_checkout(tmp_path, '    raise OSError("the disk is full")\n')
    flower = flower_run(checkout, tmp_path / "run")
    assert flower.returncode == 1
    assert "round 1: 0 of" in flower.stderr
    assert "the disk is full" in flower.stderr
    assert not (tmp_path / "run/summary.json").exists()


def test_temporary_files_go_where_tmpdir_says_if_sockets_fit_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(str(tmp_path)) > LONGEST_TEMPORARY
    short = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    try:
        for wanted, parent in ((str(short), short), (str(tmp_path), Path("/tmp"))):
            monkeypatch.setattr(tempfile, "tempdir", None)
            monkeypatch.setenv("TMPDIR", wanted)
            made = temporary_folder()
            made.rmdir()
            assert made.parent == parent
        monkeypatch.setattr(tempfile, "tempdir", str(short / "gone"))
        with pytest.raises(RunError, match="set TMPDIR to a folder with space"):
            temporary_folder()
    finally:
        short.rmdir()
