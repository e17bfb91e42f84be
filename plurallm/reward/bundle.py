"""What a bundle's files must hold, and errors that name the bundle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError

from plurallm.config.learning import EmbeddingConfig, ModelConfig
from plurallm.config.schema import VARIANTS


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
    config = _typed(ModelConfig, values, "model")
    assert isinstance(config, ModelConfig)
    return config


def embedding_config(values: Mapping[str, Any]) -> EmbeddingConfig:
    """Type the settings of the embedder.

    Raises
    ------
    ValueError
        For an unknown embedder, or naming the key that is wrong.
    """
    variants = VARIANTS["embedding"][1]
    if values.get("name") not in variants:
        raise ValueError(f"the bundle needs the embedder {values.get('name')!r}, not known here")
    config = _typed(variants[values["name"]], values, "embedding")
    assert isinstance(config, EmbeddingConfig)
    return config


def _typed(schema: type, values: Mapping[str, Any], name: str) -> Any:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{name} of the bundle: {str(error).splitlines()[0]}") from error


def _line(error: Exception) -> str:
    """The line that says what: PyTorch's messages open with a heading, and may list everything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return told if len(told) <= 300 else f"{told[:300]} ..."
