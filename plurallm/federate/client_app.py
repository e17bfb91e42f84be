"""The Flower ClientApp: a node's groups train and score themselves; answers stay on the node."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import Tensor

from plurallm.config.directories import state_directory
from plurallm.config.protection import DittoPersonal
from plurallm.config.schema import Config
from plurallm.config.strategies import FairStrategy
from plurallm.evaluate.experts import (
    expert_config,
    expert_predictors,
    population_predictor,
)
from plurallm.evaluate.scores import GroupScore, model_predictor
from plurallm.federate.ditto import PersonalModels, train_personal
from plurallm.federate.local_data import LocalData, local_data, node_groups
from plurallm.federate.messages import read_array, write_array
from plurallm.federate.node.guard import guard
from plurallm.federate.node.memory import check_unchanged
from plurallm.federate.node.permission import RefusalError, may_send_experts
from plurallm.federate.node.settings import node_settings
from plurallm.federate.poisoning import poison_task, poison_updates
from plurallm.learn.batched import groups_in_memory, train_groups
from plurallm.learn.local import LocalUpdate, received_distance
from plurallm.learn.proximal import Proximal

app = ClientApp(mods=[guard])


@app.query("groups")
def groups(message: Message, context: Context) -> Message:
    """Tell the server which groups the node hosts, and with what."""
    local = local_data(context)
    hosted = node_groups(local, context)
    record = ConfigRecord(
        {
            "groups": list(hosted),
            "seen-questions": [local.seen_questions[group] for group in hosted],
            "embedding-width": local.table_RD.shape[1],
            "device": str(local.table_RD.device),
            "threads": torch.get_num_threads(),
            "partitions": int(context.node_config.get("num-partitions", 0)),
            "score-only": [group in local.roles.held_out for group in hosted],
            "config": local.digest,
            "embedder": local.embedder,
            "probe": local.probe,
        }
    )
    if node_settings(context.node_config) is None:  # a data holder's node keeps it
        record["survey"] = [local.survey[group] for group in hosted]
    return Message(RecordDict({"node": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train each asked group from the received weights; reply with all, stacked."""
    local = local_data(context)
    record = message.content.array_records["arrays"]
    asked, round_number = _asked(message, local, context)
    run = str(message.content["config"]["run"])
    losses, examples, seconds = [], [], []
    distances = _received_distances(local, asked, record, round_number)
    at_once = _groups_at_once(local)
    chunk = 1 if at_once == 1 else groups_in_memory(local.model)
    written: dict[str, Array] = {}
    stacked: dict[str, NDArray[Any]] = {}
    for start in range(0, len(asked), chunk):
        members = asked[start : start + chunk]
        weights, updates, spent = _train(local, members, record, round_number, at_once)
        for name, tensor in weights.items():  # all groups at once: each copy waits for the device
            own = tensor.cpu().numpy()
            if len(members) == len(asked):
                written[name] = write_array(own)
                continue
            if name not in stacked:
                stacked[name] = np.empty((len(asked), *own.shape[1:]), dtype=own.dtype)
            stacked[name][start : start + len(members)] = own
        losses += [float(np.mean(update.losses)) for update in updates]
        examples += [update.examples for update in updates]
        if isinstance(local.config.personal, DittoPersonal):
            local.receive(record)
            tasks = [local.tasks[group] for group in members]
            models = local.personal_models(run)
            started = perf_counter()
            with _enough_memory(at_once):
                train_personal(
                    models, local.model, tasks, local.table_RD, local.config, round_number, at_once
                )
            spent += perf_counter() - started
        seconds += [spent / len(members)] * len(members)
    # One array after the other, so that a node of many groups never holds all of them twice.
    written |= {name: write_array(stacked.pop(name)) for name in list(stacked)}
    metrics = MetricRecord(
        {"num-examples": examples, "train-loss": losses, "seconds": seconds, **distances}
    )
    return _reply(message, asked, {"arrays": ArrayRecord(written), "metrics": metrics})


@app.train("experts")
def train_experts(message: Message, context: Context) -> Message:
    """Fine-tune the received weights for each asked group; reply as ``train`` does.

    What comes of it is not averaged with others', so that a data holder's node sends it only where
    its own settings say so.
    """
    local = local_data(context)
    settings = node_settings(context.node_config)
    if settings is not None and not may_send_experts(settings):
        raise RefusalError("the node sends no expert: its settings do not allow personal.experts")
    record = message.content.array_records["arrays"]
    asked, _ = _asked(message, local, context)
    config = expert_config(local.config)
    stacked: dict[str, NDArray[Any]] = {}
    losses, examples, seconds = [], [], []
    for row, group in enumerate(asked):
        weights, (update,), spent = _train(local, [group], record, 1, 1, config)
        for name, tensor in weights.items():
            own = tensor[0].cpu().numpy()
            if name not in stacked:
                stacked[name] = np.empty((len(asked), *own.shape), own.dtype)
            stacked[name][row] = own
        losses.append(float(np.mean(update.losses)))
        examples.append(update.examples)
        seconds.append(spent)
    written = {name: write_array(stacked.pop(name)) for name in list(stacked)}
    metrics = MetricRecord({"num-examples": examples, "train-loss": losses, "seconds": seconds})
    return _reply(message, asked, {"arrays": ArrayRecord(written), "metrics": metrics})


@app.evaluate("experts")
def evaluate_experts(message: Message, context: Context) -> Message:
    """Score each asked group with the received experts: mixed to fit its context, and all alike.

    What the two differ by is what the group's context adds; no other group's is here.
    """
    local = local_data(context)
    asked, _ = _asked(message, local, context)
    record = message.content.array_records["arrays"]
    names = message.content.config_records["config"]["experts"]
    assert isinstance(names, list)
    weights = {
        name: torch.tensor(read_array(array)).to(local.table_RD.device)
        for name, array in record.items()
    }
    experts = [str(name) for name in names]
    predictors = expert_predictors(local.model, weights, experts, asked, local.table_RD)
    scores = [local.score(group, predictors[group]) for group in asked]
    alike = population_predictor(local.model, weights, local.table_RD)
    population = [local.score(group, alike) for group in asked]
    records: dict[str, ArrayRecord | MetricRecord] = {
        "metrics": _score_record(scores, local.config),
        "population": _score_record(population, local.config),
    }
    return _reply(message, asked, records)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score each asked group with the received weights."""
    local = local_data(context)
    asked, round_number = _asked(message, local, context)
    record = message.content.array_records["arrays"]
    predict = local.predictor(record)
    scores = [local.score(group, predict) for group in asked]
    reply = _reply(message, asked, {"metrics": _score_record(scores, local.config)})
    if isinstance(local.config.personal, DittoPersonal):
        models = local.personal_models(str(message.content["config"]["run"]))
        own = _personal_scores(local, asked, models, record, round_number)
        if own:
            reply.content["personal"] = _score_record(list(own.values()), local.config)
            reply.content.config_records["config"]["personal-groups"] = list(own)
    return reply


def _groups_at_once(local: LocalData) -> int:
    """How many groups train in one computation: on a CPU it would not be faster."""
    configured = local.config.training.groups_at_once
    if configured is not None:
        return configured
    return 1 if local.table_RD.device.type == "cpu" else 32


def _train(
    local: LocalData,
    groups: list[str],
    record: ArrayRecord,
    round_number: int,
    at_once: int,
    config: Config | None = None,
) -> tuple[dict[str, Tensor], list[LocalUpdate], float]:
    """Weights ``[G, ...]`` and update of each group, and the seconds of the training alone.

    With a configuration of its own, of experts, no strategy pulls on the weights.
    """
    received = local.receive(record)
    table_RD, strategy, proximal = local.table_RD, local.config.strategy, None
    if config is None and strategy.proximal > 0:
        proximal = Proximal(strategy.proximal, received)
    config = config or local.config
    tasks = [poison_task(local.tasks[group], config) for group in groups]
    started = perf_counter()
    try:
        with _enough_memory(at_once):
            weights, updates = train_groups(
                local.model, tasks, table_RD, config, round_number, proximal, at_once=at_once
            )
    except Exception as error:
        # The reply is for all groups of the node: say which of them it was.
        raise RuntimeError(f"training {', '.join(groups)}: {error}") from error
    spent = perf_counter() - started  # the losses were read: the device has done its work
    poison_updates(groups, weights, received, config.attack)
    return weights, updates, spent


@contextmanager
def _enough_memory(at_once: int) -> Iterator[None]:
    """Say what to do where a GPU's memory is too small for so many groups at once."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RuntimeError(
            f"the GPU has too little memory to train {at_once} groups at once; "
            "give a lower training.groups_at_once"
        ) from error


def _received_distances(
    local: LocalData, groups: list[str], record: ArrayRecord, round_number: int
) -> dict[str, list[float]]:
    """What a fair strategy weighs groups by; nothing for another strategy."""
    if not isinstance(local.config.strategy, FairStrategy):
        return {}
    local.receive(record)
    distances = [
        received_distance(
            local.model, local.tasks[group], local.table_RD, local.config, round_number
        )
        for group in groups
    ]
    return {"received-distance": distances}


def _personal_scores(
    local: LocalData,
    asked: list[str],
    models: PersonalModels,
    record: ArrayRecord,
    round_number: int,
) -> dict[str, GroupScore]:
    """Scores of the asked training groups' own models; of the received one before they train."""
    scores = {}
    for group in asked:
        if group in local.roles.train:
            own = models.load(group, round_number)
            if own is None:
                local.receive(record)
            else:
                local.model.load_state_dict(own)
            scores[group] = local.score(group, model_predictor(local.model, local.table_RD))
    return scores


def _asked(message: Message, local: LocalData, context: Context) -> tuple[list[str], int]:
    config = message.content.config_records["config"]
    asked = [str(group) for group in config["groups"]]  # type: ignore[union-attr]
    foreign = sorted(set(asked) - set(node_groups(local, context)))
    if foreign:
        raise RefusalError(f"the node was asked for group {foreign[0]!r}, which it does not host")
    if message.metadata.message_type.startswith("train") and set(asked) & set(local.roles.held_out):
        raise RefusalError("the node was asked to train a held-out group")
    _check_survey(config, asked, local, context)
    return asked, int(config["round"])  # type: ignore[arg-type]


def _check_survey(
    config: ConfigRecord, asked: list[str], local: LocalData, context: Context
) -> None:
    """A run keeps to the survey that it began with, whatever becomes of the file."""
    now = {group: local.survey[group] for group in asked}
    if node_settings(context.node_config) is not None:
        if "run" in config:
            check_unchanged(state_directory(local.config), str(config["run"]), now)
        return
    began = config.get("survey", list(now.values()))
    assert isinstance(began, list)
    changed = [group for group, own in zip(asked, began, strict=True) if own != now[group]]
    if changed:
        raise RefusalError(
            f"the survey has changed since the run began: group {changed[0]!r} has other answers "
            "or questions; restore the file and resume the run"
        )


def _score_record(scores: list[GroupScore], config: Config) -> MetricRecord:
    # A group without unseen questions sends zeros with a count of zero: keys and lengths are fixed.
    missing = (0.0,) * config.evaluation.draws
    return MetricRecord(
        {
            "seen-distance": [value for score in scores for value in score.seen_distance],
            "unseen-distance": [
                value for score in scores for value in score.unseen_distance or missing
            ],
            "novel-distance": [
                value for score in scores for value in score.novel_distance or missing
            ],
            "seen-questions": [score.seen_questions for score in scores],
            "unseen-questions": [score.unseen_questions for score in scores],
            "novel-questions": [score.novel_questions for score in scores],
        }
    )


def _reply(
    message: Message, asked: list[str], records: dict[str, ArrayRecord | MetricRecord]
) -> Message:
    content = RecordDict({**records, "config": ConfigRecord({"groups": asked})})
    return Message(content, reply_to=message)
