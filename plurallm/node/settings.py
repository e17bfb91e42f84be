"""What a data holder has set on the node, with Flower's ``--node-config``."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plurallm.config import ConfigError
from plurallm.survey import FORMATS

_SETTINGS = (
    *("survey", "layout", "groups", "role", "device", "threads", "cache-dir", "state-dir"),
    *("max-epsilon", "allow"),
)


@dataclass(frozen=True)
class NodeSettings:
    """What a data holder has set on the node.

    Attributes
    ----------
    survey : Path
        The survey file, absolute.
    layout : str
        Its layout, see ``read_survey``.
    groups : tuple of str
        Groups of the file that the node hosts; no other one is read.
    role : str
        ``"train"``: they may train and be scored; ``"score"``: only be scored.
    device : str
        Where the node computes.
    threads : int or None
        CPU threads; None: what the run asks for.
    cache_dir : str or None
        Folder of the embedding tables; None: the user's cache.
    state_dir : str or None
        Folder of what the node must not lose; None: the user's state folder.
    max_epsilon : float or None
        Only runs with respondent-level privacy of at most this epsilon are taken; None: any run.
    allow : tuple of str
        Keys that a run may set here beyond ``ALLOWED``, and embedders beyond ``EMBEDDINGS``.
    """

    survey: Path
    layout: str
    groups: tuple[str, ...]
    role: str
    device: str
    threads: int | None
    cache_dir: str | None
    state_dir: str | None
    max_epsilon: float | None
    allow: tuple[str, ...]


def node_settings(node_config: Mapping[str, object]) -> NodeSettings | None:
    """Read a node's ``--node-config``.

    Parameters
    ----------
    node_config : mapping
        ``survey`` and ``groups`` (names with commas between them, quoted as in a CSV file), and
        optionally ``layout``, ``role``, ``device``, ``threads``, ``cache-dir``, ``state-dir``,
        ``max-epsilon`` and ``allow``.

    Returns
    -------
    NodeSettings or None
        None for a virtual node of a simulation.

    Raises
    ------
    ConfigError
        Naming the setting that is missing, unknown or wrong.
    """
    if "partition-id" in node_config:
        return None
    unknown = sorted(set(node_config) - set(_SETTINGS))
    if unknown:
        raise ConfigError(
            f"--node-config has {unknown[0]!r}; the settings are {', '.join(_SETTINGS)}"
        )
    for name in ("survey", "groups"):
        if not str(node_config.get(name, "")).strip():
            raise ConfigError(f"--node-config must give {name}=...")
    threads, epsilon = (node_config.get(name) for name in ("threads", "max-epsilon"))
    settings = NodeSettings(
        survey=Path(str(node_config["survey"])),
        layout=str(node_config.get("layout", "custom")),
        groups=_names(node_config["groups"]),
        role=str(node_config.get("role", "train")),
        device=str(node_config.get("device", "auto")),
        threads=None if threads is None else int(str(threads)),
        cache_dir=str(node_config["cache-dir"]) if "cache-dir" in node_config else None,
        state_dir=str(node_config["state-dir"]) if "state-dir" in node_config else None,
        max_epsilon=None if epsilon is None else float(str(epsilon)),
        allow=_names(node_config.get("allow", "")),
    )
    if not settings.survey.is_absolute():
        raise ConfigError(f"survey={settings.survey} must be an absolute path")
    for name, value, known in (
        ("role", settings.role, ("train", "score")),
        ("layout", settings.layout, tuple(FORMATS)),
    ):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
    return settings


def _names(text: object) -> tuple[str, ...]:
    """Names of one CSV line, each once."""
    (row,) = csv.reader([str(text)], skipinitialspace=True) if str(text).strip() else ([],)
    return tuple(dict.fromkeys(name.strip() for name in row if name.strip()))
