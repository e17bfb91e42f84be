"""What several test files need: a cache of their own, tiny runs, small surveys."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from plurallm.config.compose import load_config
from plurallm.config.schema import Config
from plurallm.data.survey import Answers, Question, Survey

# A loaded machine is no defect.
settings.register_profile("plurallm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("plurallm")

THREADS = torch.get_num_threads()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep embedding tables and what nodes store out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def nothing_left_of_torch() -> Iterator[None]:
    """Give back what code under test sets for a whole process: threads decide how sums round."""
    torch.set_num_threads(THREADS)  # a module's fixture may have set them before
    draws = torch.get_rng_state()
    yield
    torch.set_num_threads(THREADS)
    torch.set_rng_state(draws)


@pytest.fixture
def tiny_overrides(tmp_path: Path) -> list[str]:
    """Overrides of a run that takes about a second and writes below ``tmp_path``."""
    return [
        *("data.num_groups=6", "data.num_questions=60"),
        *("embedding.width=32", "model.width=16", "model.heads=2", "model.feedforward=16"),
        *("model.layers=1", "training.steps_per_round=2", "evaluation.every=1"),
        *("training.context_questions=[5,10]", "training.target_questions=[5,10]"),
        *("evaluation.context_questions=10", "federation.rounds=2", "threads=1"),
        "personal=none",  # tests of experts ask for them
        *(f"cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / 'run'}"),
    ]


@pytest.fixture
def tiny_config(tiny_overrides: list[str]) -> Callable[..., Config]:
    """Compose the tiny run with more overrides."""

    def compose(*overrides: str) -> Config:
        return load_config([*tiny_overrides, *overrides], None)

    return compose


@pytest.fixture
def make_survey() -> Callable[..., Survey]:
    """Make a survey of ``{group: {question id: shares}}``; a question's options follow."""

    def make(answers: Mapping[str, Mapping[str, Sequence[float]]]) -> Survey:
        options = {id_: len(shares) for own in answers.values() for id_, shares in own.items()}
        questions = tuple(
            Question(id_, f"What of {id_}?", tuple(f"choice {n}" for n in range(count)))
            for id_, count in options.items()
        )
        position = {id_: number for number, id_ in enumerate(options)}
        by_group = {}
        for group, own in answers.items():
            ids = sorted(own, key=position.__getitem__)
            share_QO = np.zeros((len(ids), max(len(own[id_]) for id_ in ids)))
            for row, id_ in enumerate(ids):
                share_QO[row, : len(own[id_])] = own[id_]
            by_group[group] = Answers(np.array([position[id_] for id_ in ids]), share_QO)
        return Survey("made up", questions, by_group)

    return make


@pytest.fixture
def write_survey(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as CSV, gzipped if the name says so; what is no text becomes JSON."""

    def write(rows: Sequence[Mapping[str, Any]], name: str = "survey.csv") -> Path:
        columns = dict.fromkeys(column for row in rows for column in row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    column: cell if isinstance(cell, str) else json.dumps(cell)
                    for column, cell in row.items()
                }
            )
        content = text.getvalue().encode()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write
