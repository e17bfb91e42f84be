"""Measure what a federation costs on this machine: loading, scoring, training, rounds, memory.

A development tool for a checkout: the slow obvious form of the evaluation is that of the tests.
Everything runs on the CPU, in one process. ``docs/benchmark.md`` explains the rows.
"""

import argparse
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from shlex import join
from statistics import median
from time import perf_counter
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plurallm.client_app import LocalData, local_data
from plurallm.client_app import app as client_app
from plurallm.config import hydra_quote
from plurallm.divergence import jensen_shannon_distance
from plurallm.evaluation import GroupScore, model_predictor, score_group
from plurallm.model import PreferenceTransformer
from plurallm.preferences import split_context
from plurallm.randomness import generator
from plurallm.simulation import InProcessGrid
from plurallm.strategy import GroupFedAvg, OrderedMean
from plurallm.tasks import count_seen, group_tasks, groups_of_node, load_survey, survey_table
from plurallm.training import train_group

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
reference = import_module("reference")

AGREEMENT = 1e-4  # largest difference in score between the two forms of the evaluation


@dataclass(frozen=True)
class Row:
    """One line of the result: `ratio` is that of the median to what it is held `against`."""

    measure: str
    median: float
    unit: str
    against: str = ""
    ratio: float | None = None


@dataclass(frozen=True)
class Bench:
    """What the measures share; `stride`: the slow form answers every so many-th question."""

    local: LocalData
    overrides: tuple[str, ...]
    repeats: int
    stride: int


def medians(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action; they take turns, so that other work disturbs all alike."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(repeats):
        for action, times in zip(actions, seconds, strict=True):
            started = perf_counter()
            action()
            times.append(perf_counter() - started)
    return [median(times) for times in seconds]


def against_floor(bench: Bench, measure: str, action: Callable[[], object], parts: int) -> Row:
    """Hold an action of so many equal parts against its matrix products at full rate."""
    # Counted with the plain attention: the counter does not know the fused one of the CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        action()
    flops = counter.get_total_flops() / parts
    square = torch.randn(2048, 2048)
    times = [medians(1, lambda: square @ square)[0] for _ in range(10)]
    rate = 2 * 2048**3 / min(times)  # the best: a floor is what an idle machine could do
    seconds = medians(bench.repeats, action)[0] / parts
    floor = f"floor {show(1e3 * flops / rate)} ms: {flops / 1e9:.3g} GFLOP, {rate / 1e9:.0f}/s"
    return Row(measure, 1e3 * seconds, "ms", floor, seconds * rate / flops)


def measure_loading(bench: Bench) -> Iterator[Row]:
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


def measure_evaluation(bench: Bench) -> Iterator[Row]:
    """Score all groups at once and question by question, on the same contexts and weights."""
    model, table_RD, config = fresh_model(bench), bench.local.table_RD, bench.local.config
    plain = reference.PlainTransformer(table_RD.shape[1], config.model)
    plain.copy_weights(model)
    plain.eval()
    episodes, samples = {}, {}
    for name, task in bench.local.tasks.items():
        draws = generator(config.seed, "evaluation", name, 0)
        context, rest = split_context(task.seen, config.evaluation.context_questions, draws)
        episodes[name] = context, rest.join(task.unseen)
        samples[name] = torch.arange(0, len(episodes[name][1]), bench.stride)
    slow_distance: dict[str, float] = {}

    def embed() -> Tensor:
        with torch.inference_mode():
            return model.embed(table_RD)

    def fast() -> dict[str, GroupScore]:
        predict = model_predictor(model, embed())
        return {name: score_group(t, predict, config) for name, t in bench.local.tasks.items()}

    def slow() -> None:
        for name, (context, target) in episodes.items():
            part = target.take(samples[name])
            slow_distance[name] = reference.evaluate_by_question(plain, table_RD, context, part)

    fast_s, sample_s = medians(bench.repeats, fast, slow)
    scores, predict, differences = fast(), model_predictor(model, embed()), []
    for name, (context, target) in episodes.items():
        share_QO = predict(context, target.without_shares()).double()
        distance_Q = jensen_shannon_distance(target.share_QO.double(), share_QO)
        differences.append(abs(distance_Q[samples[name]].mean().item() - slow_distance[name]))
        # That these contexts and targets are those of `score_group`, its own means say.
        seen_Q = distance_Q[: scores[name].seen_questions]
        differences.append(abs(seen_Q.mean().item() - scores[name].seen_distance[0]))
    if not max(differences) < AGREEMENT:
        raise RuntimeError(f"the forms of the evaluation differ by {max(differences):.1e} in score")
    sampled, questions = (
        sum(map(len, sizes)) for sizes in (samples.values(), (t for _, t in episodes.values()))
    )
    slow_s = sample_s * questions / sampled
    how = "all timed" if sampled == questions else f"{sampled} timed and scaled"
    yield Row(
        f"evaluate {len(episodes)} groups, {questions} answers",
        1e3 * fast_s,
        "ms",
        f"one by one {show(slow_s)} s: {how}, scores within {max(differences):.0e}",
        fast_s / slow_s,
    )
    yield against_floor(bench, "the same", fast, 1)
    yield Row("of it embedding the table", 1e3 * medians(bench.repeats, embed)[0], "ms")


def measure_step(bench: Bench) -> Iterator[Row]:
    """One step of local training, the mean over the first round of all training groups."""
    local, model = bench.local, fresh_model(bench)

    def train() -> None:
        for group in local.roles.train:
            train_group(model, local.tasks[group], local.table_RD, local.config, 1)

    steps = len(local.roles.train) * local.config.training.steps_per_round
    yield against_floor(bench, "one training step", train, steps)


def measure_round(bench: Bench) -> Iterator[Row]:
    """One training round through strategy, messages and clients, in this process."""
    roles, nodes = bench.local.roles, len(bench.local.roles.groups)
    grid = InProcessGrid(client_app, nodes, {"overrides": join(bench.overrides)})
    hosts = {node: groups_of_node(roles, node - 1, nodes) for node in grid.get_node_ids()}
    strategy = GroupFedAvg(bench.local.config, roles, hosts)
    weights = fresh_model(bench).state_dict()
    arrays = ArrayRecord({name: Array(value.numpy()) for name, value in weights.items()})
    computed: list[float] = []

    def clocked(replies: Iterable[Message]) -> Iterator[Message]:
        for reply in replies:
            seconds = reply.content.metric_records["metrics"]["seconds"]
            computed[-1] += sum(seconds if isinstance(seconds, list) else [seconds])
            yield reply

    def one_round() -> None:
        computed.append(0.0)
        messages = strategy.configure_train(1, arrays, ConfigRecord(), grid)
        strategy.aggregate_train(1, clocked(grid.send_and_receive(messages)))

    totals = [medians(1, one_round)[0] for _ in range(bench.repeats)]
    total, compute = median(totals), median(computed)
    rest = median(whole - part for whole, part in zip(totals, computed, strict=True))
    name = f"one round of {len(roles.train)} groups"
    yield Row(name, 1e3 * total, "ms", f"the clients' training {show(1e3 * compute)} ms")
    yield Row("of it not training", 1e3 * rest, "ms", "the round", rest / total)


def measure_aggregation(bench: Bench) -> Iterator[Row]:
    """The weighted mean of updates that arrive in order."""
    shapes = {name: tuple(w.shape) for name, w in fresh_model(bench).state_dict().items()}
    # Eight in turn: more than the processor's caches keep, and 100 would only fill the memory.
    updates = [{name: torch.randn(s).numpy() for name, s in shapes.items()} for _ in range(8)]

    def aggregate(count: int) -> None:
        mean = OrderedMean(map(str, range(count)))
        for number in range(count):
            mean.add(str(number), updates[number % len(updates)], number + 1.0)
        mean.result()

    few, many = medians(bench.repeats, lambda: aggregate(8), lambda: aggregate(100))
    yield Row("aggregate 8 updates", 1e3 * few, "ms")
    yield Row("aggregate 100 updates", 1e3 * many, "ms", "8 updates", many / few)


def measure_memory(bench: Bench) -> Iterator[Row]:
    """Peak resident memory of the process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts in
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    table = bench.local.table_RD.nbytes / 1e6
    yield Row("peak memory so far", peak, "MB", f"embedding table {show(table)} MB", peak / table)


MEASURES: tuple[Callable[[Bench], Iterator[Row]], ...] = (
    measure_loading,
    measure_memory,
    measure_evaluation,
    measure_step,
    measure_round,
    measure_aggregation,
    measure_memory,
)


def fresh_model(bench: Bench) -> PreferenceTransformer:
    """Give the network with its first weights; the clients of a round share another one."""
    config = bench.local.config
    return PreferenceTransformer(bench.local.table_RD.shape[1], config.model, config.seed)


def show(value: float) -> str:
    """Three digits or the whole number."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
