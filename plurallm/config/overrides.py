"""Hydra overrides as text: what they set, where their paths lead, how they are quoted."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from plurallm.config.digest import flatten, old_rules
from plurallm.config.error import ConfigError

PATH_KEYS = (
    "data.path",
    "data.ordinals",
    "data.codebook",
    "embedding.path",
    "output_dir",
    "cache_dir",
    "state_dir",
    "resume",
)
"""Keys whose values are paths."""

MODEL_KEY = "embedding.model"
"""Key whose value is a folder's path, or a name on the Hugging Face hub."""


def config_directory() -> Path:
    """Folder of the Hydra tree: inside an installed wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packed = package / "conf"
    return packed if packed.is_dir() else package.parent / "conf"


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
        by_key = _saved(Path(str(folder))) | by_key
    return list(by_key.values())


def _saved(run: Path) -> dict[str, str]:
    """Overrides that a run was started with; of an older version's, the rules that it had too."""
    overrides, config = run / "overrides.yaml", run / "config.yaml"
    if not overrides.is_file():
        return {}
    given = yaml.safe_load(overrides.read_text(encoding="utf-8"))
    known = flatten(yaml.safe_load(config.read_text(encoding="utf-8"))) if config.is_file() else {}
    rules = {
        key: f"{key}={str(value).lower()}"
        for key, value in old_rules(known.get("data.source")).items()
        if known and key not in known
    }
    if rules:  # its default was another one
        rules["personal"] = f"personal={known['personal.name']}"
    return rules | {_parse(text)[0]: text for text in given}


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


def is_ours(text: str) -> bool:
    """Whether an override chooses no file that ``conf/`` lacks."""
    group, value = _parse(text)
    folder = config_directory() / group
    choices = value if isinstance(value, list) else [value]
    return not folder.is_dir() or all(
        choice is None or (folder / f"{choice}.yaml").is_file() for choice in choices
    )


def hydra_value(value: object) -> str:
    """Write a value of a configuration so that Hydra's override grammar reads it back."""
    if isinstance(value, str):
        return hydra_quote(value)
    if isinstance(value, list):
        return f"[{','.join(map(hydra_value, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{hydra_value(own)}" for key, own in value.items()) + "}"
    return "null" if value is None else str(value).lower()


def hydra_quote(value: str) -> str:
    """Quote a text so that Hydra's override grammar reads it back unchanged."""
    # Backslashes count only before a quote, of which the closing one is the last.
    return "'" + re.sub(r"(\\*)('|\Z)", _escape_quote, value) + "'"


def hydra_list(names: Sequence[str]) -> str:
    """Write names as a list in Hydra's override grammar.

    Raises
    ------
    ConfigError
        For one text, whose letters would be taken for names.
    """
    if isinstance(names, str):
        raise ConfigError(f"names are given as a list: [{names!r}]")
    return f"[{','.join(map(hydra_quote, names))}]"


def split_overrides(text: str) -> list[str]:
    """Overrides from the one string that Flower's run configuration carries."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"overrides {text!r} cannot be split: {error}") from error


def first_line(error: Exception) -> str:
    """Give the first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _parse(text: str) -> tuple[str, object]:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"override {text!r}: {first_line(error)}; a value with special characters stands in "
            "quotes that the shell leaves alone: \"key='a b'\""
        ) from error
    return override.key_or_group, override.value()


def _is_path(key: str, value: str, base_dir: Path | None) -> bool:
    if key == MODEL_KEY:
        there = base_dir is not None and Path(base_dir, value).is_dir()
        return there or value.startswith((".", "~", "/"))
    return key in PATH_KEYS


def _absolute(key: str, value: str, base_dir: Path | None) -> str:
    try:
        path = Path(value).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}={value}: {error}; give a path without ~") from error
    if not path.is_absolute() and base_dir is None:
        raise ConfigError(
            f"{key}={value} is a relative path, and here the working directory is Flower's: "
            "give an absolute path, or use scripts/run.sh or plurallm train"
        )
    return str(path if path.is_absolute() else Path(base_dir or "/", path))


def _escape_quote(match: re.Match[str]) -> str:
    return match[1] * 2 + ("\\'" if match[2] else "")
