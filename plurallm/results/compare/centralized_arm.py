"""Arms that train in one place: on all groups' answers at once, or each group alone.

Both leave the same files behind as a federated run.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Adam

from plurallm.config.digest import config_dict
from plurallm.config.schema import Config
from plurallm.data.content import content_dict, content_of
from plurallm.data.roles import tell_parentheses
from plurallm.evaluate.plurality import score_plurality
from plurallm.evaluate.scores import Predictor, model_predictor, score_group, summarize
from plurallm.learn.centralized import train_pooled
from plurallm.learn.local import train_group
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.record.checkpoint import Arrays
from plurallm.record.run_folder import RunFolder
from plurallm.record.trackers import open_trackers, versions
from plurallm.study import Study


class Learner(Protocol):
    """Something that learns round by round."""

    def train(self, round_number: int) -> dict[str, float]:
        """Learn for one round; the mean loss of each training group."""

    def predictors(self) -> dict[str, Predictor]:
        """Predictor of each group that can be predicted."""

    def arrays(self) -> Arrays | None:
        """Weights of the one model, where there is one."""


class Pooled:
    """One model, trained on all training groups at once."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._model = study.new_model()
        self._optimizer = Adam(self._model.parameters(), fused=True)

    def train(self, round_number: int) -> dict[str, float]:
        """See ``train_pooled``."""
        study = self._study
        return train_pooled(
            self._model,
            self._optimizer,
            study.train_tasks,
            study.table_RD,
            study.config,
            round_number,
        )

    def predictors(self) -> dict[str, Predictor]:
        """The model, for every group."""
        predict = model_predictor(self._model, self._study.table_RD)
        return dict.fromkeys(self._study.roles.groups, predict)

    def arrays(self) -> Arrays:
        """The model's weights."""
        return {name: value.cpu().numpy() for name, value in self._model.state_dict().items()}


class Local:
    """A model for each training group, trained on that group alone: federations of one."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._models: dict[str, PreferenceTransformer] = {
            name: study.new_model() for name in study.roles.train
        }

    def train(self, round_number: int) -> dict[str, float]:
        """See ``train_group``."""
        study = self._study
        losses = {}
        for name, model in self._models.items():
            update = train_group(
                model, study.tasks[name], study.table_RD, study.config, round_number
            )
            losses[name] = sum(update.losses) / len(update.losses)
        return losses

    def predictors(self) -> dict[str, Predictor]:
        """Each training group's own model; held-out groups have none."""
        return {
            name: model_predictor(model, self._study.table_RD)
            for name, model in self._models.items()
        }

    def arrays(self) -> None:
        """There is no one model."""


def run_central(learner: Learner, study: Study, overrides: list[str], path: Path) -> None:
    """Train for ``federation.rounds`` rounds and record each as a federated run does.

    Parameters
    ----------
    learner : Learner
        What learns.
    study : Study
        The survey and the configuration.
    overrides : list of str
        What led to the configuration.
    path : Path
        The run's folder.
    """
    config, started = study.config, time.monotonic()
    folder = RunFolder(path)
    folder.save_config(config, overrides)
    with open_trackers(config, folder, 0) as trackers:
        for number in range(1, config.federation.rounds + 1):
            begun = time.monotonic()
            losses = learner.train(number)
            trained = time.monotonic()
            metrics: dict[str, Any] = {
                "round": number,
                "step": number * config.training.steps_per_round,
                "train_loss": sum(losses.values()) / len(losses),
                "losses": losses,
                "groups_trained": list(losses),
                "groups_refused": {},
            }
            last = number == config.federation.rounds
            if number % config.evaluation.every == 0 or last:
                metrics |= score(learner.predictors(), study, brief=not last)
                metrics["groups_unscored"] = {}
            seconds = {"train": trained - begun, "evaluate": time.monotonic() - trained}
            trackers.log_round(
                metrics, {"round": number, "seconds": seconds, "bytes_down": 0, "bytes_up": 0}
            )
        arrays = learner.arrays()
        if arrays is not None:
            folder.save_model("model", arrays, _describe(config, study))
        trackers.finish(
            {**metrics, **run_facts(study), "seconds": {"this_process": time.monotonic() - started}}
        )


def score(predictors: Mapping[str, Predictor], study: Study, brief: bool = False) -> dict[str, Any]:
    """Score predictors, in the shape of ``scores.summarize``, with ``plurality`` beside it.

    Parameters
    ----------
    predictors : mapping of str to Predictor
        By group.
    study : Study
        The survey.
    brief : bool
        Whether fewer pairs of groups will do for the plurality, as between two rounds.
    """
    scores = {
        name: score_group(study.tasks[name], predict, study.config)
        for name, predict in predictors.items()
    }
    plurality = score_plurality(study.tasks, study.roles, predictors, study.config, brief)
    cells = summarize(scores, study.roles.by_group, study.config.data.distance)
    return cells | {"plurality": plurality}


def run_facts(study: Study) -> dict[str, Any]:
    """What the summary of every arm says beside its scores."""
    return {
        "best": None,
        "rounds": study.config.federation.rounds,
        "seed": study.config.seed,
        "distance": study.config.data.distance,
        "train_groups": list(study.roles.train),
        "held_out_groups": list(study.roles.held_out),
        "groups_dropped": dict(study.roles.dropped),
        "groups_absent": list(study.roles.absent),
        "groups_refused": {},
        "groups_unscored": {},
        "populations": tell_parentheses(study.roles.groups, study.config.data),
        "nodes": 0,
        "devices": {"clients": str(study.table_RD.device), "server": "cpu"},
        "bytes_down": 0,
        "bytes_up": 0,
        "versions": versions(),
        "content": content_dict(content_of(study.survey, study.config)),
        **study.facts,
    }


def _describe(config: Config, study: Study) -> dict[str, Any]:
    tree = config_dict(config)
    return {
        "round": config.federation.rounds,
        "embedding_width": study.table_RD.shape[1],
        "model": tree["model"],
        "embedding": tree["embedding"],
        "precision": config.precision,
        "content": content_dict(content_of(study.survey, config)),
    }
