"""Whether two configurations are of the same run."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from plurallm.config.schema import Config

FREE_ON_RESUME = (
    *("resume", "output_dir", "cache_dir", "tracking"),
    *("compare.arms", "compare.seeds", "compare.jobs"),
)
"""Keys, or groups of keys, that may change on resuming: they touch no number."""


RULES_OF_0_1_0: dict[str, object] = {
    "data.join_parentheses": True,
    "data.split_by": "id",
    "data.non_answers": "keep",
    "evaluation.near_copy": 0.95,
}
"""Values that 0.1.0 had for keys that it did not know: a run that it began keeps them."""


def old_rules(source: str | None) -> dict[str, object]:
    """``RULES_OF_0_1_0`` for a kind of survey: of OpinionQA, it left refusals out."""
    own = {"data.non_answers": "drop"} if source == "opinionqa" else {}
    return RULES_OF_0_1_0 | own


PLACES = (
    *("data.path", "data.encoding", "data.delimiter", "data.shares_sum", "data.ordinals"),
    *("embedding.path", "embedding.model"),
)
"""Keys that say where files lie and how they are written: they may change where the content of the
files is known to be the same.
"""


def changed_on_resume(
    config: Config, saved_config: Path, also_free: tuple[str, ...] = ()
) -> list[str]:
    """Keys in which a configuration differs from the one that a run was started with.

    Parameters
    ----------
    config : Config
        Configuration of the resuming command.
    saved_config : Path
        ``config.yaml`` of the run to resume.
    also_free : tuple of str
        Keys that may change beside ``FREE_ON_RESUME``.

    Returns
    -------
    list of str
        ``key: old -> new`` for every difference that would change numbers.
    """
    old = flatten(with_old_rules(yaml.safe_load(saved_config.read_text(encoding="utf-8"))))
    new = flatten(config_dict(config))
    free = {*FREE_ON_RESUME, *also_free}
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and not {key, key.split(".")[0]} & free
    ]


def with_old_rules(saved: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the values of ``RULES_OF_0_1_0`` for keys that it lacks."""
    known = flatten(saved)
    whole = {name: dict(own) if isinstance(own, dict) else own for name, own in saved.items()}
    for key, value in old_rules(known.get("data.source")).items():
        section, name = key.split(".")
        if key not in known and section in whole:
            whole[section][name] = value
    return whole


def config_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionary of a configuration, as ``config.yaml`` holds it."""
    return asdict(config)


def config_digest(config: Config) -> str:
    """Fingerprint of all that must be the same on the server and on every node."""
    own = {*FREE_ON_RESUME, "state_dir", "device", "threads", "embedding.device"}
    same = {
        key: value
        for key, value in flatten(config_dict(config)).items()
        if not {key, key.split(".")[0]} & own
    }
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of a nested dictionary by their dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
