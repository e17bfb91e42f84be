"""The one local survey that a comparison works on, laid out once a process.

Dimension letters: ``R`` rows of the table, ``D`` embedding width.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from plurallm.config.compose import load_config
from plurallm.config.device import choose_device
from plurallm.config.schema import Config
from plurallm.data.roles import Roles, survey_roles
from plurallm.data.survey import Survey
from plurallm.data.tasks import GroupTask, data_state, group_tasks, load_survey, survey_table
from plurallm.learn.transformer import PreferenceTransformer


@dataclass(frozen=True)
class LocalSurvey:
    """All groups' answers in one place.

    Attributes
    ----------
    config : Config
        The arm's configuration.
    survey : Survey
        Questions and answers.
    roles : Roles
        Which groups train and which are held out.
    tasks : dict of str to GroupTask
        Every group that takes part.
    table_RD : Tensor of shape (R, D)
        Embeddings, on the device.
    """

    config: Config
    survey: Survey
    roles: Roles
    tasks: dict[str, GroupTask]
    table_RD: Tensor

    @property
    def train_tasks(self) -> list[GroupTask]:
        """The training groups, in the order of the roles."""
        return [self.tasks[name] for name in self.roles.train]

    def new_model(self) -> PreferenceTransformer:
        """Make the network with its seeded initial weights."""
        model = PreferenceTransformer(self.table_RD.shape[1], self.config.model, self.config.seed)
        return model.to(self.table_RD.device, getattr(torch, self.config.precision))


def local_survey(overrides: tuple[str, ...]) -> LocalSurvey:
    """Read the survey, split and embed it; the last one stays in memory.

    Parameters
    ----------
    overrides : tuple of str
        Hydra overrides, paths absolute.

    Returns
    -------
    LocalSurvey
        On the configured device.
    """
    config = load_config(overrides, None)
    return _load(overrides, data_state(config.data))


@lru_cache(maxsize=1)
def _load(overrides: tuple[str, ...], state: tuple[tuple[int, ...] | None, ...]) -> LocalSurvey:
    """`state` tells survey files that were changed under their names."""
    config = load_config(overrides, None)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    survey = load_survey(config.data)
    roles = survey_roles(survey, config)
    table_RD = survey_table(survey, config).to(choose_device(config.device))
    tasks = group_tasks(survey, roles.groups, config, table_RD)
    return LocalSurvey(config, survey, roles, tasks, table_RD)
