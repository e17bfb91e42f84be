"""Loading, and looking embeddings up."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from measures.bench import Bench, Row, against_bytes, medians, reference
from plurallm.config.surveys import DataConfig, FileData
from plurallm.data.embedding.pairs import distinct_pairs
from plurallm.data.roles import count_seen
from plurallm.data.survey import Survey
from plurallm.data.tasks import group_tasks, load_survey, read_once, survey_table
from plurallm.learn.episodes import round_episodes


def load_anew(config: DataConfig) -> Survey:
    """Load a survey as a new process does."""
    read_once.cache_clear()
    return load_survey(config)


def loading(bench: Bench) -> Iterator[Row]:
    """From the survey's file and the cached table to tensors, and its parts."""
    config, groups = bench.config, bench.local.roles.groups
    survey = bench.survey
    parts: dict[str, Callable[[], object]] = {
        "read the survey": lambda: load_anew(config.data),
        "count seen questions": lambda: count_seen(survey, config),
        "lay out the groups' tensors": lambda: group_tasks(survey, groups, config),
        "embedding table from the cache": lambda: survey_table(survey, config),
    }
    seconds = dict(zip(parts, medians(bench, *parts.values()), strict=True))
    whole = sum(seconds.values())
    against, ratio = "", None
    if isinstance(config.data, FileData) and config.data.source == "globalopinionqa":
        assert config.data.path is not None
        slow, checked = _slow_loading(bench, Path(config.data.path))
        against, ratio = f"slow: {slow:.3g} s; {checked} answers are equal", whole / slow
    yield Row("load: file to tensors", 1e3 * whole, "ms", against, ratio)
    table_RD = bench.local.table_RD
    for name, spent in seconds.items():
        if name.startswith("embedding"):
            yield against_bytes(name, spent, 2 * table_RD.nbytes, bench.host_bandwidth)
        else:
            yield Row(name, 1e3 * spent, "ms")


def _slow_loading(bench: Bench, path: Path) -> tuple[float, int]:
    """Seconds of the slow form, from a sample of the groups; and how many answers are equal."""
    survey, table_RD = bench.survey, bench.local.table_RD.cpu()
    groups = list(bench.local.roles.groups)
    sample = groups[:: len(groups) if bench.quick else 7]
    vectors = dict(zip(distinct_pairs(survey, bench.config.embedding), table_RD, strict=True))
    loaded: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    load = partial(reference.load_group, path, vectors)
    seconds = medians(bench, lambda: loaded.update((group, load(group)) for group in sample))[0]
    equal = 0
    for group, answers in loaded.items():
        equal += _check_equal(bench, survey, group, answers)
    return seconds * len(groups) / len(sample), equal


def _check_equal(
    bench: Bench, survey: Survey, group: str, answers: list[tuple[torch.Tensor, torch.Tensor]]
) -> int:
    """Compare a group's answers in both forms: the same number, vectors and shares."""
    task = group_tasks(survey, [group], bench.config)[group]
    whole = task.seen.join(task.unseen)
    whole = whole.take(whole.question_Q.argsort())
    table_RD = bench.local.table_RD.cpu()
    if len(whole) != len(answers):
        raise RuntimeError(f"{group}: the two forms load {len(whole)} and {len(answers)} answers")
    for row, (x_OD, y_O) in enumerate(answers):
        mask_O = whole.mask_QO[row]
        if not torch.equal(table_RD[whole.row_QO[row][mask_O]], x_OD):
            raise RuntimeError(f"{group}: the two forms give different vectors")
        torch.testing.assert_close(whole.share_QO[row][mask_O], y_O, rtol=0, atol=1e-6)
    return len(answers)


def look_up(bench: Bench) -> Iterator[Row]:
    """Embeddings of the points of one round's episodes, one group."""
    task = bench.local.tasks[bench.local.roles.train[0]]
    table_RD = bench.local.table_RD
    episodes = list(islice(round_episodes(task, bench.config, 1, table_RD.device), 6))
    rows = [episode.row_P for episode in episodes]
    vectors = dict(enumerate(table_RD.cpu()))
    slow_rows = [episode.row_P.tolist() for episode in episodes]
    fast, slow = (seconds / len(rows) for seconds in medians(
        bench,
        lambda: [table_RD[row_P] for row_P in rows],
        lambda: [torch.stack([vectors[row] for row in row_P]) for row_P in slow_rows],
    ))  # fmt: skip
    points = sum(map(len, rows)) / len(rows)
    name = "embeddings of one step's points"
    moved = 2 * points * table_RD.shape[1] * table_RD.itemsize
    yield against_bytes(name, fast, moved, bench.bandwidth)
    yield Row(name, 1e3 * fast, "ms", f"slow: {1e3 * slow:.3g} ms", fast / slow)
