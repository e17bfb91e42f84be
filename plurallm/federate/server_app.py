"""The Flower ServerApp: meets the nodes, runs the rounds, records what comes of them."""

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from plurallm.config.compose import load_config
from plurallm.config.digest import PLACES, changed_on_resume, config_digest
from plurallm.config.directories import home_directory
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, override_key, split_overrides
from plurallm.config.schema import Config
from plurallm.data.content import Content, check_embedder, check_format, check_survey, content_dict
from plurallm.data.roles import Roles, assign_roles, strange_populations, tell_parentheses
from plurallm.federate.aggregators.choice import make_aggregator
from plurallm.federate.attendance import Attendance
from plurallm.federate.fedavg import GroupFedAvg
from plurallm.federate.members import Node, describe, is_deployment, meet_nodes
from plurallm.federate.node_roles import assign_roles_of_nodes, extend_roles
from plurallm.federate.outstanding import PatientGrid
from plurallm.federate.recorder import Recorder
from plurallm.federate.registration import RegistrationError, audit, check_registration
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.record.checkpoint import Arrays, Checkpoint, load_checkpoint
from plurallm.record.lock import lock_run
from plurallm.record.run_folder import RunFolder
from plurallm.record.trackers import open_trackers

app = ServerApp()

logger = logging.getLogger("plurallm")


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
    try:  # refused before anything is written there
        checkpoint_to_resume(config)
        if is_deployment(config) and not getattr(grid, "keyless", False):
            check_registration()
    except (ConfigError, RegistrationError) as error:
        audit("run refused", run=str(context.run_id), why=str(error))
        raise
    path = _run_folder(config, context)
    audit("run started", run=str(context.run_id), run_folder=str(path))
    with lock_run(path):  # before the checkpoint is read: another run could write a newer one
        _run(PatientGrid(grid), config, overrides, path)


def _run(grid: Grid, config: Config, overrides: list[str], path: Path) -> None:
    checkpoint = checkpoint_to_resume(config)
    digest = config_digest(config)
    nodes = meet_nodes(grid, config, digest)
    content = _content(nodes)
    if checkpoint is not None:
        place, known = f"resume={path}", checkpoint.state.get("content")
        check_format(known, place)
        check_survey(known, content.survey, place)
        check_embedder(known, content.embedder, place)
        checkpoint.state["content"] = content_dict(content)
    attendance = Attendance(config, digest, nodes, _roles(nodes, config, checkpoint))
    first_round = 0 if checkpoint is None else checkpoint.round_number
    folder = RunFolder(path, None if checkpoint is None else first_round, locked=True)
    began = [each for each in absolute_overrides(overrides, None) if override_key(each) != "resume"]
    # Again on resuming: the files of survey and embedder may lie elsewhere now.
    folder.save_config(replace(config, resume=None), began)
    if checkpoint is None:
        checkpoint = _start(nodes, config, content)
    logger.info("the run's folder is %s", folder.path)
    if attendance.roles.absent:
        logger.info(
            "data.groups also lists, but no node has: %s", ", ".join(attendance.roles.absent)
        )
    for line in tell_parentheses(attendance.roles.groups, config.data):
        logger.info(line)
    strange = strange_populations(attendance.roles.groups, config.data)
    if strange and is_deployment(config):
        logger.warning("data.populations also lists, but no node has: %s", ", ".join(strange))
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


def _roles(nodes: Mapping[int, Node], config: Config, checkpoint: Checkpoint | None) -> Roles:
    """Roles of the groups that nodes host; a deployment's resumed run keeps those that it gave."""
    seen = {group: count for node in nodes.values() for group, count in node.seen_questions.items()}
    if not is_deployment(config):
        roles = assign_roles(seen, config)
        if (
            checkpoint is not None
            and checkpoint.state.get("roles", roles.by_group) != roles.by_group
        ):
            raise ConfigError(
                f"resume={config.resume}: the groups' roles would not be those of the run's "
                "beginning: resume it with the version that began it"
            )
        return roles
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


def _content(nodes: Mapping[int, Node]) -> Content:
    """What stands behind the run, as its nodes say; they agree on the embedder."""
    survey = {group: own for node in nodes.values() for group, own in node.survey.items()}
    one = next(iter(nodes.values()))
    return Content(survey, one.embedder, one.probe)


def _start(nodes: Mapping[int, Node], config: Config, content: Content) -> Checkpoint:
    """State before the first round. Its name tells nodes what they kept for this run."""
    state: dict[str, Any] = {
        "totals": {},
        "best": None,
        "run": secrets.token_hex(8),
        "strategy": {},
        "content": content_dict(content),
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
    try:
        checkpoint = load_checkpoint(folder / "checkpoint")
    except FileNotFoundError as error:
        raise ConfigError(f"resume={folder}: {error}") from error
    # The same content may lie elsewhere, where it is known to be the same.
    places = PLACES if "content" in checkpoint.state else ()
    changed = changed_on_resume(config, folder / "config.yaml", places)
    if changed:
        raise ConfigError(
            f"resume={folder}: a resumed run keeps its configuration, but {changed[0]}"
        )
    return checkpoint


def _run_folder(config: Config, context: Context) -> Path:
    if config.resume is not None:
        return Path(config.resume)
    if config.output_dir is not None:
        return Path(config.output_dir)
    # A bare `flwr run` has no working directory of the caller's to write to.
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return home_directory("output_dir") / "plurallm-runs" / f"{started}-{context.run_id}"
