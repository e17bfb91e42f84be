"""The Flower ServerApp: meets the nodes, runs the rounds, records what comes of them."""

import json
import logging
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from plurallm.baselines import score_baselines
from plurallm.checkpoint import Arrays, Checkpoint, load_checkpoint, save_checkpoint
from plurallm.config import (
    Config,
    ConfigError,
    changed_on_resume,
    config_dict,
    config_digest,
    load_config,
    split_overrides,
)
from plurallm.evaluation import summarize
from plurallm.model import PreferenceTransformer
from plurallm.strategy import GroupFedAvg, Node, describe, meet_nodes
from plurallm.tasks import Roles, assign_roles, count_seen, group_tasks, load_survey, survey_table
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
    overrides = split_overrides(str(context.run_config["overrides"]))
    config = load_config(overrides, None)
    checkpoint = checkpoint_to_resume(config)
    nodes = meet_nodes(grid, config, config_digest(config))
    roles = assign_roles(_seen_questions(nodes), config)
    first_round = 0 if checkpoint is None else checkpoint.round_number
    folder = RunFolder(_run_folder(config, context), None if checkpoint is None else first_round)
    if checkpoint is None:
        folder.save_config(config, overrides)
        checkpoint = Checkpoint(0, _initial_arrays(nodes, config), {"totals": {}, "best": None})
    logger.info("the run's folder is %s", folder.path)
    if roles.absent:
        logger.info("data.groups also lists, but no node has: %s", ", ".join(roles.absent))
    logger.info("clients compute on %s", describe(node.device for node in nodes.values()))
    groups_of = {
        node_id: tuple(group for group in roles.groups if group in node.seen_questions)
        for node_id, node in nodes.items()
    }
    strategy = GroupFedAvg(config, roles, groups_of, first_round)
    with open_trackers(config, folder, first_round) as trackers:
        recorder = Recorder(config, roles, nodes, strategy, folder, trackers, checkpoint)
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
    roles : Roles
        Which groups train and which are held out.
    nodes : mapping of int to Node
        Who takes part.
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
        roles: Roles,
        nodes: Mapping[int, Node],
        strategy: GroupFedAvg,
        folder: RunFolder,
        trackers: Trackers,
        checkpoint: Checkpoint,
    ) -> None:
        self._config = config
        self._roles = roles
        self._nodes = nodes
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
        arrays = {name: array.numpy() for name, array in record.items()}
        metrics = {
            "round": report.round_number,
            "step": report.round_number * self._config.training.steps_per_round,
            "train_loss": report.train_loss,
            "groups_trained": list(report.losses),
            "groups_refused": report.refused,
        }
        if report.scores:
            distance = self._config.data.distance
            metrics |= summarize(report.scores, self._roles.by_group, distance)
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
        }
        self._trackers.log_round(metrics, timings)
        if report.round_number == self._config.federation.rounds:
            self._folder.save_model("model", arrays, self._describe(report.round_number))
            self._trackers.finish(self._summary(metrics))
        elif report.round_number % self._config.federation.checkpoint_every == 0:
            state = {"totals": self._totals, "best": self._best}
            save_checkpoint(
                self._folder.path / "checkpoint", Checkpoint(report.round_number, arrays, state)
            )
        return None

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
            "embedding_width": next(iter(self._nodes.values())).embedding_width,
            "model": config["model"],
            "embedding": config["embedding"],
            "precision": self._config.precision,
        }

    def _summary(self, last: Mapping[str, Any]) -> dict[str, Any]:
        survey_facts = _survey_facts(self._config, self._roles) if self._is_simulation() else {}
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
            "nodes": len(self._nodes),
            "devices": {
                "clients": describe(node.device for node in self._nodes.values()),
                "server": "cpu",
            },
            "threads": sorted({node.threads for node in self._nodes.values()}),
            "bytes_down": self._totals["bytes_down"],
            "bytes_up": self._totals["bytes_up"],
            "seconds": {
                "train": self._totals["train"],
                "evaluate": self._totals["evaluate"],
                "this_process": time.monotonic() - self._started,
            },
            "versions": versions(),
            **survey_facts,
        }

    def _is_simulation(self) -> bool:
        return all(node.partitions is not None for node in self._nodes.values())


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


def _seen_questions(nodes: Mapping[int, Node]) -> dict[str, int]:
    return {group: count for node in nodes.values() for group, count in node.seen_questions.items()}


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
