"""A run's folder: configuration, metrics, models, the summary."""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from plurallm.config.digest import config_dict
from plurallm.config.directories import writing
from plurallm.config.schema import Config
from plurallm.record.checkpoint import Arrays, save_arrays
from plurallm.record.lock import lock_run


class RunFolder:
    """The folder of one run.

    Parameters
    ----------
    path : Path
        Made when missing. A folder that already holds a run is refused unless it is resumed.
    resumed_round : int, optional
        Last round of the checkpoint that the run goes on from: later lines are cut off.
    locked : bool
        Whether the caller holds the folder's lock already.

    Raises
    ------
    FileExistsError
        When another run has written there, or still writes.
    """

    def __init__(self, path: Path, resumed_round: int | None = None, locked: bool = False) -> None:
        self.path = path
        self._metrics = path / "metrics.jsonl"
        self._timings = path / "timings.jsonl"
        if resumed_round is None and self._metrics.exists():
            finished = (path / "summary.json").exists()
            hint = "" if finished else f", or continue it with resume={path}"
            raise FileExistsError(f"{path} already holds a run: choose another output_dir{hint}")
        path.mkdir(parents=True, exist_ok=True)
        self._lock = ExitStack()
        if not locked:
            self._lock.enter_context(lock_run(path))
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
            with writing(file), file.open("a", encoding="utf-8") as stream:
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
        for text in self._metrics.read_text(encoding="utf-8").split("\n")[:-1]:
            line = json.loads(text)  # a group's name may hold any other end of a line
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
        """Let others write there."""
        self._lock.close()


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
    with writing(path):
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


def new_run_folder(parent: Path, prefix: str = "") -> Path:
    """Reserve a folder for a run, named by date and time.

    Parameters
    ----------
    parent : Path
        Made when missing.
    prefix : str
        What the name starts with.

    Returns
    -------
    Path
        A new, empty folder: two runs that start together get two.
    """
    parent.mkdir(parents=True, exist_ok=True)
    started = prefix + datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        folder = parent / (started + suffix)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder.resolve()
    raise FileExistsError(f"{parent} already holds a thousand runs of this second")


def remove_empty(folder: Path) -> None:
    """Remove a folder that was made for what did not come to be."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
