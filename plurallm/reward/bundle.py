"""What a bundle's files must hold, and errors that name the bundle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from plurallm.config.compose import variant_type
from plurallm.config.error import ConfigError
from plurallm.config.learning import EmbeddingConfig, ModelConfig
from plurallm.config.ranges import Section, make_section


def check_place(place: str | Path) -> None:
    """Refuse what is neither a folder nor named like a repository.

    Raises
    ------
    FileNotFoundError
        Naming it.
    """
    name = str(place)
    is_path = isinstance(place, Path) or name.startswith(("/", ".")) or name.count("/") != 1
    if is_path and not Path(place).is_dir():
        raise FileNotFoundError(
            f"{name}: there is no such folder with a reward bundle, and a repository of the "
            "Hugging Face hub is named owner/name"
        )


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Name the bundle in whatever goes wrong while it is read.

    Raises
    ------
    OSError
        When a file is missing, or the hub out of reach.
    ValueError
        When a file is damaged or not that of a bundle.
    """
    try:
        yield
    except OSError as error:
        raise OSError(f"{name} cannot be loaded: {_line(error)}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: config.json is not readable JSON: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{name}: config.json is not that of a bundle: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{name}: model.safetensors is damaged: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"{name}: model.safetensors does not fit config.json: {_line(error)}"
        ) from error


def check_keys(keys: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not a bundle's, such as that of a run's model.

    Raises
    ------
    ValueError
        Naming the keys that are missing.
    """
    missing = {"model", "embedding", "embedding_width", "contexts"} - set(keys)
    if missing:
        raise ValueError(
            f"not a reward bundle: it lacks a config.json with {', '.join(sorted(missing))}; "
            "plurallm export makes a bundle of a run's folder"
        )


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Type the sizes of the network.

    Raises
    ------
    ValueError
        Naming the key that is wrong.
    """
    return _typed(ModelConfig, values, "model")


def embedding_config(values: Mapping[str, Any]) -> EmbeddingConfig:
    """Type the settings of the embedder.

    Raises
    ------
    ValueError
        For an unknown embedder, or naming the key that is wrong.
    """
    try:
        schema = variant_type("embedding", values, EmbeddingConfig)
    except ConfigError as error:
        name = values.get("name")
        raise ValueError(f"the bundle needs the embedder {name!r}, not known here") from error
    return _typed(schema, values, "embedding")


def _typed(schema: type[Section], values: Mapping[str, Any], name: str) -> Section:
    try:
        return make_section(schema, values, name)
    except ConfigError as error:
        raise ValueError(f"{name} of the bundle: {error}") from error


def _line(error: Exception) -> str:
    """The line that says what: PyTorch's messages open with a heading, and may list everything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return told if len(told) <= 300 else f"{told[:300]} ..."
