"""Evaluation, one training step, and groups together against one after the other."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from measures.bench import (
    Bench,
    Row,
    against_floor,
    count_flops,
    count_operations,
    in_new_process,
    lay_out,
    medians,
    peak_memory,
    reference,
    show,
)
from plurallm.config.device import records_steps
from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.data.preferences import split_context
from plurallm.data.tasks import GroupTask, group_tasks, load_survey
from plurallm.evaluate.scores import GroupScore, Predictor, model_predictor, score_group
from plurallm.learn.batched import train_groups_together
from plurallm.learn.cuda_graph import MULTIPLE
from plurallm.learn.divergence import jensen_shannon_distance
from plurallm.learn.draws import batches, draw_round, round_questions
from plurallm.learn.episodes import padded_length
from plurallm.learn.local import round_rates, train_group
from plurallm.learn.transformer import PreferenceTransformer

AT_ONCE = 32
"""Groups in one vectorised computation, as on a GPU."""

_LAUNCH = re.compile("(cuda|cu)(Launch|GraphLaunch|Memcpy|Memset)")
"""Calls of CUDA that give the GPU something to do."""

STEPS = 6
"""Steps whose operations are counted: set-up is not among them."""


def evaluation(bench: Bench) -> Iterator[Row]:
    """All groups, one draw: a group in one pass, against one pass of context and question each."""
    model, table_RD, config = bench.local.model, bench.local.table_RD, bench.config
    plain, vectors_RD = reference.PlainTransformer(table_RD.shape[1], config.model), table_RD.cpu()
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
        by_question = partial(reference.evaluate_by_question, plain, vectors_RD)
        distances[:] = [by_question(context, sample) for context, _, sample in episodes]

    points = partial(reference.points, table_RD=vectors_RD)
    once = partial(map, points, [context for context, _, _ in episodes])  # not for each question
    fast_s, slow_s, once_s = medians(bench, fast, slow, lambda: [*once()])
    (predict, scores), differences = fast(), []
    for (context, target, _), score, distance in zip(episodes, scores, distances, strict=True):
        share_QO = predict(context, target.without_shares()).double().cpu()
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
    name = f"evaluate {len(episodes)} groups"
    yield Row(name, 1e3 * fast_s, "ms", against, fast_s / slow_s, "at most 0.025")
    yield against_floor(bench, name, fast_s, count_flops(fast))


def training_step(bench: Bench) -> Iterator[Row]:
    """One step of local training, the mean over a first round of the run's training groups."""
    model, table_RD, config = bench.local.model, bench.local.table_RD, bench.config
    tasks = [bench.local.tasks[group] for group in bench.local.roles.train]
    steps = len(tasks) * config.training.steps_per_round
    train = partial(_train_all, model, tasks, table_RD, config)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    first = tasks[0]
    vectors_RD, rates = table_RD.cpu(), round_rates(config, 1)
    episodes = []  # vectors of the slow form lie ready: only network, loss and Adam are timed
    for context_Q, target_Q in round_questions(first, config, 1):
        parts = (first.seen.take(question_Q) for question_Q in (context_Q, target_Q))
        context, target = (reference.points(part, vectors_RD) for part in parts)
        episodes.append((context, target, first.seen.mask_QO[target_Q].sum(-1).tolist()))
    losses = list[float]()

    def slow() -> None:
        plain = reference.PlainTransformer(table_RD.shape[1], config.model)
        plain.copy_weights(model)
        losses[:] = reference.train_by_question(plain, episodes, rates)

    fast_s, slow_s = medians(bench, train, slow)
    fast_s, slow_s = fast_s / steps, slow_s / len(episodes)
    own = train_group(model, first, table_RD, config, 1).losses
    model.load_state_dict(start)
    gap = max(abs(one - other) for one, other in zip(own, losses, strict=True))
    if not gap < 1e-5:
        raise RuntimeError(f"the two forms of a training step differ by {gap:.1e} in loss")
    against = f"slow: {show(1e3 * slow_s)} ms, {first.name} alone; losses within {gap:.0e}"
    yield Row("one training step", 1e3 * fast_s, "ms", against, fast_s / slow_s)
    yield against_floor(bench, "one training step", fast_s, count_flops(train) / steps)


def _train_all(
    model: PreferenceTransformer,
    tasks: list[GroupTask],
    table_RD: Tensor,
    config: Config,
    at_once: int = 1,
) -> None:
    """Train all groups from the same weights: so many at once, or one after the other."""
    if at_once > 1:
        train_groups_together(model, tasks, table_RD, config, 1, at_once=at_once)
        return
    start = {name: value.clone() for name, value in model.state_dict().items()}
    for task in tasks:
        train_group(model, task, table_RD, config, 1)
        model.load_state_dict(start)


def _with_steps(config: Config, steps: int) -> Config:
    return replace(config, training=replace(config.training, steps_per_round=steps))


def _operations(bench: Bench, tasks: list[GroupTask]) -> Iterator[Row]:
    """What a step of all groups dispatches, and apart from it the host's draws and the set-up."""
    few, many = (_with_steps(bench.config, steps) for steps in (1, 1 + STEPS))
    names = ("operations a step", "of it on the host", "operations of a round's set-up")
    counts = []
    for way in (AT_ONCE, 1):
        train = partial(_train_all, bench.local.model, tasks, bench.local.table_RD, at_once=way)
        host = [count_operations(partial(draw_round, tasks, config, 1)) for config in (few, many)]
        once, whole = (count_operations(partial(train, config)) for config in (few, many))
        step = (whole - once) / STEPS
        counts.append((step, (host[1] - host[0]) / STEPS, once - step))
    for name, together, apart in zip(names, *counts, strict=True):
        against = f"one after the other: {show(apart)}"
        yield Row(name, together, "", against, together / apart if apart else None)


def _launches(bench: Bench, tasks: list[GroupTask], config: Config) -> Iterator[Row]:
    """What a step of all groups asks of a GPU, and what that does, seen by the profiler.

    One after the other it is that of one group so many times: the profiler takes minutes for all.
    """
    counts = []
    for way, seen in ((AT_ONCE, tasks), (1, tasks[:1])):
        train = partial(_train_all, bench.local.model, seen, bench.local.table_RD, config, way)
        train()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            train()
            torch.accelerator.synchronize()
        events = list(profiler.events() or [])
        asked = sum(bool(_LAUNCH.match(event.name)) for event in events)
        done = sum(str(event.device_type).endswith("CUDA") for event in events)
        steps = config.training.steps_per_round * len(seen) / len(tasks)
        counts.append((asked / steps, done / steps))
    names = ("launches and copies a step", "kernels and copies a step")
    for name, fast, slow in zip(names, *counts, strict=True):
        yield Row(name, fast, "", f"one after the other: {show(slow)}", fast / slow)


def _peak(overrides: Sequence[str], names: list[str], steps: int, way: int) -> float | None:
    """MB that a round takes at most beyond what lies there before."""
    local = lay_out(overrides)
    config = _with_steps(local.config, steps)
    tasks = list(group_tasks(load_survey(config.data), names, config).values())
    with peak_memory(local.table_RD.device) as found:
        _train_all(local.model, tasks, local.table_RD, config, way)
    return found[0] if found else None


def together(bench: Bench) -> Iterator[Row]:
    """Groups trained in vectorised computations, against one after the other."""
    model, table_RD = bench.local.model, bench.local.table_RD
    on_gpu = records_steps(table_RD.device)
    steps = bench.config.training.steps_per_round if on_gpu else 2
    config = _with_steps(bench.config, steps)
    tasks = list(group_tasks(bench.survey, bench.everyone.train, config).values())
    for count in bench.sizes:
        chosen = tasks[:count]

        at_once, apart = (
            partial(_train_all, model, chosen, table_RD, config, way) for way in (AT_ONCE, 1)
        )
        for _ in range(2):  # a GPU records a shape at its second use
            at_once()
        fast, slow = medians(replace(bench, repeats=min(bench.repeats, 3)), at_once, apart)
        name = f"{steps} steps of {count} groups, together"
        against = f"one after the other: {show(1e3 * slow)} ms"
        required = "at most 0.1" if on_gpu and count == bench.sizes[-1] else ""
        yield Row(name, 1e3 * fast, "ms", against, fast / slow, required)
        if on_gpu:
            yield from _launches(bench, chosen, config)
        else:
            yield from _operations(bench, chosen)
            flops = [count_flops(action) / 2e9 for action in (at_once, apart)]
            against = f"one after the other: {show(flops[1])}"
            yield Row("of the products a step", flops[0], "GFLOP", against, flops[0] / flops[1])
        for size, real, padded in _sizes(chosen, config, MULTIPLE if on_gpu else 1):
            yield Row(size, padded, "", f"without: {show(real)}", padded / real)
        names = [task.name for task in chosen]
        peaks = [in_new_process(_peak, bench.overrides, names, steps, way) for way in (AT_ONCE, 1)]
        if peaks[0] is not None:
            against = f"one after the other: {show(peaks[1])}"
            yield Row("memory more than before", peaks[0], "MB", against)
    yield _difference(bench, tasks[: bench.sizes[0]], config)


def _sizes(tasks: list[GroupTask], config: Config, multiple: int) -> list[tuple[str, float, float]]:
    """What a step of all groups takes, mean of all steps: as drawn, and as computed."""
    names = ("points with padding", "attention pairs with padding")
    real, padded = [0.0, 0.0], [0.0, 0.0]
    steps = draw_round(tasks, config, 1)
    for batch in (batch for step in steps for batch in batches(step, AT_ONCE)):
        points = [len(draw.point_P) for draw in batch]
        contexts = [draw.contexts for draw in batch]
        # In each layer but the last every point attends to the context's.
        pairs = [one * other for one, other in zip(points, contexts, strict=True)]
        length, context = (padded_length(max(part), multiple) for part in (points, contexts))
        longest = length, length * context
        for place, drawn in enumerate((points, pairs)):
            real[place] += sum(drawn) / len(steps)
            padded[place] += len(batch) * longest[place] / len(steps)
    return list(zip(names, real, padded, strict=True))


def _difference(bench: Bench, tasks: list[GroupTask], config: Config) -> Row:
    """Largest difference of a weight after training in both ways, in float64."""
    double = replace(config, precision="float64")
    names = [task.name for task in tasks]
    chosen = group_tasks(bench.survey, names, double)
    table_RD = bench.local.table_RD
    start = PreferenceTransformer(table_RD.shape[1], double.model, double.seed)
    model = start.to(table_RD.device, torch.float64)
    weights, _ = train_groups_together(
        model, list(chosen.values()), table_RD, double, 1, at_once=max(2, len(names) // 2)
    )
    received = {name: value.clone() for name, value in model.state_dict().items()}
    gap = 0.0
    for row, task in enumerate(chosen.values()):
        model.load_state_dict(received)
        train_group(model, task, table_RD, double, 1)
        gap = max(gap, _largest(model.state_dict(), {n: w[row] for n, w in weights.items()}))
    if not gap < 1e-8:
        raise RuntimeError(f"together and one after the other differ by {gap:.1e} in float64")
    name = f"weights of {len(names)} groups, together"
    return Row(name, gap, "", "largest difference, in float64", None, "below 1e-8")


def _largest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max((value - other[name]).abs().max().item() for name, value in one.items())
