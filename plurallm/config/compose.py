"""From overrides to a checked ``Config``."""

import difflib
import re
import shlex
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from plurallm.config.compare import flatten
from plurallm.config.error import ConfigError
from plurallm.config.types import VARIANTS, Config

Tool = TypeVar("Tool")

PATH_KEYS = (
    "data.path",
    "data.ordinals",
    "embedding.path",
    "output_dir",
    "cache_dir",
    "state_dir",
    "resume",
)
"""Keys whose values are paths."""

MODEL_KEY = "embedding.model"
"""Key whose value is a folder's path, or a name on the Hugging Face hub."""

# Hydra keeps one global state a process, and a simulation composes from several threads.
_HYDRA_LOCK = threading.Lock()


def config_directory() -> Path:
    """Folder of the Hydra tree: inside an installed wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "conf"
    return packed if packed.is_dir() else package.parent / "conf"


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
        reason = _first_line(error)
        if "is not a ListConfig" in reason:
            reason = "it must be a list, such as [A,B]"
        raise ConfigError(f"{error.full_key or 'configuration'}: {reason}") from error


def absolute_overrides(overrides: Sequence[str], base_dir: Path | None) -> list[str]:
    """Make overrides mean the same from any working directory and for any process.

    Relative paths become absolute, later overrides of a key replace earlier ones, and
    ``resume=FOLDER`` is joined to the overrides that the run in FOLDER was started with.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides.
    base_dir : Path or None
        Where relative paths start; with None they are refused.

    Returns
    -------
    list of str
        One override for each key.

    Raises
    ------
    ConfigError
        For an override that cannot be parsed, or a relative path without `base_dir`.
    """
    by_key: dict[str, str] = {}
    for text in overrides:
        key, value = _parse(text)
        # A folder called 2024 is a path too.
        path = value if isinstance(value, str) else text.partition("=")[2]
        if value is not None and _is_path(key, path, base_dir):
            text = f"{key}={hydra_quote(_absolute(key, path, base_dir))}"
        by_key.pop(key, None)
        by_key[key] = text
    if "resume" in by_key:
        _, folder = _parse(by_key["resume"])
        saved = Path(str(folder)) / "overrides.yaml"
        if saved.is_file():
            by_key = {
                _parse(text)[0]: text for text in yaml.safe_load(saved.read_text(encoding="utf-8"))
            } | by_key
    return list(by_key.values())


def override_key(text: str) -> str:
    """Key, or folder of ``conf/``, whose value an override replaces.

    Parameters
    ----------
    text : str
        One Hydra override.

    Returns
    -------
    str
        For example ``"training.learning_rate"``, or ``"data"`` of ``data=custom``.

    Raises
    ------
    ConfigError
        When it cannot be parsed, or adds or deletes a key (``+key=``, ``~key``, ``key@package=``).
    """
    key, _ = _parse(text)
    if not text.startswith(f"{key}="):
        raise ConfigError(f"override {text!r} does not have the form {key}=...")
    return key


def check_choice(text: str) -> None:
    """Refuse what is no plain name where a file of ``conf/`` is chosen.

    Hydra would follow a path out of ``conf/`` and tell in its errors what the file there holds.

    Parameters
    ----------
    text : str
        One Hydra override.

    Raises
    ------
    ConfigError
        Naming the key of a folder of ``conf/`` whose value is no name, or list of names, or null.
    """
    group, value = _parse(text)
    if not (config_directory() / group).is_dir():
        return
    for choice in value if isinstance(value, list) else [value]:
        plain = isinstance(choice, str) and re.fullmatch(r"[A-Za-z0-9_]+", choice)
        if not plain and choice is not None:
            raise ConfigError(
                f"{group} must be the name of a file of conf/{group}, without folder and ending"
            )


def hydra_quote(value: str) -> str:
    """Quote a text so that Hydra's override grammar reads it back unchanged."""
    # Backslashes count only before a quote, of which the closing one is the last.
    return "'" + re.sub(r"(\\*)('|\Z)", _escape_quote, value) + "'"


def split_overrides(text: str) -> list[str]:
    """Overrides from the one string that Flower's run configuration carries."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides {text!r} cannot be split: {error}") from error


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
            raise ConfigError(f"overrides {overrides}: {_first_line(error)}") from error
        finally:
            GlobalHydra.instance().hydra = taken


def _parse(text: str) -> tuple[str, object]:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"override {text!r}: {_first_line(error)}; a value with special characters stands in "
            "quotes that the shell leaves alone: \"key='a b'\""
        ) from error
    return override.key_or_group, override.value()


def _is_path(key: str, value: str, base_dir: Path | None) -> bool:
    if key == MODEL_KEY:
        there = base_dir is not None and Path(base_dir, value).is_dir()
        return there or value.startswith((".", "~", "/"))
    return key in PATH_KEYS


def _absolute(key: str, value: str, base_dir: Path | None) -> str:
    path = Path(value).expanduser()
    if not path.is_absolute() and base_dir is None:
        raise ConfigError(
            f"{key}={value} is a relative path, and here the working directory is Flower's: "
            "give an absolute path, or use scripts/run.sh or plurallm train"
        )
    return str(path if path.is_absolute() else Path(base_dir or "/", path))


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


def _escape_quote(match: re.Match[str]) -> str:
    return match[1] * 2 + ("\\'" if match[2] else "")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
