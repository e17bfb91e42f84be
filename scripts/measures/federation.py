"""Rounds of whole federations in both engines, their start-up and memory, and the mean."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from run import plan_resources

from measures.bench import Bench, Row, against_bytes, medians, megabytes, reference, show
from plurallm.config.compose import load_config
from plurallm.config.overrides import hydra_quote
from plurallm.federate.aggregators.ordered_mean import OrderedMean
from plurallm.record.checkpoint import Arrays

REPOSITORY = Path(__file__).resolve().parents[2]

COMMANDS = {
    "in one process": (sys.executable, "-c", "from plurallm.cli import main; main()", "train"),
    "flwr run": (sys.executable, str(REPOSITORY / "scripts/run.py")),
}
"""How each engine runs a federation."""

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Run:
    """A federation that was run by a command.

    Attributes
    ----------
    seconds : float
        From the command to its end.
    start : float
        Seconds from the command to the start of the first round.
    memory : float
        Most MB that the command's own process had in memory; 0 where the system does not say.
    timings : list of dict
        The run's ``timings.jsonl``.
    """

    seconds: float
    start: float
    memory: float
    timings: list[dict[str, Any]]

    def total(self, phase: str) -> float:
        """Seconds of a phase, ``train`` or ``evaluate``, over all rounds."""
        return float(sum(line["seconds"].get(phase, 0.0) for line in self.timings))

    def rounds(self) -> list[tuple[float, float]]:
        """Seconds of each round but the last: in all, evaluation left out, and of training alone.

        A round goes from its beginning to the next one's: the mean, records and checkpoints too.
        Training alone is what the clients' own clocks count, over all groups.
        """
        return [
            (
                following["began"] - line["began"] - line["seconds"].get("evaluate", 0.0),
                sum(own["seconds"] for own in line["groups"].values()),
            )
            for line, following in pairwise(self.timings)
        ]


def run_command(engine: str, overrides: Sequence[str], environment: dict[str, str]) -> Run:
    """Run a federation in a folder of its own and read what it took."""
    with TemporaryDirectory() as temporary:
        folder, log = Path(temporary) / "run", Path(temporary) / "log"
        own = f"output_dir={hydra_quote(str(folder))}"
        started = time.perf_counter()
        first_round = memory = 0.0
        file = folder / "timings.jsonl"
        with (
            log.open("wb") as output,
            subprocess.Popen(
                [*COMMANDS[engine], *overrides, own],
                cwd=temporary,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            ) as process,
        ):
            status = Path(f"/proc/{process.pid}/status")
            try:
                while process.poll() is None:
                    if not first_round and file.exists() and file.read_text().endswith("\n"):
                        first_round = time.perf_counter() - started
                    # Not the child's resource usage: that begins with what its parent had.
                    memory = max(memory, megabytes(status, "VmHWM"))
                    time.sleep(0.02)
            finally:
                process.terminate()  # where the benchmark is stopped; both commands clean up
        seconds = time.perf_counter() - started
        if process.returncode or not first_round:
            raise RuntimeError(f"{engine} failed:\n{log.read_text()[-2000:]}")
        timings = [json.loads(line) for line in (folder / "timings.jsonl").read_text().splitlines()]
    start = first_round - sum(timings[0]["seconds"].values())
    return Run(seconds, start, memory, timings)


def rounds(bench: Bench) -> Iterator[Row]:
    """Rounds in one process, for each number of groups, on one node and on a node for each."""
    for count in bench.sizes:
        for nodes in ("1", "null"):
            yield from _engine(bench, "in one process", count, nodes)


def flower(bench: Bench) -> Iterator[Row]:
    """Rounds of Flower's simulation engine, each client with one thread."""
    for count in bench.sizes[:1] if bench.quick else bench.sizes:
        for nodes in ("null",) if bench.quick else ("1", "null"):
            yield from _engine(bench, "flwr run", count, nodes)


def _engine(bench: Bench, engine: str, count: int, nodes: str) -> Iterator[Row]:
    measured = 2 if bench.quick else max(3, bench.repeats)
    skip = 1  # the first round of a process also lays out its data; the last has no successor
    overrides = [
        *bench.with_groups(count),
        *(f"federation.nodes={nodes}", f"federation.rounds={measured + skip + 1}"),
        f"evaluation.every={measured + skip + 1}",
        "threads=1",
    ]
    run = run_command(engine, overrides, ENVIRONMENT)
    groups = len(run.timings[-1]["groups"])
    where = "one node" if nodes == "1" else "a node each"
    name = f"{groups} groups, {where}, {engine}"
    whole, alone = (median(spent) for spent in zip(*run.rounds()[skip:], strict=True))
    actors = 1
    against = f"training alone: {show(1e3 * alone)} ms"
    # Of the width that the requirement speaks of: messages weigh more beside smaller steps.
    required = "at most 1.05" if bench.local.table_RD.shape[1] == 4096 else ""
    if engine == "flwr run":
        actors = plan_resources(load_config(overrides, None), 1 if nodes == "1" else groups)[1]
        against = f"training alone, over {actors} at a time: {show(1e3 * alone / actors)} ms"
        required = ""
    yield Row(f"round: {name}", 1e3 * whole, "ms", against, whole * actors / alone, required)
    steps = groups * bench.config.training.steps_per_round
    yield Row("of it a group's step", 1e3 * whole / steps, "ms")
    yield Row("start-up", run.start, "s")
    if run.memory and engine == "in one process":
        table = bench.local.table_RD.nbytes / 1e6
        against = f"embedding table: {show(table)} MB"
        yield Row("peak memory of the process", run.memory, "MB", against, run.memory / table)


def start_up(bench: Bench) -> Iterator[Row]:
    """What starts before a run: imports, and the configuration."""
    parts = {
        "start Python and import the app": "import plurallm.federate.in_process",
        "the same, and compose the configuration": (
            "import plurallm.federate.in_process; from plurallm.config.compose import load_config; "
            "load_config([], None)"
        ),
    }
    commands = [[sys.executable, "-c", code] for code in parts.values()]
    seconds = medians(
        bench, *(lambda c=command: subprocess.run(c, check=True) for command in commands)
    )
    for name, spent in zip(parts, seconds, strict=True):
        yield Row(name, 1e3 * spent, "ms")


def aggregation(bench: Bench) -> Iterator[Row]:
    """The weighted mean of updates that arrive in order."""
    shapes = {name: weight.shape for name, weight in bench.local.model.state_dict().items()}
    # Eight in turn: more than a processor's caches hold; a hundred would only fill the memory.
    updates = [{name: torch.randn(s).numpy() for name, s in shapes.items()} for _ in range(8)]

    def aggregate(count: int) -> Arrays:
        mean = OrderedMean(map(str, range(count)))
        for number in range(count):
            mean.add(str(number), updates[number % len(updates)], number + 1.0)
        return mean.average()

    weighted = {str(number): (update, number + 1.0) for number, update in enumerate(updates)}
    few, many, slow = medians(
        bench,
        lambda: aggregate(8),
        lambda: aggregate(100),
        lambda: reference.weighted_mean(weighted),
    )
    own = aggregate(8)
    for name, mean in reference.weighted_mean(weighted).items():
        np.testing.assert_allclose(own[name], mean, rtol=0, atol=1e-5)
    yield Row("aggregate 8 updates", 1e3 * few, "ms", f"slow: {show(1e3 * slow)} ms", few / slow)
    weights = sum(shape.numel() for shape in shapes.values())
    # Every update is read in float32, the mean written in float64; sums may stay in the caches.
    moved = (8 * 4 + 8) * weights
    yield against_bytes("aggregate 8 updates", few, moved, bench.host_bandwidth)
    yield Row("aggregate 100 updates", 1e3 * many, "ms", "8 updates", many / few)
