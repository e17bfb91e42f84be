"""Weights & Biases: runs, and the tables of a comparison."""

import secrets
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plurallm.config.digest import config_dict
from plurallm.config.schema import Config, WandbTracking


class WandbTracker:
    """One run; offline when nobody is logged in.

    Parameters
    ----------
    config : Config
        With ``tracking=wandb``.
    folder : Path
        The run's folder; the files of an offline run lie in its ``wandb``.
    """

    def __init__(self, config: Config, folder: Path) -> None:
        assert isinstance(config.tracking, WandbTracking)
        self._run = _start(config, config.tracking, folder)
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


def log_tables(
    config: Config,
    folder: Path,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    pictures: Mapping[str, bytes],
) -> None:
    """Log tables and pictures as a run of their own.

    Parameters
    ----------
    config : Config
        With ``tracking=wandb``; ``tracking.group`` and ``tracking.job_type`` tell whose they are.
    folder : Path
        What they are of; the files of an offline run lie in its ``wandb``.
    tables : mapping of str to sequence of mapping
        Rows by name, all of a table with the same keys.
    pictures : mapping of str to bytes
        PNG by name.
    """
    import wandb
    from PIL import Image

    assert isinstance(config.tracking, WandbTracking)
    run = _start(config, config.tracking, folder)
    for name, rows in tables.items():
        columns: list[str | int] = list(rows[0])
        data = [[row[str(column)] for column in columns] for row in rows]
        run.log({name: wandb.Table(columns=columns, data=data)})
    for name, content in pictures.items():
        run.log({name: wandb.Image(Image.open(BytesIO(content)))})
    run.finish()


def _start(config: Config, tracking: WandbTracking, folder: Path) -> Any:
    import wandb

    online = tracking.mode == "online" or (tracking.mode == "auto" and wandb.login(prompt=False))
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        group=tracking.group,
        job_type=tracking.job_type,
        name=folder.name if tracking.job_type is None else f"{tracking.job_type} {folder.name}",
        dir=str(folder),
        config=config_dict(config),
        mode="online" if online else "offline",
        id=_run_id(folder, tracking.job_type),
        resume="allow",
        settings=wandb.Settings(silent=True),
    )


def _run_id(folder: Path, job_type: str | None) -> str:
    """Id of the run that tracks a folder: the same when the folder's run goes on.

    An offline run that goes on has a second file, which ``wandb sync --append`` adds to the first.
    """
    file = folder / f"wandb-id{'' if job_type is None else f'-{quote(job_type, safe=str())}'}.txt"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    new = secrets.token_hex(8)
    file.write_text(new + "\n", encoding="utf-8")
    return new


def _numbers(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[prefix + key] = value
    return flat
