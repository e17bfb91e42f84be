"""From overrides to a checked ``Config``."""

import difflib
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from plurallm.config.digest import flatten
from plurallm.config.error import ConfigError
from plurallm.config.overrides import absolute_overrides, check_choice, config_directory, first_line
from plurallm.config.schema import VARIANTS, Config

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
    config = _to_object(OmegaConf.structured(schema), _compose(list(overrides), name))
    assert isinstance(config, schema)
    return config


def typed_config(composed: DictConfig) -> Config:
    """Check a composed tree against the types above.

    Raises
    ------
    ConfigError
        Naming the key.
    """
    schema = OmegaConf.structured(Config)
    for name, (field, variants) in VARIANTS.items():
        choice = OmegaConf.select(composed, f"{name}.{field}")
        if choice not in variants:
            raise ConfigError(
                f"{name}.{field} must be one of {', '.join(variants)}, but is {choice!r}"
            )
        schema[name] = OmegaConf.structured(variants[choice])
    config = _to_object(schema, composed)
    assert isinstance(config, Config)
    return config


def _to_object(schema: DictConfig, composed: DictConfig) -> object:
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, composed))
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(f"{key} has no value: give {key}=...") from error
    except OmegaConfBaseException as error:
        reason = first_line(error)
        if "is not a ListConfig" in reason:
            reason = "it must be a list, such as [A,B]"
        raise ConfigError(f"{error.full_key or 'configuration'}: {reason}") from error


def _compose(overrides: list[str], name: str = "config") -> DictConfig:
    directory = str(config_directory())
    for text in overrides:
        check_choice(text)
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
    groups = directory.glob("*/*.yaml") if name == "config" else ()
    for file in sorted([directory / f"{name}.yaml", *groups]):
        group = file.parent.relative_to(directory).as_posix()
        prefix = "" if group == "." else f"{group}."
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        ours = {key: value for key, value in tree.items() if key not in ("defaults", "hydra")}
        for key in flatten(ours, prefix):
            keys.setdefault(key, []).append(f"{group}={file.stem}")
    return {key: " or ".join(choices) for key, choices in keys.items()}
