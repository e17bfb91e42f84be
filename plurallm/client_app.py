"""The Flower ClientApp: a node's groups train and score themselves; answers stay on the node."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from plurallm.attack import poison_task, poison_update
from plurallm.config import (
    Config,
    DittoPersonal,
    FairStrategy,
    FedProxStrategy,
    FileData,
    RespondentPrivacy,
    config_digest,
    load_config,
    split_overrides,
    state_directory,
)
from plurallm.device import choose_device
from plurallm.evaluation import (
    GroupScore,
    Predictor,
    model_predictor,
    score_group,
    with_context_of,
)
from plurallm.model import PreferenceTransformer
from plurallm.node import (
    RefusalError,
    check_overrides,
    guard,
    node_settings,
    own_config,
    own_roles,
    own_survey,
)
from plurallm.personal import PersonalModels, train_personal
from plurallm.privacy import protect_survey
from plurallm.roles import Roles, assign_roles, count_seen, groups_of_node
from plurallm.survey import Survey
from plurallm.tasks import GroupTask, group_tasks, load_survey, survey_table
from plurallm.training import (
    LocalUpdate,
    Proximal,
    received_distance,
    train_group,
    train_groups_together,
)

app = ClientApp(mods=[guard])


@dataclass
class LocalData:
    """What a client process holds, once, whatever the number of its groups.

    Attributes
    ----------
    config : Config
        The run's configuration; on a data holder's node with the node's own survey and device.
    digest : str
        Fingerprint of the run's configuration.
    roles : Roles
        Of all groups of the survey; on a data holder's node, what each may be asked.
    seen_questions : dict of str to int
        Seen questions of every group of the survey.
    tasks : dict of str to GroupTask
        Every group that takes part, as it is trained on and shown as context.
    scored : dict of str to GroupTask
        The same as it is scored against.
    table_RD : Tensor of shape (R, D)
        The embedding table, on the client's device.
    model : PreferenceTransformer
        Takes the weights of the message at hand.
    """

    config: Config
    digest: str
    roles: Roles
    seen_questions: dict[str, int]
    tasks: dict[str, GroupTask]
    scored: dict[str, GroupTask]
    table_RD: Tensor
    model: PreferenceTransformer
    _predictor: tuple[str, Predictor] | None = field(default=None, repr=False)

    def receive(self, arrays: ArrayRecord) -> None:
        """Put received weights into the model."""
        self.model.load_state_dict(arrays.to_torch_state_dict())

    def personal_models(self, run: str) -> PersonalModels:
        """Where the groups' own models of a run are kept.

        Raises
        ------
        ValueError
            When the server's name for the run is not one that could only be a folder's.
        """
        if not re.fullmatch("[0-9a-f]{16}", run):
            raise ValueError(f"the run's name {run!r} is not 16 hexadecimal digits")
        folder = state_directory(self.config) / "personal" / run
        return PersonalModels(folder, self.config.federation.checkpoint_every)

    def score(self, group: str, predict: Predictor) -> GroupScore:
        """Score one group."""
        shown = with_context_of(self.tasks[group], predict)
        return score_group(self.scored[group], shown, self.config)

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
            "partitions": int(context.node_config.get("num-partitions", 0)),
            "score-only": [group in local.roles.held_out for group in hosted],
            "config": local.digest,
        }
    )
    return Message(RecordDict({"node": record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train each asked group from the received weights; reply with all, stacked."""
    local = local_data(context)
    record = message.content.array_records["arrays"]
    asked, round_number = _asked(message, local, context)
    run = str(message.content["config"]["run"])
    stacked = {
        name: np.empty((len(asked), *array.shape), dtype=array.dtype)
        for name, array in record.items()
    }
    losses, examples, seconds = [], [], []
    distances = _received_distances(local, asked, record, round_number)
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
        if isinstance(local.config.personal, DittoPersonal):
            local.receive(record)
            tasks = [local.tasks[group] for group in members]
            models = local.personal_models(run)
            train_personal(models, local.model, tasks, local.table_RD, local.config, round_number)
        seconds += [(perf_counter() - started) / len(members)] * len(members)
    # One array after the other, so that a node of many groups never holds all of them twice.
    arrays = ArrayRecord({name: Array(stacked.pop(name)) for name in list(stacked)})
    metrics = MetricRecord(
        {"num-examples": examples, "train-loss": losses, "seconds": seconds, **distances}
    )
    return _reply(message, asked, {"arrays": arrays, "metrics": metrics})


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
        own = _personal_scores(local, asked, models, round_number)
        if own:
            reply.content["personal"] = _score_record(list(own.values()), local.config)
            reply.content.config_records["config"]["personal-groups"] = list(own)
    return reply


def local_data(context: Context) -> LocalData:
    """Load what the process needs.

    A simulation's virtual nodes share what a process has loaded for the same run before; a data
    holder's node has a new process for every message.

    Raises
    ------
    RefusalError
        When the run asks for what the node does not allow.
    """
    overrides = str(context.run_config["overrides"])
    settings = node_settings(context.node_config)
    if settings is not None:
        check_overrides(split_overrides(overrides), settings)
        run = _config(overrides)
        config = own_config(run, settings)
        survey = own_survey(config, settings)
        return _lay_out(survey, own_roles(survey, config, settings), config, config_digest(run))
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
    survey = load_survey(config.data)
    roles = assign_roles(count_seen(survey, config), config)
    return _lay_out(survey, roles, config, config_digest(config))


def _lay_out(survey: Survey, roles: Roles, config: Config, digest: str) -> LocalData:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    table_RD = survey_table(survey, config).to(choose_device(config.device))
    model = PreferenceTransformer(table_RD.shape[1], config.model, config.seed)
    scored = tasks = group_tasks(survey, roles.groups, config)
    if isinstance(config.privacy, RespondentPrivacy):
        folder = state_directory(config) / "respondent"
        noised = protect_survey(survey, roles.groups, config.privacy, folder)
        tasks = group_tasks(noised, roles.groups, config)
        scored = scored if config.privacy.true_scores else tasks
    return LocalData(
        config,
        digest,
        roles,
        count_seen(survey, config),
        tasks,
        scored,
        table_RD,
        model.to(table_RD.device, getattr(torch, config.precision)),
    )


def node_groups(local: LocalData, context: Context) -> tuple[str, ...]:
    """Groups that the node hosts: its own, or its share of a simulation's groups."""
    if "partition-id" not in context.node_config:
        return local.roles.groups
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
) -> Iterator[tuple[Mapping[str, Tensor], LocalUpdate]]:
    """Weights and update of each group, from the received weights."""
    local.receive(record)
    config, table_RD = local.config, local.table_RD
    received = {name: value.clone() for name, value in local.model.state_dict().items()}
    proximal = None
    if isinstance(config.strategy, FedProxStrategy) and config.strategy.mu > 0:
        proximal = Proximal(config.strategy.mu, received)
    tasks = [poison_task(local.tasks[group], config) for group in groups]
    try:
        if len(tasks) == 1:
            update = train_group(local.model, tasks[0], table_RD, config, round_number, proximal)
            weights = local.model.state_dict()
            yield poison_update(groups[0], weights, received, config.attack), update
            return
        stacked, updates = train_groups_together(
            local.model, tasks, table_RD, config, round_number, proximal
        )
    except Exception as error:
        # The reply is for all groups of the node: say which of them it was.
        raise RuntimeError(f"training {', '.join(groups)}: {error}") from error
    for row, update in enumerate(updates):
        weights = {name: tensor[row] for name, tensor in stacked.items()}
        yield poison_update(groups[row], weights, received, config.attack), update


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
    local: LocalData, asked: list[str], models: PersonalModels, round_number: int
) -> dict[str, GroupScore]:
    """Scores of the asked training groups' own models."""
    scores = {}
    for group in asked:
        if group in local.roles.train:
            own = models.load(group, round_number)
            if own is not None:
                local.model.load_state_dict(own)
            scores[group] = local.score(group, model_predictor(local.model, local.table_RD))
    return scores


def _asked(message: Message, local: LocalData, context: Context) -> tuple[list[str], int]:
    config = message.content.config_records["config"]
    asked = [str(group) for group in config["groups"]]  # type: ignore[union-attr]
    foreign = sorted(set(asked) - set(node_groups(local, context)))
    if foreign:
        raise RefusalError(f"the node was asked for group {foreign[0]!r}, which it does not host")
    if message.metadata.message_type == "train" and set(asked) & set(local.roles.held_out):
        raise RefusalError("the node was asked to train a held-out group")
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
