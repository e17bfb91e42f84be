"""The Flower ClientApp: a node's groups train and score themselves; answers stay on the node."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from plurallm.config import Config, FileData, config_digest, load_config, split_overrides
from plurallm.device import choose_device
from plurallm.evaluation import GroupScore, Predictor, model_predictor, score_group
from plurallm.model import PreferenceTransformer
from plurallm.tasks import (
    GroupTask,
    Roles,
    assign_roles,
    count_seen,
    group_tasks,
    groups_of_node,
    load_survey,
    survey_table,
)
from plurallm.training import LocalUpdate, train_group, train_groups_together

app = ClientApp()


@dataclass
class LocalData:
    """What a client process holds, once, whatever the number of its groups.

    Attributes
    ----------
    config : Config
        The run's configuration.
    roles : Roles
        Of all groups of the survey.
    seen_questions : dict of str to int
        Seen questions of every group of the survey.
    tasks : dict of str to GroupTask
        Every group that takes part.
    table_RD : Tensor of shape (R, D)
        The embedding table, on the client's device.
    model : PreferenceTransformer
        Takes the weights of the message at hand.
    """

    config: Config
    roles: Roles
    seen_questions: dict[str, int]
    tasks: dict[str, GroupTask]
    table_RD: Tensor
    model: PreferenceTransformer
    _predictor: tuple[str, Predictor] | None = field(default=None, repr=False)

    def receive(self, arrays: ArrayRecord) -> None:
        """Put received weights into the model."""
        self.model.load_state_dict(arrays.to_torch_state_dict())

    def predictor(self, arrays: ArrayRecord) -> Predictor:
        """Make the predictor of received weights, once for all nodes that receive the same."""
        self.receive(arrays)
        digest = hashlib.blake2b()
        for array in arrays.values():
            digest.update(array.data)
        if self._predictor is None or self._predictor[0] != digest.hexdigest():
            self._predictor = digest.hexdigest(), model_predictor(self.model, self.table_RD)
        return self._predictor[1]


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
            "partitions": int(context.node_config["num-partitions"]),
            "config": config_digest(local.config),
        }
    )
    return Message(RecordDict({"node": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train each asked group from the received weights; reply with all, stacked."""
    local = local_data(context)
    record = message.content.array_records["arrays"]
    asked, round_number = _asked(message, local, context)
    stacked = {
        name: np.empty((len(asked), *array.shape), dtype=array.dtype)
        for name, array in record.items()
    }
    losses, examples, seconds = [], [], []
    chunk = _groups_at_once(local)
    for start in range(0, len(asked), chunk):
        members = asked[start : start + chunk]
        started = perf_counter()
        for row, (weights, update) in enumerate(
            _train(local, members, record, round_number), start
        ):
            for name, tensor in weights.items():
                stacked[name][row] = tensor.cpu().numpy()
            losses.append(float(np.mean(update.losses)))
            examples.append(update.examples)
        seconds += [(perf_counter() - started) / len(members)] * len(members)
    # One array after the other, so that a node of many groups never holds all of them twice.
    arrays = ArrayRecord({name: Array(stacked.pop(name)) for name in list(stacked)})
    metrics = MetricRecord({"num-examples": examples, "train-loss": losses, "seconds": seconds})
    return _reply(message, asked, {"arrays": arrays, "metrics": metrics})


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score each asked group with the received weights."""
    local = local_data(context)
    asked, _ = _asked(message, local, context)
    record = message.content.array_records["arrays"]
    predict = local.predictor(record)
    scores = [score_group(local.tasks[group], predict, local.config) for group in asked]
    return _reply(message, asked, {"metrics": _score_record(scores, local.config)})


def local_data(context: Context) -> LocalData:
    """Load what the process needs, or return what it has loaded for the same run before."""
    overrides = str(context.run_config["overrides"])
    config = _config(overrides)
    version = 0
    path = config.data.path if isinstance(config.data, FileData) else None
    if path is not None and Path(path).exists():
        version = Path(path).stat().st_mtime_ns
    return _load(overrides, version)


@lru_cache(maxsize=8)
def _config(overrides: str) -> Config:
    """Compose once a process: it takes longer than a training step."""
    return load_config(split_overrides(overrides), None)


@lru_cache(maxsize=1)
def _load(overrides: str, version: int) -> LocalData:
    """`version` tells a survey file that was changed under its name."""
    config = _config(overrides)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    survey = load_survey(config.data)
    seen_questions = count_seen(survey, config)
    roles = assign_roles(seen_questions, config)
    table_RD = survey_table(survey, config).to(choose_device(config.device))
    model = PreferenceTransformer(table_RD.shape[1], config.model, config.seed)
    return LocalData(
        config,
        roles,
        seen_questions,
        group_tasks(survey, roles.groups, config),
        table_RD,
        model.to(table_RD.device, getattr(torch, config.precision)),
    )


def node_groups(local: LocalData, context: Context) -> tuple[str, ...]:
    """Groups that the node hosts: its share of a simulation's groups."""
    if "partition-id" not in context.node_config:
        raise ValueError("the node's configuration has no partition-id")
    partition, partitions = (
        int(context.node_config[key]) for key in ("partition-id", "num-partitions")
    )
    return groups_of_node(local.roles, partition, partitions)


def _groups_at_once(local: LocalData) -> int:
    """How many groups train in one computation: on a CPU it would not be faster."""
    configured = local.config.training.groups_at_once
    if configured is not None:
        return configured
    return 1 if local.table_RD.device.type == "cpu" else 32


def _train(
    local: LocalData, groups: list[str], record: ArrayRecord, round_number: int
) -> Iterator[tuple[dict[str, Tensor], LocalUpdate]]:
    """Weights and update of each group, from the received weights."""
    local.receive(record)
    tasks = [local.tasks[group] for group in groups]
    try:
        if len(tasks) == 1:
            update = train_group(local.model, tasks[0], local.table_RD, local.config, round_number)
            yield local.model.state_dict(), update
            return
        weights, updates = train_groups_together(
            local.model, tasks, local.table_RD, local.config, round_number
        )
    except Exception as error:
        # The reply is for all groups of the node: say which of them it was.
        raise RuntimeError(f"training {', '.join(groups)}: {error}") from error
    for row, update in enumerate(updates):
        yield {name: tensor[row] for name, tensor in weights.items()}, update


def _asked(message: Message, local: LocalData, context: Context) -> tuple[list[str], int]:
    config = message.content.config_records["config"]
    asked = [str(group) for group in config["groups"]]  # type: ignore[union-attr]
    foreign = sorted(set(asked) - set(node_groups(local, context)))
    if foreign:
        raise ValueError(f"the node was asked for group {foreign[0]!r}, which it does not host")
    if message.metadata.message_type == "train" and set(asked) & set(local.roles.held_out):
        raise ValueError("the node was asked to train a held-out group")
    return asked, int(config["round"])  # type: ignore[arg-type]


def _score_record(scores: list[GroupScore], config: Config) -> MetricRecord:
    # A group without unseen questions sends zeros with a count of zero: keys and lengths are fixed.
    missing = (0.0,) * config.evaluation.draws
    return MetricRecord(
        {
            "seen-distance": [value for score in scores for value in score.seen_distance],
            "unseen-distance": [
                value for score in scores for value in score.unseen_distance or missing
            ],
            "seen-questions": [score.seen_questions for score in scores],
            "unseen-questions": [score.unseen_questions for score in scores],
        }
    )


def _reply(
    message: Message, asked: list[str], records: dict[str, ArrayRecord | MetricRecord]
) -> Message:
    content = RecordDict({**records, "config": ConfigRecord({"groups": asked})})
    return Message(content, reply_to=message)
