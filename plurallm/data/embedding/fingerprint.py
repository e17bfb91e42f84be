"""What an embedder is made of: a digest of the content of its weights, tokenizer and settings."""

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from plurallm.config.learning import EmbeddingConfig
from plurallm.data.formats.tabular import file_state

LARGE = 2**20
"""Bytes from which on a file's digest is remembered."""

MOST_FILES = 10_000
"""More than this in a folder is no model."""

# What no loader reads: papers, other libraries' weights, a clone's history, a download's notes.
_UNREAD = (".md", ".h5", ".msgpack", ".ot", ".onnx", ".bin", ".pt", ".pth", ".png", ".jpg", ".gguf")
_UNREAD_FOLDERS = ("original", "onnx", "openvino")

# A file that changed just now can change again within one tick of the file system's clock.
_SETTLED_SECONDS = 2.0


def embedder_fingerprint(config: EmbeddingConfig, cache_dir: Path) -> str:
    """Digest of the files that an embedder reads, wherever they lie: weights, tokenizer, settings.

    Parameters
    ----------
    config : EmbeddingConfig
        Which embedder.
    cache_dir : Path
        Digests of large files are kept in its folder ``embeddings/digests``.

    Returns
    -------
    str
        32 hexadecimal digits; the name of an embedder that reads no file.

    Raises
    ------
    ValueError
        When the model cannot be found, or is no model's folder.
    """
    place = config.place()
    if place is None:
        return config.name
    digests = cache_dir / "embeddings" / "digests"
    if place.is_file():
        found = [("", _digest(place, digests))]
    else:
        found = sorted((name, _digest(file, digests)) for name, file in model_files(place))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:32]


def model_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of a model's folder, links followed, without those that no loader reads.

    Parameters
    ----------
    folder : Path
        Of a model.

    Yields
    ------
    name, file
        Path inside the folder, with ``/``; and the file.

    Raises
    ------
    ValueError
        When it holds more than ``MOST_FILES``.
    """
    for number, found in enumerate(_walk(folder, "", ()), start=1):
        if number > MOST_FILES:
            raise ValueError(
                f"{folder} holds more than {MOST_FILES} files: it is no model's folder"
            )
        yield found


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, Path]]:
    state = folder.stat()
    here = (state.st_dev, state.st_ino)
    if here in above:  # a link back to where it came from
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.name not in _UNREAD_FOLDERS:
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, here))
        elif entry.is_file() and not entry.name.endswith(_UNREAD):
            yield prefix + entry.name, Path(entry.path)


def _digest(file: Path, digests: Path) -> str:
    """Digest of a file's content; of a large one that has not changed, the remembered one."""
    state = file_state(file)
    size, changed = state[2], max(state[3:])
    remembered = digests / hashlib.sha256(repr(state).encode()).hexdigest()[:32]
    settled = time.time() - changed / 1e9 > _SETTLED_SECONDS
    if size >= LARGE and settled and remembered.is_file():
        known = remembered.read_text(encoding="ascii", errors="replace")
        if len(known) == 64:
            return known
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if size >= LARGE and settled and file_state(file) == state:
        _remember(remembered, found)
    return found


def _remember(path: Path, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as file:
        file.write(digest)
    os.replace(file.name, path)
