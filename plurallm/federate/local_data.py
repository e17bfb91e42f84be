"""What a client process holds: the groups of its node, laid out once for all messages."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from flwr.app import ArrayRecord, Context
from torch import Tensor

from plurallm.config.compose import load_config
from plurallm.config.device import choose_device
from plurallm.config.digest import config_digest
from plurallm.config.directories import cache_directory, state_directory
from plurallm.config.overrides import split_overrides
from plurallm.config.protection import RespondentPrivacy
from plurallm.config.schema import Config
from plurallm.data.embedding.fingerprint import embedder_fingerprint
from plurallm.data.embedding.table import probe_vector
from plurallm.data.roles import Roles, count_seen, groups_of_node, survey_roles
from plurallm.data.survey import Survey
from plurallm.data.tasks import (
    GroupTask,
    data_state,
    group_tasks,
    scorable,
    survey_table,
)
from plurallm.evaluate.scores import (
    GroupScore,
    Predictor,
    model_predictor,
    score_group,
    with_context_of,
)
from plurallm.federate.ditto import PersonalModels
from plurallm.federate.messages import read_array
from plurallm.federate.node.memory import check_run_name
from plurallm.federate.node.permission import check_overrides, own_config, own_roles, own_survey
from plurallm.federate.node.settings import node_settings
from plurallm.federate.privacy.respondent import protect_survey
from plurallm.learn.transformer import PreferenceTransformer


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
    survey : mapping of str to str
        Fingerprint of each group's answers and of the questions behind them.
    embedder : str
        Fingerprint of the embedder's content.
    probe : list of float, length D
        What the embedder makes of ``plurallm.embedding.PROBE``.
    """

    config: Config
    digest: str
    roles: Roles
    seen_questions: dict[str, int]
    tasks: dict[str, GroupTask]
    scored: dict[str, GroupTask]
    table_RD: Tensor
    model: PreferenceTransformer
    survey: Mapping[str, str]
    embedder: str
    probe: list[float]
    _predictor: tuple[str, Predictor] | None = field(default=None, repr=False)

    def receive(self, arrays: ArrayRecord) -> dict[str, Tensor]:
        """Put received weights into the model; give them, on its device, to be read only."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            received = {
                name: torch.from_numpy(read_array(array)).to(self.table_RD.device)
                for name, array in arrays.items()
            }
        own = dict(self.model.named_parameters())
        if {name: w.shape for name, w in own.items()} != {n: w.shape for n, w in received.items()}:
            self.model.load_state_dict(received)  # says what does not fit
        with torch.no_grad():  # in less than half the time
            for name, weight in own.items():
                weight.copy_(received[name])
        return received

    def personal_models(self, run: str) -> PersonalModels:
        """Where the groups' own models of a run are kept.

        Raises
        ------
        ValueError
            When the server's name for the run is not one that could only be a folder's.
        """
        check_run_name(run)
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
        whole = own_survey(config, settings)
        roles = own_roles(scorable(whole, config.data), config, settings)
        return _lay_out(whole, roles, config, config_digest(run))
    config = _config(overrides)
    return _load(overrides, data_state(config.data))


@lru_cache(maxsize=8)
def _config(overrides: str) -> Config:
    """Compose once a process: it takes longer than a training step."""
    return load_config(split_overrides(overrides), None)


@lru_cache(maxsize=1)
def _load(overrides: str, state: tuple[tuple[int, ...] | None, ...]) -> LocalData:
    """`state` tells survey files that were changed under their names."""
    config = _config(overrides)
    whole = config.data.read()
    roles = survey_roles(scorable(whole, config.data), config)
    return _lay_out(whole, roles, config, config_digest(config))


def _lay_out(whole: Survey, roles: Roles, config: Config, digest: str) -> LocalData:
    survey = scorable(whole, config.data)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    table_RD = survey_table(survey, config).to(choose_device(config.device))
    model = PreferenceTransformer(table_RD.shape[1], config.model, config.seed)
    scored = tasks = group_tasks(survey, roles.groups, config, table_RD)
    if isinstance(config.privacy, RespondentPrivacy):
        folder = state_directory(config) / "respondent"
        # Of all questions, whatever a run scores: another choice would be another release.
        noised = protect_survey(whole, roles.groups, config.privacy, folder)
        tasks = group_tasks(scorable(noised, config.data), roles.groups, config)
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
        survey.fingerprints,
        embedder_fingerprint(config.embedding, cache_directory(config)),
        probe_vector(config.embedding, cache_directory(config), config.device),
    )


def node_groups(local: LocalData, context: Context) -> tuple[str, ...]:
    """Groups that the node hosts: its own, or its share of a simulation's groups."""
    if "partition-id" not in context.node_config:
        return local.roles.groups
    partition, partitions = (
        int(context.node_config[key]) for key in ("partition-id", "num-partitions")
    )
    return groups_of_node(local.roles, partition, partitions)
