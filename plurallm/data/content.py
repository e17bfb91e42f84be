"""What a result depends on beside its configuration, and whether it is still the same."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from plurallm import __version__
from plurallm.config.directories import cache_directory
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.data.embedding.fingerprint import embedder_fingerprint
from plurallm.data.embedding.table import probe_vector
from plurallm.data.survey import Survey

FORMAT = 1
"""Of what is written down; a program refuses a later one."""

logger = logging.getLogger("plurallm")


@dataclass(frozen=True)
class Content:
    """What stands behind a result.

    Attributes
    ----------
    survey : dict of str to str
        ``Survey.fingerprints`` by group; empty in a deployment, where each node remembers its own.
    embedder : str
        ``embedder_fingerprint``.
    probe : list of float, length D
        ``probe_vector``.
    version : str
        Of the program.
    format : int
        ``FORMAT`` of the program.
    """

    survey: dict[str, str]
    embedder: str
    probe: list[float] = field(default_factory=list)
    version: str = __version__
    format: int = FORMAT


def content_of(survey: Survey, config: Config) -> Content:
    """Content of a survey at hand and of the embedder of a run."""
    cache = cache_directory(config)
    return Content(
        survey.fingerprints,
        embedder_fingerprint(config.embedding, cache),
        probe_vector(config.embedding, cache, config.device),
    )


def content_dict(content: Content) -> dict[str, Any]:
    """As JSON holds it."""
    return asdict(content)


def check_format(known: Mapping[str, Any] | None, place: str) -> None:
    """Refuse what a later format holds, and warn of another version of the program.

    Parameters
    ----------
    known : mapping or None
        What was recorded; None where the program did not record it yet.
    place : str
        Where it was recorded, for messages.

    Raises
    ------
    ConfigError
        For a format that this version does not know.
    """
    if known is None:
        logger.warning(
            "%s is of a version that did not record the content of survey and embedder: whether "
            "they are still the same is not known",
            place,
        )
        return
    if known["format"] > FORMAT:
        raise ConfigError(
            f"{place} has format {known['format']}, of plurallm {known['version']}; this is "
            f"plurallm {__version__}, which reads formats up to {FORMAT}"
        )
    if known["version"] != __version__:
        logger.warning(
            "%s is of plurallm %s, and this is %s: numbers may differ",
            place,
            known["version"],
            __version__,
        )


def check_survey(known: Mapping[str, Any] | None, survey: Mapping[str, str], place: str) -> None:
    """Refuse answers that are not those behind a result.

    Parameters
    ----------
    known : mapping or None
        What was recorded, as ``content_dict`` gives it.
    survey : mapping of str to str
        Fingerprint of each group now.
    place : str
        Of the result, for messages.

    Raises
    ------
    ConfigError
        Naming the groups whose answers or questions have changed, that are new or are gone.
    """
    if known is None or not known["survey"]:
        return
    before = known["survey"]
    found = {
        "other answers or questions now": [
            group for group in before if survey.get(group, before[group]) != before[group]
        ],
        "no answers any more": [group for group in before if group not in survey],
        "joined since": [group for group in survey if group not in before],
    }
    told = [f"{what}: {_listed(groups)}" for what, groups in found.items() if groups]
    if told:
        raise ConfigError(
            f"{place}: the survey has changed since ({'; '.join(told)}). Restore the file as it "
            "was, or start anew in another folder"
        )


def check_embedder(known: Mapping[str, Any] | None, embedder: str, place: str) -> None:
    """Refuse an embedder that is not the one behind a result.

    Raises
    ------
    ConfigError
        When its files have other content than recorded.
    """
    if known is not None and known["embedder"] != embedder:
        raise ConfigError(
            f"{place}: the embedder has changed since: its weights, tokenizer or settings are "
            f"others ({known['embedder']} then, {embedder} now). Restore its files, or start anew "
            "in another folder"
        )


def _listed(groups: list[str]) -> str:
    shown = ", ".join(json.dumps(group, ensure_ascii=False) for group in sorted(groups)[:5])
    return shown if len(groups) <= 5 else f"{shown} and {len(groups) - 5} more"
