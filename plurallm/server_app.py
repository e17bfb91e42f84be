"""The Flower ServerApp: meets the nodes, runs the rounds, records what comes of them."""

import json
import logging
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from plurallm.baselines import score_baselines
from plurallm.checkpoint import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from plurallm.config import (
    Config,
    ConfigError,
    PoisoningAttack,
    changed_on_resume,
    config_dict,
    config_digest,
    load_config,
    split_overrides,
)
from plurallm.evaluation import summarize
from plurallm.model import PreferenceTransformer
from plurallm.roles import Roles, assign_roles, count_seen
from plurallm.strategy import (
    Attendance,
    GroupFedAvg,
    Node,
    RoundReport,
    assign_roles_of_nodes,
    describe,
    extend_roles,
    is_deployment,
    make_aggregator,
    meet_nodes,
)
from plurallm.tasks import group_tasks, load_survey, survey_table
from plurallm.tracking import RunFolder, Trackers, open_trackers, versions

app = ServerApp()

logger = logging.getLogger("plurallm")

# Best to worst: what tells the best round. Held-out groups must not choose the model.
_SELECTION_CELLS = ("train_groups.unseen_questions", "train_groups.seen_questions")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from its configuration to its summary."""
    if not logger.hasHandlers():  # Flower's processes show its own log only
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    overrides = [
        override
        for key in ("overrides", "server-overrides")
        for override in split_overrides(str(context.run_config.get(key, "")))
    ]
    config = load_config(overrides, None)
    checkpoint = checkpoint_to_resume(config)
    digest = config_digest(config)
    nodes = meet_nodes(grid, config, digest)
    attendance = Attendance(config, digest, nodes, _roles(nodes, config, checkpoint))
    first_round = 0 if checkpoint is None else checkpoint.round_number
    folder = RunFolder(_run_folder(config, context), None if checkpoint is None else first_round)
    if checkpoint is None:
        folder.save_config(config, overrides)
        checkpoint = _start(nodes, config)
    logger.info("the run's folder is %s", folder.path)
    if attendance.roles.absent:
        logger.info(
            "data.groups also lists, but no node has: %s", ", ".join(attendance.roles.absent)
        )
    logger.info("clients compute on %s", describe(node.device for node in nodes.values()))
    aggregator = make_aggregator(config, attendance.roles, folder.path)
    aggregator.numbers, aggregator.arrays = checkpoint.state["strategy"], checkpoint.strategy_arrays
    strategy = GroupFedAvg(
        *(config, attendance.roles, attendance.groups_of, aggregator, checkpoint.state["run"]),
        first_round,
        attendance,
    )
    with open_trackers(config, folder, first_round) as trackers:
        recorder = Recorder(config, attendance, strategy, folder, trackers, checkpoint)
        strategy.start(
            grid,
            ArrayRecord({name: Array(array) for name, array in checkpoint.arrays.items()}),
            num_rounds=config.federation.rounds - first_round,
            timeout=config.federation.round_timeout,
            evaluate_fn=recorder.end_round,
        )


class Recorder:
    """Writes down each round: metrics, the best and the last model, checkpoints, the summary.

    Parameters
    ----------
    config : Config
        The run's configuration.
    attendance : Attendance
        Who takes part, and as what.
    strategy : GroupFedAvg
        Its ``report`` is what a round brought.
    folder : RunFolder
        Where models and checkpoints go.
    trackers : Trackers
        Where metrics go.
    checkpoint : Checkpoint
        Where the run starts.
    """

    def __init__(
        self,
        config: Config,
        attendance: Attendance,
        strategy: GroupFedAvg,
        folder: RunFolder,
        trackers: Trackers,
        checkpoint: Checkpoint,
    ) -> None:
        self._config = config
        self._attendance = attendance
        self._roles = attendance.roles
        self._embedding_width = next(iter(attendance.nodes.values())).embedding_width
        self._strategy = strategy
        self._folder = folder
        self._trackers = trackers
        self._totals: dict[str, float] = checkpoint.state["totals"]
        self._best: dict[str, Any] | None = checkpoint.state["best"]
        self._started = time.monotonic()

    def end_round(self, server_round: int, record: ArrayRecord) -> MetricRecord | None:
        """Take a finished round; Flower also calls it before the first one."""
        if server_round == 0:
            return None
        report = self._strategy.report
        if self._roles != self._attendance.roles:
            # Means over other groups do not compare.
            self._roles, self._best = self._attendance.roles, None
        arrays = {name: array.numpy() for name, array in record.items()}
        metrics: dict[str, Any] = {
            "round": report.round_number,
            "step": report.round_number * self._config.training.steps_per_round,
            "train_loss": report.train_loss,
            "losses": dict(report.losses),
            "groups_trained": list(report.losses),
            "groups_refused": report.refused,
        }
        if report.failed is not None:
            metrics["failed"] = report.failed
        if report.strategy:
            metrics["strategy"] = report.strategy
        if report.scores:
            distance = self._config.data.distance
            metrics |= summarize(report.scores, self._roles.by_group, distance)
            metrics |= self._other_cells(report)
            metrics["groups_unscored"] = report.unscored
            if not report.unscored:  # means over other groups do not compare
                self._keep_best(metrics, arrays)
        self._count(
            {**report.seconds, "bytes_down": report.bytes_down, "bytes_up": report.bytes_up}
        )
        timings = {
            "round": report.round_number,
            "seconds": report.seconds,
            "bytes_down": report.bytes_down,
            "bytes_up": report.bytes_up,
            "groups": report.work,
            **self._presence(),
        }
        self._trackers.log_round(metrics, timings)
        if report.round_number == self._config.federation.rounds:
            self._folder.save_model("model", arrays, self._describe(report.round_number))
            self._trackers.finish(self._summary(metrics))
        elif report.round_number % self._config.federation.checkpoint_every == 0:
            aggregator = self._strategy.aggregator
            state = {
                "totals": self._totals,
                "best": self._best,
                "run": self._strategy.run,
                "strategy": aggregator.numbers,
                "roles": self._roles.by_group,
            }
            save_checkpoint(
                self._folder.path / "checkpoint",
                Checkpoint(report.round_number, arrays, state, aggregator.arrays),
            )
        return None

    def _presence(self) -> dict[str, Any]:
        """In a deployment, when the round ended, who came and went, and each group's node."""
        if not is_deployment(self._config):
            return {}
        attendance = self._attendance
        return {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "joined": attendance.joined,
            "left": attendance.left,
            "nodes": {
                group: str(node)
                for node, groups in attendance.groups_of.items()
                for group in groups
            },
        }

    def _other_cells(self, report: RoundReport) -> dict[str, Any]:
        """Cells of personal models, and of those that do not attack, where there are any."""
        cells: dict[str, Any] = {}
        distance = self._config.data.distance
        if report.personal_scores:
            personal = summarize(report.personal_scores, self._roles.by_group, distance)
            cells |= {"personal_cells": personal["cells"], "personal_groups": personal["groups"]}
        attack = self._config.attack
        if isinstance(attack, PoisoningAttack):
            honest = {
                group: score for group, score in report.scores.items() if group not in attack.groups
            }
            cells["honest_cells"] = summarize(honest, self._roles.by_group, distance)["cells"]
        return cells

    def _keep_best(self, metrics: Mapping[str, Any], arrays: Arrays) -> None:
        cell = next((name for name in _SELECTION_CELLS if name in metrics["cells"]), None)
        if cell is None:
            return
        alignment = metrics["cells"][cell]["alignment"]
        if self._best is None or alignment > self._best["alignment"]:
            number = metrics["round"]
            self._best = {"round": number, "cell": cell, "alignment": alignment}
            self._folder.save_model("model-best", arrays, self._describe(number))

    def _count(self, amounts: Mapping[str, float]) -> None:
        for name, amount in amounts.items():
            self._totals[name] = self._totals.get(name, 0) + amount

    def _describe(self, round_number: int) -> dict[str, Any]:
        config = config_dict(self._config)
        return {
            "round": round_number,
            "embedding_width": self._embedding_width,
            "model": config["model"],
            "embedding": config["embedding"],
            "precision": self._config.precision,
        }

    def _summary(self, last: Mapping[str, Any]) -> dict[str, Any]:
        nodes = self._attendance.nodes.values()
        if is_deployment(self._config):
            facts = {"participation": self._folder.participation()}
        elif all(node.partitions is not None for node in nodes):
            facts = _survey_facts(self._config, self._roles)
        else:
            facts = {}
        return {
            **last,
            "best": self._best,
            "rounds": self._config.federation.rounds,
            "seed": self._config.seed,
            "distance": self._config.data.distance,
            "train_groups": list(self._roles.train),
            "held_out_groups": list(self._roles.held_out),
            "groups_absent": list(self._roles.absent),
            "groups_dropped": {},
            "nodes": len(nodes),
            "devices": {
                "clients": describe(node.device for node in nodes),
                "server": "cpu",
            },
            "threads": sorted({node.threads for node in nodes}),
            "bytes_down": self._totals["bytes_down"],
            "bytes_up": self._totals["bytes_up"],
            "seconds": {
                "train": self._totals["train"],
                "evaluate": self._totals["evaluate"],
                "this_process": time.monotonic() - self._started,
            },
            "versions": versions(),
            **facts,
        }


def _survey_facts(config: Config, roles: Roles) -> dict[str, Any]:
    """What only a simulation can know, because it holds the whole survey."""
    survey = load_survey(config.data)
    # Nodes host the groups that take part: those with too few questions are known only here.
    whole = assign_roles(count_seen(survey, config), config)
    tasks = group_tasks(survey, roles.groups, config)
    return {
        "survey": {
            "source": survey.source,
            "questions": len(survey.questions),
            "rows_dropped": dict(survey.dropped),
        },
        "groups_absent": list(whole.absent),
        "groups_dropped": dict(whole.dropped),
        "baselines": score_baselines(tasks, roles, survey_table(survey, config), config),
    }


def _roles(nodes: Mapping[int, Node], config: Config, checkpoint: Checkpoint | None) -> Roles:
    """Roles of the groups that nodes host; a deployment's resumed run keeps those that it gave."""
    seen = {group: count for node in nodes.values() for group, count in node.seen_questions.items()}
    if not is_deployment(config):
        return assign_roles(seen, config)
    score_only = {group for node in nodes.values() for group in node.score_only}
    if checkpoint is None:
        return assign_roles_of_nodes(seen, score_only, config)
    given: dict[str, str] = checkpoint.state["roles"]
    known = Roles(
        train=tuple(group for group, role in given.items() if role == "train"),
        held_out=tuple(group for group, role in given.items() if role == "held_out"),
        dropped={},
    )
    return extend_roles(known, seen, score_only, config)


def _start(nodes: Mapping[int, Node], config: Config) -> Checkpoint:
    """State before the first round. Its name tells nodes what they kept for this run."""
    state: dict[str, Any] = {
        "totals": {},
        "best": None,
        "run": secrets.token_hex(8),
        "strategy": {},
    }
    return Checkpoint(0, _initial_arrays(nodes, config), state)


def _initial_arrays(nodes: Mapping[int, Node], config: Config) -> Arrays:
    width = next(iter(nodes.values())).embedding_width
    model = PreferenceTransformer(width, config.model, config.seed)
    dtype = "float64" if config.precision == "float64" else "float32"
    return {name: value.numpy().astype(dtype) for name, value in model.state_dict().items()}


def checkpoint_to_resume(config: Config) -> Checkpoint | None:
    """Find the checkpoint that ``resume`` asks for.

    Parameters
    ----------
    config : Config
        The run's configuration.

    Returns
    -------
    Checkpoint or None
        None where nothing is resumed.

    Raises
    ------
    ConfigError
        When the folder holds no run, a finished one, one with another configuration, or no
        complete checkpoint.
    """
    if config.resume is None:
        return None
    folder = Path(config.resume)
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"resume={folder} is not the folder of a run: it has no config.yaml")
    if (folder / "summary.json").exists():
        rounds = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["rounds"]
        raise ConfigError(f"resume={folder}: the run has finished its {rounds} rounds")
    changed = changed_on_resume(config, folder / "config.yaml")
    if changed:
        raise ConfigError(
            f"resume={folder}: a resumed run keeps its configuration, but {changed[0]}"
        )
    try:
        return load_checkpoint(folder / "checkpoint")
    except FileNotFoundError as error:
        raise ConfigError(f"resume={folder}: {error}") from error


def _run_folder(config: Config, context: Context) -> Path:
    if config.resume is not None:
        return Path(config.resume)
    if config.output_dir is not None:
        return Path(config.output_dir)
    # A bare `flwr run` has no working directory of the caller's to write to.
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return Path.home() / "plurallm-runs" / f"{started}-{context.run_id}"
