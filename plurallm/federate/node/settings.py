"""What a data holder has set on the node, with Flower's ``--node-config``."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from plurallm.config.error import ConfigError
from plurallm.config.overrides import override_key, split_overrides
from plurallm.config.surveys import DataConfig, FileData, RespondentData
from plurallm.data.reading import table_layouts
from plurallm.data.sources.table_files import CustomData

_SETTINGS = (
    *("survey", "layout", "groups", "role", "epsilon", "device", "threads"),
    *("cache-dir", "state-dir", "allow", "reader"),
)


@dataclass(frozen=True)
class NodeSettings:
    """What a data holder has set on the node.

    Attributes
    ----------
    survey : Path
        The survey file, absolute.
    layout : str
        Its layout, see ``read_survey``; ``"respondents"`` for a file with one row a person.
    groups : tuple of str
        Groups of the file that the node hosts; no other one is read.
    role : str
        ``"train"``: they may train and be scored; ``"score"``: only be scored.
    epsilon : float or None
        Privacy of each respondent that the node keeps whatever a run asks for, see
        ``RespondentPrivacy``; None: what the run asks for.
    device : str
        Where the node computes.
    threads : int or None
        CPU threads; None: what the run asks for.
    cache_dir : str or None
        Folder of the embedding tables; None: the user's cache.
    state_dir : str or None
        Folder of what the node must not lose; None: the user's state folder.
    allow : tuple of str
        Keys that a run may set here beyond ``ALLOWED``, and embedders beyond ``EMBEDDINGS``.
    reader : tuple of str
        How the file is read: overrides of the layout's own keys, such as ``data.group_by=[cntry]``
        for a file of persons, or ``data.delimiter=semicolon``. No run can set them.
    """

    survey: Path
    layout: str
    groups: tuple[str, ...]
    role: str
    epsilon: float | None
    device: str
    threads: int | None
    cache_dir: str | None
    state_dir: str | None
    allow: tuple[str, ...]
    reader: tuple[str, ...] = ()


def node_settings(node_config: Mapping[str, object]) -> NodeSettings | None:
    """Read a node's ``--node-config``.

    Parameters
    ----------
    node_config : mapping
        ``survey`` and ``groups`` (names with commas between them, quoted as in a CSV file), and
        optionally ``layout``, ``role``, ``epsilon``, ``device``, ``threads``, ``cache-dir``,
        ``state-dir``, ``allow`` and ``reader``.

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
    groups = _names(node_config.get("groups", ""))
    for name, given in (("survey", str(node_config.get("survey", "")).strip()), ("groups", groups)):
        if not given:
            raise ConfigError(f"--node-config must give {name}=...")
    threads, epsilon = node_config.get("threads"), node_config.get("epsilon")
    settings = NodeSettings(
        survey=Path(str(node_config["survey"])),
        layout=str(node_config.get("layout", "custom")),
        groups=groups,
        role=str(node_config.get("role", "train")),
        epsilon=None if epsilon is None else float(str(epsilon)),
        device=str(node_config.get("device", "auto")),
        threads=None if threads is None else int(str(threads)),
        cache_dir=str(node_config["cache-dir"]) if "cache-dir" in node_config else None,
        state_dir=str(node_config["state-dir"]) if "state-dir" in node_config else None,
        allow=_names(node_config.get("allow", "")),
        reader=tuple(split_overrides(str(node_config.get("reader", "")))),
    )
    _check_reader(settings)
    if not settings.survey.is_absolute():
        raise ConfigError(f"survey={settings.survey} must be an absolute path")
    if settings.threads is not None and settings.threads < 1:
        raise ConfigError(f"threads must be >= 1, but is {settings.threads}")
    for name, value, known in (
        ("role", settings.role, ("train", "score")),
        ("layout", settings.layout, (*table_layouts(), "respondents")),
    ):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, but is {value!r}")
    return settings


def _check_reader(settings: NodeSettings) -> None:
    """What the reader sets must be of the reader alone."""
    kinds = {"respondents": RespondentData, "custom": CustomData}
    own = {f"data.{each.name}" for each in fields(kinds.get(settings.layout, FileData))}
    own -= {"data.path", *(f"data.{each.name}" for each in fields(DataConfig))}
    for text in settings.reader:
        key = override_key(text)
        if key not in own and not key.startswith("data.codebook_columns."):
            raise ConfigError(f"reader sets {key}; its keys are {', '.join(sorted(own))}")


def _names(text: object) -> tuple[str, ...]:
    """Names of one CSV line, each once."""
    try:
        (row,) = csv.reader([str(text)], skipinitialspace=True) if str(text).strip() else ([],)
    except (ValueError, csv.Error) as error:
        raise ConfigError(
            f"--node-config has {str(text)!r} where names with commas between them stand in one "
            f"line, quoted as in a CSV file: {error}"
        ) from error
    return tuple(dict.fromkeys(name.strip() for name in row if name.strip()))
