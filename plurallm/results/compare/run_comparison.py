"""A comparison: every arm with every seed, finished ones not again, several at a time."""

import json
import logging
import multiprocessing
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from plurallm.config.compose import load_config
from plurallm.config.device import choose_device
from plurallm.config.digest import PLACES, changed_on_resume, config_dict, flatten, old_rules
from plurallm.config.error import ConfigError
from plurallm.config.overrides import hydra_quote
from plurallm.config.protection import RespondentPrivacy
from plurallm.config.schema import Config, WandbTracking
from plurallm.data.content import Content, content_of
from plurallm.data.roles import Roles, survey_roles
from plurallm.data.tasks import load_survey, survey_table
from plurallm.record.run_folder import remove_empty
from plurallm.results.compare.arms import read_arm
from plurallm.results.compare.behind import keep_content, of_0_1_0
from plurallm.results.compare.jobs import Job, run_job, use_one_thread

logger = logging.getLogger("plurallm")

_POLL_SECONDS = 0.5


class ArmsFailedError(RuntimeError):
    """Some arms failed; all others have run.

    Attributes
    ----------
    done : int
        Arms and seeds that are done, now or before: with one the comparison can be reported.
    """

    def __init__(self, failed: Mapping[str, BaseException], jobs: Sequence[Job]) -> None:
        self.done = sum(job.done for job in jobs)
        name, error = next(iter(failed.items()))
        super().__init__(
            f"{len(failed)} of {len(jobs)} arms and seeds failed; the first: {name}: {error}; "
            "the same command runs the failed ones again"
        )


def run_comparison(overrides: Sequence[str], folder: Path) -> None:
    """Run what is missing of a comparison.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, paths absolute.
    folder : Path
        The comparison's folder: ``compare.yaml``, ``content.json``, and a run's folder for each
        arm and seed.

    Raises
    ------
    ConfigError
        For an arm that cannot be read, or a folder that holds another comparison.
    ArmsFailedError
        When an arm failed, after all others have run.
    """
    config = load_config(overrides, None)
    kept = [text for text in overrides if text.partition("=")[0] != "output_dir"]
    jobs = _jobs(kept, config, folder)
    _check_folder(config, folder)
    first = [job for job in jobs if job.seed == config.compare.seeds[0]]
    keep_content(folder, _check_arms(first))
    (folder / "compare.yaml").write_text(
        yaml.safe_dump(config_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    command = shlex.join(["plurallm", "compare", *overrides])
    (folder / "command.txt").write_text(command + "\n", encoding="utf-8")
    logger.info(
        "%d arms with seeds %s, %d rounds of %d steps",
        len(config.compare.arms),
        ", ".join(map(str, config.compare.seeds)),
        config.federation.rounds,
        config.training.steps_per_round,
    )
    due = [job for job in jobs if not job.done]
    if len(due) < len(jobs):
        logger.info("%d of %d arms and seeds are done already", len(jobs) - len(due), len(jobs))
    failed = _run_all(due, config)
    if failed:
        raise ArmsFailedError(failed, jobs)


def compare_here(overrides: Sequence[str], folder: Path) -> ArmsFailedError | None:
    """Run what is missing of a comparison; an empty folder is not left behind.

    Returns
    -------
    ArmsFailedError or None
        Where some arms failed and others can be reported.
    """
    try:
        run_comparison(overrides, folder)
    except ArmsFailedError as error:
        if not error.done:
            raise
        return error
    finally:
        remove_empty(folder)
    return None


def read_jobs(folder: Path) -> tuple[Config, list[Job]]:
    """What a comparison's folder was made from.

    Parameters
    ----------
    folder : Path
        Of a comparison.

    Returns
    -------
    config, jobs
        The comparison's configuration and all its jobs, done or not.
    """
    words = shlex.split((folder / "command.txt").read_text(encoding="utf-8"))[2:]
    if of_0_1_0(folder):
        known = flatten(yaml.safe_load((folder / "compare.yaml").read_text(encoding="utf-8")))
        rules = old_rules(known.get("data.source")).items()
        words = [
            *(f"{key}={str(value).lower()}" for key, value in rules if key not in known),
            *words,
        ]
    config = load_config(words, None)
    kept = [text for text in words if text.partition("=")[0] != "output_dir"]
    return config, _jobs(kept, config, folder)


def _jobs(overrides: list[str], config: Config, folder: Path) -> list[Job]:
    if config.threads is None and _at_a_time(config) > 1:
        overrides = [*overrides, "threads=1"]
    arms = [read_arm(name, config) for name in config.compare.arms]
    # A seed after the other, so that an interrupted comparison has whole seeds.
    return [
        Job(
            arm,
            seed,
            (*overrides, *_tracking(config, folder, arm.name)),
            folder / arm.folder / f"seed-{seed}",
        )
        for seed in config.compare.seeds
        for arm in arms
    ]


def tables_config(overrides: Sequence[str], folder: Path) -> Config:
    """Configuration under which a comparison's own tables are tracked."""
    config = load_config(overrides, None)
    return load_config([*overrides, *_tracking(config, folder, "comparison")], None)


def _tracking(config: Config, folder: Path, job_type: str) -> list[str]:
    """Overrides that bring an arm's runs together, with the comparison's other runs."""
    if not isinstance(config.tracking, WandbTracking):
        return []
    group = config.tracking.group or folder.name
    return [
        f"tracking.group={hydra_quote(group)}",
        f"tracking.job_type={hydra_quote(job_type)}",
    ]


def _at_a_time(config: Config) -> int:
    """How many jobs run at a time."""
    if config.compare.jobs is not None:
        return config.compare.jobs
    if choose_device(config.device).type != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // (config.threads or 1))


def _check_folder(config: Config, folder: Path) -> None:
    saved = folder / "compare.yaml"
    if not saved.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"output_dir={folder} holds something else: choose another folder")
        return
    changed = changed_on_resume(config, saved, PLACES)
    if changed:
        raise ConfigError(
            f"output_dir={folder} holds a comparison with another configuration: {changed[0]}; "
            "only compare.arms, compare.seeds and compare.jobs may change"
        )


def _check_arms(jobs: Sequence[Job]) -> dict[str, Content]:
    """Refuse what cannot work before anything starts, and embed the texts once for all."""
    roles, contents = zip(*map(_check_arm, jobs), strict=True)
    for job, own in zip(jobs, roles, strict=True):
        if own != roles[0]:
            raise ConfigError(
                f"arm {job.arm.name!r} changes which groups take part: {len(own.groups)} instead "
                f"of {len(roles[0].groups)} as for {jobs[0].arm.name!r} (more context or target "
                "questions need more answers)"
            )
    return {job.arm.name: content for job, content in zip(jobs, contents, strict=True)}


def _check_arm(job: Job) -> tuple[Roles, Content]:
    try:
        config = load_config(job.run_overrides, None)
    except ConfigError as error:
        raise ConfigError(f"arm {job.arm.name!r}: {error}") from error
    privacy = config.privacy
    if isinstance(privacy, RespondentPrivacy) and not privacy.true_scores:
        raise ConfigError(
            f"arm {job.arm.name!r}: with privacy=respondent a comparison needs "
            "privacy.true_scores=true, because the other arms are scored against true answers"
        )
    survey = load_survey(config.data)
    survey_table(survey, config)
    return survey_roles(survey, config), content_of(survey, config)


def _run_all(jobs: Sequence[Job], config: Config) -> dict[str, BaseException]:
    """Run jobs; what failed, by name."""
    failed: dict[str, BaseException] = {}
    if not jobs:
        return failed
    executor = ProcessPoolExecutor(
        _at_a_time(config), multiprocessing.get_context("spawn"), initializer=use_one_thread
    )
    with _script_hidden():
        pending: dict[Future[None], Job] = {executor.submit(run_job, job): job for job in jobs}
    progress = _Progress(len(jobs))
    try:
        while pending:
            done, _ = wait(pending, _POLL_SECONDS, FIRST_COMPLETED)
            for future in done:
                job = pending.pop(future)
                error = future.exception()
                if error is not None:
                    failed[job.name] = error
                progress.end(job.name, error)
            progress.show({future: job for future, job in pending.items() if future.running()})
    except KeyboardInterrupt:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        progress.close()
        executor.shutdown(cancel_futures=True)
    return failed


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep worker processes from importing the caller's script, which would run it again."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Progress:
    """A bar for all jobs and one for each that runs; off a terminal, a line for each that ended."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._ended = 0
        self._rows: dict[str, TaskID] = {}
        self._bar = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._bar.start()
        self._all = self._bar.add_task("arms and seeds", total=jobs)

    def end(self, name: str, error: BaseException | None) -> None:
        """A job ended."""
        self._ended += 1
        self._bar.advance(self._all)
        if name in self._rows:
            self._bar.remove_task(self._rows.pop(name))
        outcome = "done" if error is None else f"failed: {error}"
        logger.info("%s: %s (%d of %d)", name, outcome, self._ended, self._jobs)

    def show(self, running: dict[Future[None], Job]) -> None:
        """Show how far the running jobs are: the rounds that they have written down."""
        if self._bar.disable:
            return
        for job in running.values():
            metrics = job.folder / "metrics.jsonl"
            if not metrics.exists():
                continue
            name = job.name
            last = metrics.read_bytes().splitlines()[-1:]
            if name not in self._rows:
                rounds = load_config(job.run_overrides, None).federation.rounds
                self._rows[name] = self._bar.add_task(name, total=rounds)
            if last and last[0].endswith(b"}"):
                self._bar.update(self._rows[name], completed=json.loads(last[0])["round"])

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()
