"""A run's folder, Weights & Biases, and progress: what a run leaves behind and shows."""

import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from plurallm import __version__
from plurallm.checkpoint import Arrays, save_arrays
from plurallm.config import Config, WandbTracking, config_dict

HEADLINE = "held_out_groups.seen_questions"
"""The cell whose alignment progress shows; without held-out groups, the first there is."""

logger = logging.getLogger("plurallm")


class Tracker(Protocol):
    """Receives what a run reports."""

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Take one round's lines."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Take the summary of a finished run."""

    def close(self) -> None:
        """Let go of what is open, also after a failure."""


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path : Path
        Made when missing. A folder that already holds a run is refused unless it is resumed.
    resumed_round : int, optional
        Last round of the checkpoint that the run goes on from: later lines are cut off.

    Raises
    ------
    FileExistsError
        When another run has written there.
    """

    def __init__(self, path: Path, resumed_round: int | None = None) -> None:
        self.path = path
        self._metrics = path / "metrics.jsonl"
        self._timings = path / "timings.jsonl"
        if resumed_round is None and self._metrics.exists():
            finished = (path / "summary.json").exists()
            hint = "" if finished else f", or continue it with resume={path}"
            raise FileExistsError(f"{path} already holds a run: choose another output_dir{hint}")
        path.mkdir(parents=True, exist_ok=True)
        for file in (self._metrics, self._timings):
            kept = [] if resumed_round is None else _lines_until(file, resumed_round)
            _write_text(file, "".join(kept))

    def save_config(self, config: Config, overrides: list[str]) -> None:
        """Write ``config.yaml`` and the overrides that lead to it."""
        _write_text(
            self.path / "config.yaml",
            yaml.safe_dump(config_dict(config), sort_keys=False, allow_unicode=True),
        )
        _write_text(self.path / "overrides.yaml", yaml.safe_dump(overrides, allow_unicode=True))

    def save_model(self, name: str, arrays: Arrays, description: Mapping[str, Any]) -> None:
        """Write a model's folder: ``model.safetensors`` and ``config.json``."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        save_arrays(folder / "model.safetensors", arrays)
        _write_text(folder / "config.json", json.dumps(description, indent=2) + "\n")

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Append one round to ``metrics.jsonl`` and ``timings.jsonl``."""
        for file, line in ((self._metrics, metrics), (self._timings, timings)):
            with file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``: it exists only for a run that ended well."""
        _write_text(
            self.path / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
        )

    def participation(self) -> dict[str, dict[str, str]]:
        """Rounds in which each group trained, and in which its update was missed or refused.

        Returns
        -------
        dict
            By group ``trained`` and ``missed``, ranges of rounds such as ``"1-3, 7"``.
        """
        trained: dict[str, list[int]] = {}
        missed: dict[str, list[int]] = {}
        for text in self._metrics.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            for rounds, groups in (
                (trained, line["groups_trained"]),
                (missed, line["groups_refused"]),
            ):
                for group in groups:
                    rounds.setdefault(group, []).append(line["round"])
        return {
            group: {
                "trained": _ranges(trained.get(group, [])),
                "missed": _ranges(missed.get(group, [])),
            }
            for group in sorted(trained | missed)
        }

    def close(self) -> None:
        """Nothing is left open."""


class WandbTracker:
    """Weights & Biases; offline when nobody is logged in.

    Parameters
    ----------
    config : Config
        With ``tracking=wandb``.
    folder : Path
        The run's folder; the files of an offline run lie in its ``wandb``.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        import wandb

        tracking = config.tracking
        assert isinstance(tracking, WandbTracking)
        online = tracking.mode == "online" or (
            tracking.mode == "auto" and wandb.login(prompt=False)
        )
        self._run = wandb.init(
            project=tracking.project,
            entity=tracking.entity,
            group=tracking.group,
            name=folder.name,
            dir=str(folder),
            config=config_dict(config),
            mode="online" if online else "offline",
            settings=wandb.Settings(silent=True),
        )
        self._finished = False

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Log every number under its path, for example ``cells/.../alignment``."""
        self._run.log(_numbers(metrics) | _numbers(timings), step=int(metrics["round"]))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Put the summary's numbers into the run's summary."""
        self._run.summary.update(_numbers(summary))
        self._finished = True

    def close(self) -> None:
        """End the run, as failed unless it was finished."""
        self._run.finish(exit_code=0 if self._finished else 1)


class ProgressTracker:
    """A progress bar on a terminal, a log line a round elsewhere.

    Parameters
    ----------
    rounds : int
        Rounds of the whole run.
    first_round : int
        Rounds already done.
    """

    def __init__(self, rounds: int, first_round: int) -> None:
        self._rounds = rounds
        self._alignment = ""
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("round"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=rounds, completed=first_round)

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Show round, loss and the last alignment."""
        text = progress_text(metrics)
        if self._bar is None:
            logger.info(
                "round %d/%d  %s%s", metrics["round"], self._rounds, text, _work_text(timings)
            )
            return
        if "cells" in metrics:
            self._alignment = text.partition("  ")[2]
        shown = f"{text.partition('  ')[0]}  {self._alignment}"
        self._bar.update(self._task, completed=int(metrics["round"]), description=shown)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Nothing more to show."""

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


class Trackers:
    """Several trackers as one, closed together.

    Parameters
    ----------
    *trackers : Tracker
        In the order in which they are told.
    """

    def __init__(self, *trackers: Tracker) -> None:
        self._trackers = trackers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for tracker in self._trackers:
            tracker.close()

    def log_round(self, metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.log_round(metrics, timings)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Tell all."""
        for tracker in self._trackers:
            tracker.finish(summary)


def open_trackers(config: Config, folder: RunFolder, first_round: int) -> Trackers:
    """Make the trackers that the configuration asks for."""
    trackers: list[Tracker] = [folder, ProgressTracker(config.federation.rounds, first_round)]
    if isinstance(config.tracking, WandbTracking):
        trackers.append(WandbTracker(config, folder.path))
    return Trackers(*trackers)


def progress_text(metrics: Mapping[str, Any]) -> str:
    """One round in a few words: loss and, when it evaluated, the headline alignment."""
    loss = metrics["train_loss"]
    text = "failed" if loss is None else f"loss {loss:.4f}"
    cells = metrics.get("cells")
    if cells:
        name = HEADLINE if HEADLINE in cells else next(iter(cells))
        text += f"  alignment {cells[name]['alignment']:.4f}"
    return text


def _work_text(timings: Mapping[str, Any]) -> str:
    """Groups, seconds and bytes of a round in a few words, where they are known."""
    if "groups" not in timings:
        return ""
    sent = timings["bytes_up"] + timings["bytes_down"]
    return (
        f"  {len(timings['groups'])} groups  {sum(timings['seconds'].values()):.1f} s"
        f"  {sent / 1e6:.1f} MB"
    )


def versions() -> dict[str, str]:
    """Versions that numbers depend on."""
    names = ("flwr", "torch", "numpy", "scikit-learn", "hydra-core")
    return {"plurallm": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + key] = value
    return flat


def _ranges(rounds: list[int]) -> str:
    """Rounds in ascending order as ``"1-3, 7"``."""
    runs: list[list[int]] = []
    for number in rounds:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _lines_until(file: Path, last_round: int) -> list[str]:
    kept = []
    with file.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            # The last line of a run that was cut off may be half a line.
            if not line.endswith("\n") or json.loads(line)["round"] > last_round:
                break
            kept.append(line)
    return kept


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
