"""The benchmark runs and has its rows; what it counts is right. No time is asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from measures.bench import count_flops, count_operations, peak_memory

SCRIPT = Path(__file__).resolve().parent.parent / "scripts/benchmark.py"


def benchmark(tmp_path, *arguments):
    """Run the benchmark on a survey of its own size and give the rows by name."""
    file = tmp_path / "result.json"
    command = [sys.executable, SCRIPT, "--threads", "1", "--json", file, "--cache", tmp_path]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())["rows"]
    assert all(math.isfinite(row["median"]) and row["median"] >= 0 for row in rows)
    return {row["measure"]: row for row in rows}


LOCAL = ("loading", "look_up", "evaluation", "training_step", "together", "aggregation")


def test_the_quick_form_measures_what_one_process_does(tmp_path):
    rows = benchmark(tmp_path, "--quick", "--width", "32", "--repeats", "1", "--only", *LOCAL)
    assert set(rows) >= {
        "load: file to tensors",
        "embedding table from the cache",
        "embeddings of one step's points",
        "evaluate 14 groups",
        "one training step",
        "2 steps of 8 groups, together",
        "operations a step",
        "of it on the host",
        "operations of a round's set-up",
        "of the products a step",
        "points with padding",
        "attention pairs with padding",
        "weights of 8 groups, together",
        "aggregate 8 updates",
    }
    assert rows["operations a step"]["ratio"] < 0.5
    assert 0 < rows["of it on the host"]["median"] < rows["operations a step"]["median"]
    padded = [rows[f"{what} with padding"]["ratio"] for what in ("points", "attention pairs")]
    assert 1 <= padded[0] <= padded[1]


@pytest.mark.slow
def test_the_quick_form_runs_both_engines(tmp_path):
    rows = benchmark(tmp_path, "--quick", "--only", "start_up", "rounds", "flower")
    assert set(rows) >= {
        "round: 8 groups, one node, in one process",
        "round: 8 groups, a node each, in one process",
        "round: 8 groups, a node each, flwr run",
        "start-up",
    }
    assert rows["round: 8 groups, a node each, in one process"]["ratio"] > 1


@pytest.mark.slow
def test_the_job_is_held_against_the_published_code_at_the_same_number_of_rounds(tmp_path):
    rows = benchmark(tmp_path, "--job", "--quick", "--width", "32", "--repeats", "1")
    assert set(rows) >= {
        "the whole job",
        "of it load",
        "of it rounds",
        "of it evaluations",
        "of it the rest",
        "its rounds but the last",
        "points of a step",
    }
    assert rows["of it rounds"]["against"] == "published: 47 s"  # 10 rounds of 4.7 s
    assert rows["its rounds but the last"]["ratio"] > 1
    parts = sum(rows[f"of it {part}"]["median"] for part in ("load", "rounds", "evaluations"))
    assert parts < rows["the whole job"]["median"]


def test_operations_are_counted_without_views_and_with_those_of_the_backward_pass():
    weight = torch.ones(3, 4, requires_grad=True)
    x = torch.ones(5, 4)

    def forward():
        return x @ weight.T  # the transpose is a view

    assert count_operations(forward) == 1
    assert count_flops(forward) == 2 * 5 * 4 * 3
    # Of weight alone: x needs no gradient.
    assert count_flops(lambda: forward().sum().backward()) == 2 * (2 * 5 * 4 * 3)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's peak")
def test_peak_memory_sees_what_was_freed_again():
    with peak_memory(torch.device("cpu")) as found:
        torch.ones(25_000_000).sum()
    assert found[0] == pytest.approx(100, abs=15)
