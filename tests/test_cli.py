"""The command as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

TINY = [
    "data.num_groups=4",
    "data.num_questions=60",
    "embedding.width=32",
    "model.width=16",
    "model.heads=2",
    "federation.rounds=2",
    "threads=1",
]


def plurallm(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from plurallm.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_train_prints_the_result_and_its_folder(tmp_path):
    done = plurallm(tmp_path, "train", *TINY)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert done.stdout.rstrip().endswith(str(folder))
    assert "trained model" in done.stdout
    assert "uniform" in done.stdout
    assert "Avaria" in done.stdout
    assert "round 2/2" in done.stderr


def test_multirun_runs_one_after_the_other_wherever_its_flag_stands(tmp_path):
    for arguments in ((*TINY, "-m", "seed=1,2"), ("--multirun", *TINY, "seed=3,4")):
        done = plurallm(tmp_path, "train", *arguments)
        assert done.returncode == 0, done.stderr
    summaries = (tmp_path / "outputs").glob("*/summary.json")
    seeds = [json.loads(summary.read_text())["seed"] for summary in summaries]
    assert sorted(seeds) == [1, 2, 3, 4]


def test_embed_makes_the_table_and_says_how_large_it_is(tmp_path):
    arguments = ("embed", "data.num_questions=60", "embedding.width=32", "cache_dir=cache")
    for speed in ("texts/s", "out of the cache"):
        done = plurallm(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        facts = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        assert facts["time"].endswith(speed)
        assert facts["width"] == "32"
        (table,) = tmp_path.glob("cache/embeddings/*.npy")
        assert facts["table"] == str(table)
        assert np.load(table).shape == (int(facts["texts"].split(",")[0]), 32)


def test_errors_are_one_line_and_have_their_status(tmp_path):
    for arguments, message in (
        (["train", "model.widht=3"], "did you mean model.width?"),
        (["train", "data=custom", "data.path=no.csv"], f"{tmp_path}/no.csv: no such file"),
        (["train", "data.train_groups=[Nowhere]"], "'Nowhere', which the survey does not have"),
        (["train", "resume=nowhere"], "not the folder of a run"),
        (["embed", "embedding=causal_lm"], "embedding.model has no value"),
        (
            ["embed", "embedding=causal_lm", "embedding.model=./no"],
            f"{tmp_path}/no: no such folder",
        ),
    ):
        done = plurallm(tmp_path, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").iterdir())
        assert len([line for line in done.stderr.splitlines() if "plurallm:" in line]) == 1


def test_help_names_verbs_and_configuration(tmp_path):
    assert "train" in plurallm(tmp_path, "--help").stdout
    assert "globalopinionqa" in plurallm(tmp_path, "train", "--help").stdout
    unknown = plurallm(tmp_path, "trian")
    assert unknown.returncode == 2
    assert "unknown verb 'trian'" in unknown.stderr


def test_check_data_takes_a_file_and_overrides(tmp_path):
    rows = ["question_id,question,options,group,counts"]
    rows += [f'q{n},Question {n}?,"[""Yes"", ""No""]",North,"[{n + 1}, 7]"' for n in range(30)]
    (tmp_path / "my answers.csv").write_text("\n".join(rows))
    done = plurallm(tmp_path, "check-data", "my answers.csv", "data.unseen_questions=0")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/my answers.csv" in done.stdout
    assert "North" in done.stdout
    done = plurallm(tmp_path, "check-data", "my answers.csv", "data=opinionqa")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"plurallm: {tmp_path}/my answers.csv: column" in done.stderr
    assert "they are those of data=custom" in done.stderr
    assert "Traceback" not in done.stderr
    helped = plurallm(tmp_path, "check-data", "--help").stdout
    assert "globalopinionqa" in helped
    assert "source: custom" in helped
