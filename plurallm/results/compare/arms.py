"""What a comparison compares: arms, each a way to predict with overrides of its own."""

import re
import shlex
from dataclasses import dataclass

from plurallm.config.compose import load_config
from plurallm.config.digest import config_dict
from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.evaluate.baseline import BASELINES

NETWORKS = {
    "federated": "federated",
    "paper": "federated",
    "pooled_steps": "pooled",
    "pooled_rounds": "pooled",
    "local": "local",
}
"""How each named arm with a network is computed; every baseline is an arm too."""

_SHARED = ("data", "seed", "evaluation", "compare", "output_dir", "resume", "cache_dir", "device")


@dataclass(frozen=True)
class Arm:
    """One way to predict.

    Attributes
    ----------
    name : str
        As ``compare.arms`` lists it.
    kind : str
        ``"federated"``, ``"pooled"``, ``"local"`` or ``"baseline"``.
    overrides : tuple of str
        What it changes in the comparison's configuration.
    """

    name: str
    kind: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Name of the arm's folder: its name without what a file system may not like."""
        return re.sub(r"[^\w.,=+-]+", "_", self.name)


def read_arm(name: str, config: Config) -> Arm:
    """Read an entry of ``compare.arms``.

    Parameters
    ----------
    name : str
        A named arm, or overrides of a federated run.
    config : Config
        The comparison's configuration.

    Returns
    -------
    Arm
        What to do.

    Raises
    ------
    ConfigError
        For a name that is unknown, or an override that would change what the arms are scored on.

    Examples
    --------
    >>> read_arm("training=jensen_shannon seed=3", config)
    Traceback (most recent call last):
    plurallm.config.ConfigError: arm 'training=jensen_shannon seed=3' changes seed, which ...
    """
    if name in NETWORKS:
        return Arm(name, NETWORKS[name], _overrides(name, config))
    if name in BASELINES.names:
        return Arm(name, "baseline")
    overrides = tuple(shlex.split(name))
    if not all("=" in override for override in overrides):
        known = ", ".join((*NETWORKS, *BASELINES.names))
        raise ConfigError(
            f"compare.arms has {name!r}, which is neither an arm ({known}) nor overrides of a "
            "federated run"
        )
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key.split(".")[0] in _SHARED:
            raise ConfigError(f"arm {name!r} changes {key}, which all arms must share")
    return Arm(name, "federated", overrides)


def _overrides(name: str, config: Config) -> tuple[str, ...]:
    if name == "pooled_rounds":
        return ("training.steps_per_round=1",)
    if name == "paper":
        joint = hasattr(config.embedding, "parts")
        return (
            *("training=paper", *_published_values(), "strategy=fedavg", "personal=none"),
            *(("embedding.parts=joint",) if joint else ()),
        )
    return ()


def _published_values() -> list[str]:
    """Values of the published training, which win over those that the comparison gives."""
    values = config_dict(load_config(["training=paper"], None))["training"]
    shared = ("steps_per_round", "groups_at_once")
    return [f"training.{key}={value}" for key, value in values.items() if key not in shared]
