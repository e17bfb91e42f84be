"""What a run may ask of a data holder's node.

The run's overrides may set only the keys listed here and can name no file; they can narrow what
the node does but never widen it.
"""

import dataclasses
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from plurallm.config.compose import load_config
from plurallm.config.digest import flatten
from plurallm.config.error import ConfigError
from plurallm.config.overrides import check_choice, hydra_quote, override_key
from plurallm.config.protection import RespondentPrivacy
from plurallm.config.ranges import make_section
from plurallm.config.schema import Config
from plurallm.config.surveys import DataConfig
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.roles import Roles, as_written, count_seen, is_listed, questions_needed
from plurallm.data.survey import Survey
from plurallm.federate.node.settings import NodeSettings

ALLOWED = (
    *("seed", "precision", "threads", "experiment"),
    *("model", "model.*", "training", "training.*", "evaluation", "evaluation.*"),
    *("federation", "federation.*", "strategy", "strategy.*", "personal"),
    *("privacy", "privacy.epsilon", "privacy.delta", "privacy.max_epsilon"),
    *("privacy.noise_multiplier", "privacy.clipping_norm"),
    *("data", "data.groups", "data.train_groups", "data.held_out_groups"),
    *("data.held_out_fraction", "data.unseen_questions", "data.populations", "data.distance"),
    *("data.join_parentheses", "data.split_by", "data.non_answers"),
    *("embedding", "embedding.width", "embedding.parts", "embedding.batch_tokens"),
)
"""Keys that a run may set on every node; a node adds to them with its own ``allow``."""

LARGEST = {
    **{"model.width": 512, "model.feedforward": 2048, "model.heads": 16},
    **{"model.layers": 16, "model.embedder_layers": 16},
    **{"training.steps_per_round": 200, "training.groups_at_once": 32},
    **{"training.context_questions": 200, "training.target_questions": 200},
    **{"evaluation.context_questions": 200, "evaluation.draws": 50},
    **{"embedding.width": 4096, "embedding.batch_tokens": 16384},
    **{"threads": 64},
}
"""The most that a run may ask of a node's memory and time, by key; a node lifts the bound of a key
that stands in its own ``allow``.
"""

RESPONDENT_DELTA = 1e-6
"""Delta of the privacy that a data holder demands of the own node."""

EMBEDDINGS = ("hashing", "minilm")
"""Embedders that fetch nothing: any other one must stand in the node's ``allow``."""


class RefusalError(ConfigError):
    """A run asks for what the node does not allow; the message holds nothing of the survey."""


def check_overrides(overrides: Sequence[str], settings: NodeSettings) -> None:
    """Refuse a run that sets what is not the run's to set.

    Raises
    ------
    RefusalError
        Naming the override.
    """
    allowed = (*ALLOWED, *settings.allow)
    for text in overrides:
        if "${" in text:
            raise RefusalError(f"the node refuses {text!r}: no value may refer to another one")
        try:
            key = override_key(text)
        except ConfigError as error:
            raise RefusalError(f"the node refuses: {error}") from error
        if not any(fnmatchcase(key, pattern) for pattern in allowed):
            raise RefusalError(
                f"the node refuses {text!r}: {key} is not among the keys that a run may set here"
            )
        if "/" in key:
            # A pattern such as model.* would let a folder's name through.
            raise RefusalError(f"the node refuses {text!r}: a key holds no folder")
        try:
            check_choice(text)
        except ConfigError as error:
            raise RefusalError(f"the node refuses {text!r}: {error}") from error


def may_send_experts(settings: NodeSettings) -> bool:
    """Whether the data holder lets the groups' own fine-tuned models leave the node."""
    return "personal.experts" in settings.allow


def own_config(run: Config, settings: NodeSettings) -> Config:
    """Put the node's own survey, device and folders into a run's configuration.

    Parameters
    ----------
    run : Config
        As composed from the run's overrides, equal on server and nodes.
    settings : NodeSettings
        The node's own.

    Returns
    -------
    Config
        What the node computes with.

    Raises
    ------
    RefusalError
        When the run brings a survey of its own, an embedder that the node does not allow, a
        number beyond ``LARGEST``, or a promise of more privacy than the node gives.
    """
    if run.data.source != "nodes":
        raise RefusalError(
            f"the node refuses data={run.data.source}: it reads its own survey, which the run "
            "must leave to it with data=nodes"
        )
    if run.embedding.name not in (*EMBEDDINGS, *settings.allow):
        raise RefusalError(
            f"the node refuses embedding {run.embedding.name}: only its data holder can allow it"
        )
    _check_sizes(run, settings)
    _check_promise(run, settings)
    fields = vars(run.data) | {"source": settings.layout, "path": str(settings.survey)}
    own = {
        "data": _own_data(fields, settings),
        "privacy": run.privacy if settings.epsilon is None else _pinned(settings.epsilon),
        "device": settings.device,
        "threads": settings.threads or run.threads,
        "cache_dir": settings.cache_dir,
        "state_dir": settings.state_dir,
        "output_dir": None,
        "resume": None,
    }
    return make_section(Config, vars(run) | own)


def _own_data(fields: dict[str, Any], settings: NodeSettings) -> DataConfig:
    """The node's file, read as its data holder says and split as the run says."""
    own = _reader_data(settings.layout, str(settings.survey), settings.reader)
    return make_section(type(own), vars(own) | fields, "data")


@lru_cache(maxsize=1)
def _reader_data(layout: str, path: str, reader: tuple[str, ...]) -> DataConfig:
    return load_config([f"data={layout}", f"data.path={hydra_quote(path)}", *reader], None).data


def _check_sizes(run: Config, settings: NodeSettings) -> None:
    given = flatten(dataclasses.asdict(run))
    for key, most in LARGEST.items():
        value = given.get(key)
        largest = max(value) if isinstance(value, list) else value
        if largest is not None and largest > most and key not in settings.allow:
            raise RefusalError(
                f"the node refuses {key}={value}: at most {most}, unless its data holder allows "
                f"more with --allow {key}"
            )


def _check_promise(run: Config, settings: NodeSettings) -> None:
    """A run's report must not promise people more than the node keeps."""
    promised = run.privacy
    if settings.epsilon is None or not isinstance(promised, RespondentPrivacy):
        return
    if promised.epsilon < settings.epsilon or promised.delta < RESPONDENT_DELTA:
        raise RefusalError(
            f"the run promises epsilon {promised.epsilon:g} at delta {promised.delta:g}, but the "
            f"node's answers are noised for {settings.epsilon:g} at {RESPONDENT_DELTA:g}, once and "
            "for all: set privacy.epsilon and privacy.delta no lower"
        )


def _pinned(epsilon: float) -> RespondentPrivacy:
    """Privacy that the data holder demands: over all questions, from counts, scores included."""
    values = {
        "name": "respondent",
        "epsilon": epsilon,
        "delta": RESPONDENT_DELTA,
        "questions_per_respondent": None,
        "respondents": None,
        "true_scores": False,
    }
    return make_section(RespondentPrivacy, values, "privacy")


def own_survey(config: Config, settings: NodeSettings) -> Survey:
    """Read the node's groups, and no other, from its survey file, with all their questions.

    Parameters
    ----------
    config : Config
        Of ``own_config``.
    settings : NodeSettings
        The node's own.

    Returns
    -------
    Survey
        Of the node's groups, in their order.

    Raises
    ------
    SurveyError
        Naming file, row and reason, or the group that the file does not have.
    """
    survey = config.data.read()
    answers = {}
    for group, written in zip(
        settings.groups, as_written(settings.groups, survey.answers), strict=True
    ):
        if written not in survey.answers:
            raise SurveyError(
                f"{settings.survey} has no group {group!r}; its groups are "
                + ", ".join(sorted(survey.answers))
            )
        answers[group] = survey.answers[written]
    return dataclasses.replace(survey, answers=answers)


def own_roles(survey: Survey, config: Config, settings: NodeSettings) -> Roles:
    """What each of the node's groups may be asked: held-out groups are only scored.

    Parameters
    ----------
    survey : Survey
        Of ``own_survey``.
    config : Config
        Of ``own_config``.
    settings : NodeSettings
        The node's own.

    Returns
    -------
    Roles
        ``train``: may train and be scored; which of them do is the server's to draw.

    Raises
    ------
    RefusalError
        When the run wants to train a group that may only be scored, or takes more questions than
        a group has.
    """
    needed = questions_needed(config)
    for group, count in count_seen(survey, config).items():
        if count < needed:
            raise RefusalError(
                f"group {group!r} has {count} seen questions, but the run takes {needed}"
            )
    score_only = settings.groups if settings.role == "score" else ()
    for group in score_only:
        if is_listed(group, config.data.train_groups):
            raise RefusalError(f"the node refuses to train group {group!r}: it may only be scored")
    held_out = {
        group
        for group in settings.groups
        if group in score_only or is_listed(group, config.data.held_out_groups)
    }
    return Roles(
        train=tuple(group for group in settings.groups if group not in held_out),
        held_out=tuple(group for group in settings.groups if group in held_out),
        dropped={},
    )
