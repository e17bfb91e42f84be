"""One arm with one seed, from nothing or from where it stopped, in a process of its own."""

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from plurallm.config.overrides import hydra_quote
from plurallm.evaluate.baselines.scoring import baseline_predictors
from plurallm.evaluate.experts import expert_predictors
from plurallm.evaluate.scores import Predictor, model_predictor
from plurallm.federate.in_process import run_in_process
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.record.run_folder import RunFolder
from plurallm.record.trackers import open_trackers
from plurallm.results.compare.arms import Arm
from plurallm.results.compare.behind import check_comparison
from plurallm.results.compare.centralized_arm import Local, Pooled, run_central, run_facts, score
from plurallm.results.compare.paired import write_pairs
from plurallm.study import Study, cached_study

_DONE = "pairs.npz"
"""The last file that a job writes."""

_FAILURE = "failure.txt"


@dataclass(frozen=True)
class Job:
    """One arm with one seed.

    Attributes
    ----------
    arm : Arm
        What to do.
    seed : int
        The run's seed: splits, initial weights and draws.
    overrides : tuple of str
        Of the comparison, paths absolute.
    folder : Path
        Where its files go.
    """

    arm: Arm
    seed: int
    overrides: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """As progress and reports name it."""
        return f"{self.arm.name}, seed {self.seed}"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.folder / _DONE).exists()

    @property
    def failure(self) -> str | None:
        """Why it stopped when it last ran, where it did not finish."""
        file = self.folder / _FAILURE
        return file.read_text(encoding="utf-8") if file.exists() else None

    @property
    def run_overrides(self) -> tuple[str, ...]:
        """Overrides of the arm's run; the arm's own come last and win."""
        return (*self.overrides, f"seed={self.seed}", *self.arm.overrides)


def run_job(job: Job) -> None:
    """Do a job, in a worker process; what it logs goes into ``log.txt``.

    What it fails with stands in its folder too, for the report.

    Raises
    ------
    Exception
        Whatever the arm raises, for the comparison to report.
    """
    _clear_unless_resumable(job)
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / _FAILURE).unlink(missing_ok=True)
    try:
        _run(job)
    except Exception as error:
        (job.folder / _FAILURE).write_text(str(error), encoding="utf-8")
        raise


def _run(job: Job) -> None:
    with (job.folder / "log.txt").open("a", encoding="utf-8") as log:
        sys.stderr = log  # no progress bar: the comparison shows one for all
        logging.basicConfig(stream=log, format="%(message)s", level=logging.INFO, force=True)
        check_comparison(job.folder.parent.parent, cached_study(job.run_overrides).survey)
        overrides = [*job.run_overrides, f"output_dir={hydra_quote(str(job.folder))}"]
        if job.arm.kind == "federated":
            if not (job.folder / "summary.json").exists():
                resume = (job.folder / "metrics.jsonl").exists()
                if resume:
                    overrides.append(f"resume={hydra_quote(str(job.folder))}")
                run_in_process(overrides)
            study = cached_study(job.run_overrides)
            predictors = _saved_predictors(job.folder, study)
        else:
            study = cached_study(job.run_overrides)
            predictors = _predictors_here(job, study, overrides)
        write_pairs(job.folder / _DONE, predictors, study)


def use_one_thread() -> None:
    """Prepare a worker process: several share the cores."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)


def _clear_unless_resumable(job: Job) -> None:
    """Only a federated run leaves a state to go on from; any other starts again."""
    finished = (job.folder / "summary.json").exists()
    checkpoints = list((job.folder / "checkpoint").glob("round-*"))
    if job.arm.kind == "federated" and (finished or checkpoints):
        return
    if job.folder.exists():
        shutil.rmtree(job.folder)


def _predictors_here(job: Job, study: Study, overrides: Sequence[str]) -> dict[str, Predictor]:
    if job.arm.kind == "baseline":
        everyone = baseline_predictors(study.tasks, study.roles, study.table_RD)
        predictors = everyone[job.arm.name]
        folder = RunFolder(job.folder)
        folder.save_config(study.config, list(overrides))
        with open_trackers(study.config, folder, 0) as trackers:
            trackers.finish(score(predictors, study) | run_facts(study))
        return predictors
    learner = Local(study) if job.arm.kind == "local" else Pooled(study)
    run_central(learner, study, list(overrides), job.folder)
    return learner.predictors()


def _saved_predictors(folder: Path, study: Study) -> dict[str, Predictor]:
    """What a finished run predicts with: its experts, where it has some, or the global model."""
    model = _saved_model(folder, study)
    file = folder / "experts" / "model.safetensors"
    if not file.exists():
        return dict.fromkeys(study.roles.groups, model_predictor(model, study.table_RD))
    names = json.loads(file.with_name("config.json").read_text(encoding="utf-8"))["groups"]
    weights = load_file(file, device=str(study.table_RD.device))
    return expert_predictors(model, weights, names, study.roles.groups, study.table_RD)


def _saved_model(folder: Path, study: Study) -> PreferenceTransformer:
    model = study.new_model()
    model.load_state_dict(load_file(folder / "model" / "model.safetensors"))
    return model
