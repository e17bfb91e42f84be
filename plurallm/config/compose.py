"""From overrides to a checked ``Config``."""

import difflib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from plurallm.config.digest import flatten
from plurallm.config.error import ConfigError, require
from plurallm.config.overrides import (
    absolute_overrides,
    check_choice,
    config_directory,
    first_line,
    hydra_value,
    is_ours,
    override_key,
)
from plurallm.config.ranges import make_section
from plurallm.config.schema import KINDS, VARIANTS, Config
from plurallm.config.variants import config_trees

Tool = TypeVar("Tool")

# Hydra keeps one global state a process, and a simulation composes from several threads.
_HYDRA_LOCK = threading.Lock()


def load_config(overrides: Sequence[str], base_dir: Path | None) -> Config:
    """Compose ``conf/`` with overrides and check every key, type and range.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, for example ``["training.learning_rate=1e-3", "data=custom"]``.
    base_dir : Path or None
        Where relative paths start; with None they are refused.

    Returns
    -------
    Config
        The checked configuration.

    Raises
    ------
    ConfigError
        Naming the key that is unknown, missing, of the wrong type or out of range.
    """
    return typed_config(_compose(absolute_overrides(overrides, base_dir)))


def load_tool_config(name: str, overrides: Sequence[str], schema: type[Tool]) -> Tool:
    """Compose the configuration of a verb that trains nothing: one file of ``conf/``.

    Parameters
    ----------
    name : str
        The file, for example ``"serve"``.
    overrides : sequence of str
        Hydra overrides of its keys.
    schema : type
        Its type.

    Returns
    -------
    Tool
        The checked configuration.

    Raises
    ------
    ConfigError
        As for ``load_config``.
    """
    return make_section(schema, _plain(_compose(list(overrides), name)))


def typed_config(composed: DictConfig) -> Config:
    """Check a composed tree against the types.

    Raises
    ------
    ConfigError
        Naming the key.
    """
    tree = _plain(composed)
    for field in fields(Config):
        if isinstance(field.type, type) and field.name in tree:
            values = tree[field.name]
            require(isinstance(values, dict), field.name, values, "a section of keys")
            schema = variant_type(field.name, values, field.type)
            tree[field.name] = make_section(schema, values, field.name)
    return make_section(Config, tree)


def variant_type(name: str, values: Mapping[str, Any], only: type) -> type:
    """Type of a section by the variant that it names; `only`, where it has no variants."""
    if name in KINDS:
        kind = KINDS[name]
        return kind.find(values.get(kind.field))
    if name not in VARIANTS:
        return only
    field, variants = VARIANTS[name]
    if values.get(field) not in variants:
        raise ConfigError(
            f"{name}.{field} must be one of {', '.join(variants)}, but is {values.get(field)!r}"
        )
    return variants[values[field]]


def _plain(composed: DictConfig) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'configuration'}: {first_line(error)}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def without_folder(overrides: Sequence[str], folder: Path) -> list[str]:
    """Say in overrides of ``conf/`` alone what some say with a folder of the user's own.

    A run can then be resumed, compared and sent to nodes without the folder.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, which may choose files of `folder`: ``strategy=mine``.
    folder : Path
        Laid out as ``conf/``: ``strategy/mine.yaml``, ``experiment/small.yaml``.

    Returns
    -------
    list of str
        A choice for each config group, and each value in which that choice differs.

    Raises
    ------
    ConfigError
        As ``load_config``, or when there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir={folder} is no folder")
    composed = _compose(list(overrides), folders=[folder])
    typed_config(composed)
    tree = _plain(composed)
    choices = [
        f"{section}={_stock_file(section, field, tree[section][field])}"
        for section, field in _fields().items()
    ]
    stock = _plain(_compose(choices))
    return choices + [
        f"{key}={hydra_value(value)}"
        for section, values in tree.items()
        for key, value, usual in (
            ((f"{section}.{own}", values[own], stock[section].get(own)) for own in values)
            if isinstance(values, dict)
            else [(section, values, stock[section])]
        )
        if value != usual
    ]


def _fields() -> dict[str, str]:
    """The field that tells apart the variants of each section that has some."""
    kinds = {name: kind.field for name, kind in KINDS.items()}
    return {name: field for name, (field, _) in VARIANTS.items()} | kinds


def _stock_file(section: str, field: str, variant: str) -> str:
    """The file of a config group that stands for a variant: the one of its name, or the first."""
    stems = []
    for tree in (config_directory(), *config_trees()):
        for file in sorted((tree / section).glob("*.yaml")):
            if yaml.safe_load(file.read_text(encoding="utf-8")).get(field) == variant:
                stems.append(file.stem)
    return variant if variant in stems else stems[0]


def _compose(
    overrides: list[str], name: str = "config", folders: Sequence[Path] = ()
) -> DictConfig:
    directory = str(config_directory())
    for text in overrides:
        check_choice(text)
        if override_key(text).startswith("hydra"):
            raise ConfigError(
                f"{text}: Hydra's own settings have a meaning with -m alone, which runs one after "
                "the other; a run's folder is output_dir=..."
            )
    if not folders and not all(map(is_ours, overrides)):
        folders = config_trees()
    if folders:
        places = [f"file://{folder.resolve()}" for folder in folders]
        overrides = [*overrides, f"hydra.searchpath={hydra_value(places)}"]
    with _HYDRA_LOCK:
        # Inside a Hydra application (`plurallm VERB`) the global state is taken: lend it.
        taken = GlobalHydra.instance().hydra
        GlobalHydra.instance().hydra = None
        try:
            with initialize_config_dir(directory, version_base="1.3"):
                return compose(name, overrides=overrides)
        except HydraException as error:
            raise ConfigError(_explain(error, name)) from error
        except (ValueError, OmegaConfBaseException) as error:
            raise ConfigError(f"overrides {overrides}: {first_line(error)}") from error
        finally:
            GlobalHydra.instance().hydra = taken


def _explain(error: HydraException, name: str) -> str:
    """Say in one line what Hydra objects to; an unknown key gets the nearest known one."""
    unknown = re.search(r"Could not (?:override|append to config|find) '([\w.]+)'", str(error))
    if unknown is None or "Available options" in str(error):
        text = str(error).partition("Config search path")[0]
        return " ".join(line.strip() for line in text.splitlines() if line.strip())
    key, known = unknown[1], _known_keys(name)
    if key in known:
        return f"{key} is not a key of the chosen files of conf/: it belongs to {known[key]}"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{key} is not a key of the configuration{hint}"


def _known_keys(name: str) -> dict[str, str]:
    """Every key of a configuration's files, with the choices that have it: ``data=custom``."""
    directory = config_directory()
    keys: dict[str, list[str]] = {}
    trees = [directory, *config_trees()] if name == "config" else []
    groups = [file for tree in trees for file in sorted(tree.glob("*/*.yaml"))]
    for file in [directory / f"{name}.yaml", *groups]:
        group = "." if file.parent == directory else file.parent.name
        prefix = "" if group == "." else f"{group}."
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        ours = {key: value for key, value in tree.items() if key not in ("defaults", "hydra")}
        for key in flatten(ours, prefix):
            keys.setdefault(key, []).append(f"{group}={file.stem}")
    return {key: " or ".join(choices) for key, choices in keys.items()}
