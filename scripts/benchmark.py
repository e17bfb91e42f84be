"""Measure what a federation costs on this machine: loading, scoring, training, rounds, memory.

A development tool for a checkout: it needs ``tests/``. ``docs/benchmark.md`` explains the rows.
"""

import argparse
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from shlex import join
from statistics import median
from timeit import repeat, timeit
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
from rich import box
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plurallm.client_app import app
from plurallm.config import hydra_quote
from plurallm.divergence import jensen_shannon_distance
from plurallm.evaluation import GroupScore, Predictor, model_predictor, score_group
from plurallm.local_data import LocalData, local_data
from plurallm.preferences import split_context
from plurallm.randomness import generator
from plurallm.roles import count_seen, groups_of_node
from plurallm.simulation import InProcessGrid
from plurallm.strategy import GroupFedAvg, OrderedMean, make_aggregator
from plurallm.tasks import group_tasks, load_survey, survey_table
from plurallm.training import train_group

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
reference = import_module("reference")


@dataclass(frozen=True)
class Row:
    """One line of the result; `ratio` is the median over what it is held against."""

    measure: str
    median: float
    unit: str
    against: str = ""
    ratio: float | None = None


@dataclass(frozen=True)
class Bench:
    """What the measures share; the slow form answers every `stride`-th question."""

    local: LocalData
    overrides: str
    repeats: int
    stride: int
    gflop_per_second: float


def medians(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action; they take turns, so that other work disturbs all alike."""
    runs = [[timeit(action, number=1) for action in actions] for _ in range(repeats)]
    return [median(times) for times in zip(*runs, strict=True)]


def against_floor(bench: Bench, measure: str, action: Callable[[], object], parts: int) -> Row:
    """Hold an action of so many like parts against its matrix products at full rate."""
    # Counted with the plain attention: the counter does not know the CPU's fused one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        action()
    gflop = counter.get_total_flops() / 1e9 / parts
    seconds, floor = medians(bench.repeats, action)[0] / parts, gflop / bench.gflop_per_second
    against = f"floor: {show(1e3 * floor)} ms, {gflop:.3g} GFLOP at {bench.gflop_per_second:.0f}/s"
    return Row(measure, 1e3 * seconds, "ms", against, seconds / floor)


def loading(bench: Bench) -> Iterator[Row]:
    """Survey, tensors and embedding table."""
    config = bench.local.config
    survey = load_survey(config.data)
    actions: dict[str, Callable[[], object]] = {
        "load the survey": lambda: load_survey(config.data),
        "count seen questions": lambda: count_seen(survey, config),
        "lay out the groups' tensors": lambda: group_tasks(survey, [*bench.local.tasks], config),
        "embedding table from the cache": lambda: survey_table(survey, config),
    }
    for name, seconds in zip(actions, medians(bench.repeats, *actions.values()), strict=True):
        yield Row(name, 1e3 * seconds, "ms")


def evaluation(bench: Bench) -> Iterator[Row]:
    """All groups, one draw: a group in one pass, against one pass of context and question each."""
    model, table_RD, config = bench.local.model, bench.local.table_RD, bench.local.config
    plain = reference.PlainTransformer(table_RD.shape[1], config.model)
    plain.copy_weights(model)
    episodes, distances = [], list[float]()
    for task in bench.local.tasks.values():
        draws = generator(config.seed, "evaluation", task.name, 0)
        context, rest = split_context(task.seen, config.evaluation.context_questions, draws)
        target = rest.join(task.unseen)
        sample_Q = torch.arange(0, len(target), bench.stride)
        episodes.append((context, target, target.take(sample_Q)))

    def fast() -> tuple[Predictor, list[GroupScore]]:
        predict = model_predictor(model, table_RD)
        return predict, [score_group(task, predict, config) for task in bench.local.tasks.values()]

    def slow() -> None:
        by_question = partial(reference.evaluate_by_question, plain, table_RD)
        distances[:] = [by_question(context, sample) for context, _, sample in episodes]

    points = partial(reference.points, table_RD=table_RD)
    once = partial(map, points, [context for context, _, _ in episodes])  # not for each question
    fast_s, slow_s, once_s = medians(bench.repeats, fast, slow, lambda: [*once()])
    (predict, scores), differences = fast(), []
    for (context, target, _), score, distance in zip(episodes, scores, distances, strict=True):
        share_QO = predict(context, target.without_shares()).double()
        distance_Q = jensen_shannon_distance(target.share_QO.double(), share_QO)
        differences.append(distance_Q[:: bench.stride].mean().item() - distance)
        seen_Q = distance_Q[: score.seen_questions]  # shows that `score_group` takes these episodes
        differences.append(seen_Q.mean().item() - score.seen_distance[0])
    gap = max(map(abs, differences))
    if not gap < 1e-4:
        raise RuntimeError(f"the two forms of the evaluation differ by {gap:.1e} in score")
    answers, timed = (sum(len(episode[part]) for episode in episodes) for part in (1, 2))
    slow_s = once_s + (slow_s - once_s) * answers / timed
    against = f"slow: {show(slow_s)} s, scaled from {timed} of {answers}; scores within {gap:.0e}"
    yield Row("evaluate all groups", 1e3 * fast_s, "ms", against, fast_s / slow_s)
    yield against_floor(bench, "evaluate all groups", fast, 1)


def training_step(bench: Bench) -> Iterator[Row]:
    """One step of local training, the mean over a first round of all training groups."""
    model, table_RD, config = bench.local.model, bench.local.table_RD, bench.local.config
    tasks = [bench.local.tasks[group] for group in bench.local.roles.train]
    steps = len(tasks) * config.training.steps_per_round
    train = partial(train_group, model, table_RD=table_RD, config=config, round_number=1)
    yield against_floor(bench, "one training step", lambda: [*map(train, tasks)], steps)


def training_round(bench: Bench) -> Iterator[Row]:
    """One round without evaluation, through strategy, messages and clients."""
    roles, nodes = bench.local.roles, len(bench.local.roles.groups)
    grid = InProcessGrid(app, nodes, {"overrides": bench.overrides})
    hosts = {node: groups_of_node(roles, node - 1, nodes) for node in grid.get_node_ids()}
    aggregator = make_aggregator(bench.local.config, roles, Path("."))
    strategy = GroupFedAvg(bench.local.config, roles, hosts, aggregator, run="benchmark")
    arrays = ArrayRecord(bench.local.model.state_dict())
    trained: list[float] = []

    def one_round() -> None:
        asked = strategy.configure_train(1, arrays, ConfigRecord(), grid)
        replies: list[Any] = [*grid.send_and_receive(asked)]
        strategy.aggregate_train(1, replies)
        trained.append(sum(sum(reply.content["metrics"]["seconds"]) for reply in replies))

    seconds = [timeit(one_round, number=1) for _ in range(bench.repeats)]
    whole, rest = median(seconds), median(s - t for s, t in zip(seconds, trained, strict=True))
    yield Row(f"one round of {len(roles.train)} groups", 1e3 * whole, "ms")
    yield Row("of it not local training", 1e3 * rest, "ms", "the round", rest / whole)


def aggregation(bench: Bench) -> Iterator[Row]:
    """The weighted mean of updates that arrive in order."""
    shapes = {name: weight.shape for name, weight in bench.local.model.state_dict().items()}
    # Eight in turn: more than a processor's caches hold; a hundred would only fill the memory.
    updates = [{name: torch.randn(s).numpy() for name, s in shapes.items()} for _ in range(8)]

    def aggregate(count: int) -> None:
        mean = OrderedMean(map(str, range(count)))
        for number in range(count):
            mean.add(str(number), updates[number % len(updates)], number + 1.0)
        mean.average()

    few, many = medians(bench.repeats, lambda: aggregate(8), lambda: aggregate(100))
    yield Row("aggregate 8 updates", 1e3 * few, "ms")
    yield Row("aggregate 100 updates", 1e3 * many, "ms", "8 updates", many / few)


def memory(bench: Bench) -> Iterator[Row]:
    """Peak resident memory of the process so far."""
    unit = 1e-6 if sys.platform == "darwin" else 1024e-6  # counted in bytes, elsewhere in KiB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    table = bench.local.table_RD.nbytes / 1e6
    yield Row("peak memory so far", peak, "MB", f"embedding table: {show(table)} MB", peak / table)


def show(value: float | None) -> str:
    """Three digits, or the whole number."""
    return "" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add, extent = parser.add_argument, parser.add_mutually_exclusive_group()
    add("--survey", type=Path, metavar="FILE", help="default: the synthetic survey")
    add("--layout", choices=("globalopinionqa", "custom"), help="of the survey's file")
    add("--width", type=int, default=512, help="of the hashed embedding (default 512)")
    add("--threads", default="null", help="to compute with (default: torch's)")
    add("--repeats", type=int, default=5, help="runs behind each median (default 5)")
    extent.add_argument("--quick", action="store_true", help="a fifth of the slow form's sample")
    extent.add_argument("--full", action="store_true", help="the slow form on every question")
    add("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args()
    if (options.survey is None) != (options.layout is None):
        parser.error("--survey and --layout go together")
    if options.repeats < 1:
        parser.error(f"--repeats must be at least 1, but is {options.repeats}")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: there is no folder {options.json.parent}")
    overrides = ["device=cpu", f"embedding.width={options.width}", f"threads={options.threads}"]
    if options.survey:
        path = hydra_quote(str(options.survey.absolute()))
        overrides += [f"data={options.layout}", f"data.path={path}"]
    try:
        local = local_data(Context(1, 0, {}, RecordDict(), {"overrides": join(overrides)}))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    square = torch.randn(1024, 1024)
    rate = 2 * 1.024**3 / min(repeat(lambda: square @ square, number=1, repeat=100))  # undisturbed
    stride = 1 if options.full else 50 if options.quick else 10
    bench = Bench(local, join(overrides), options.repeats, stride, rate)
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text() if info.exists() else "")
    machine: dict[str, Any] = {"cpu": named[1] if named else "unknown"}
    machine |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    machine |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    measures = (memory, evaluation, training_step, training_round, aggregation, memory, loading)
    rows = [row for measure in measures for row in measure(bench)]
    table = Table(*Row.__annotations__, box=box.MARKDOWN)
    for row in rows:
        table.add_row(row.measure, show(row.median), row.unit, row.against, show(row.ratio))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), table, sep="\n")
    if options.json:
        result = {"machine": machine, "overrides": overrides, "rows": [*map(asdict, rows)]}
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
