"""Many texts through a model: batches by length, progress, and parts kept on disk.

Dimension letters: ``T`` distinct texts; ``R`` texts; ``D`` embedding width.
"""

import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from plurallm.config.directories import writing

Vectors = npt.NDArray[np.float32]

# Seconds between two parts on disk, and between two lines of a log.
_INTERVAL = 30.0

logger = logging.getLogger("plurallm")


def embed_texts(
    texts: Sequence[str],
    token_counts: Callable[[list[str]], list[int]],
    encode: Callable[[list[str]], Vectors],
    batch_tokens: int,
    keep: Path | None,
    beginnings: Sequence[str] = (),
) -> Vectors:
    """Embed each distinct text once, in batches of texts of about the same length.

    Parameters
    ----------
    texts : sequence of str
        May repeat.
    token_counts : callable
        Number of tokens of each of some texts.
    encode : callable
        Vectors of a batch of texts.
    batch_tokens : int
        Most tokens of a batch, padding included; a text that has more is a batch of its own.
    keep : Path or None
        Folder for finished parts, from which an interrupted call goes on; with it, progress is
        shown. None: all in memory, and silent.
    beginnings : sequence of str, optional
        What each text begins with: texts that begin alike stay together, for an encoder that
        computes a shared beginning once.

    Returns
    -------
    ndarray of shape (R, D), float32
        A function of the set of texts, whatever their order and however often it was interrupted.
    """
    distinct = list(dict.fromkeys(texts))
    tokens = dict(zip(distinct, token_counts(distinct), strict=True))
    # The longest first: what does not fit into memory fails at once.
    begins = dict(zip(texts, beginnings, strict=True)) if beginnings else {}
    longest: dict[str, int] = {}
    for text in distinct:
        own = begins.get(text, text)
        longest[own] = max(longest.get(own, 0), tokens[text])

    def place(text: str) -> tuple[int, str, int, str]:
        own = begins.get(text, text)
        return -longest[own], own, -tokens[text], text

    distinct.sort(key=place)
    starts = _starts([tokens[text] for text in distinct], batch_tokens)
    done = [] if keep is None else _read_parts(keep, distinct, starts)
    written = first = sum(map(len, done))
    if first:
        logger.info("%d of %d texts were embedded before", first, len(distinct))
    with _shown(distinct, tokens, first, keep is not None) as advance:
        last = time.monotonic()
        try:
            for start, end in pairwise([s for s in starts if s >= first]):
                done.append(encode(distinct[start:end]))
                advance(distinct[start:end])
                if keep is not None and time.monotonic() - last > _INTERVAL:
                    written = _write_part(keep, distinct, written, done)
                    last = time.monotonic()
        except BaseException:
            if keep is not None:
                _write_part(keep, distinct, written, done)
            raise
    row = {text: number for number, text in enumerate(distinct)}
    vector_TD = np.concatenate(done)
    return vector_TD[[row[text] for text in texts]]


def _starts(lengths: Sequence[int], batch_tokens: int) -> list[int]:
    """Where each batch starts, and the end of the last one."""
    starts, widest = [0], 0
    for number, length in enumerate(lengths):
        widest = max(widest, length)
        if (number + 1 - starts[-1]) * widest > batch_tokens and number > starts[-1]:
            starts.append(number)
            widest = length
    return [*starts, len(lengths)]


def _read_parts(folder: Path, texts: Sequence[str], starts: Sequence[int]) -> list[Vectors]:
    """Vectors of the first texts, as far as whole parts hold them."""
    parts: list[Vectors] = []
    start = 0
    while (file := folder / _part_name(start)).exists():
        try:
            with safe_open(file, framework="numpy") as stored:
                vector_TD = stored.get_tensor("vectors")
                expected = stored.metadata()["digest"]
        except (SafetensorError, OSError, KeyError, TypeError):
            vector_TD, expected = np.empty((0, 0), dtype=np.float32), ""
        end = start + len(vector_TD)
        if end not in starts or _digest(texts[start:end], vector_TD) != expected:
            logger.warning("%s is damaged: it is made again", file)
            file.unlink()
            break
        parts.append(vector_TD)
        start = end
    return parts


def _write_part(folder: Path, texts: Sequence[str], written: int, done: Sequence[Vectors]) -> int:
    """Keep what came after the first `written` texts; returns how many are kept then."""
    end = sum(map(len, done))
    if end > written:
        vector_TD = np.concatenate(done)[written:]
        content = save({"vectors": vector_TD}, {"digest": _digest(texts[written:end], vector_TD)})
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / _part_name(written)
        part = file.with_suffix(".part")
        with writing(file):
            part.write_bytes(content)
            os.replace(part, file)
    return end


def _part_name(start: int) -> str:
    return f"{start:08d}.safetensors"


def _digest(texts: Sequence[str], vector_TD: Vectors) -> str:
    digest = hashlib.sha256(json.dumps([*texts, vector_TD.shape]).encode())
    digest.update(vector_TD.tobytes())
    return digest.hexdigest()


@contextmanager
def _shown(
    texts: Sequence[str], tokens: dict[str, int], first: int, show: bool
) -> Iterator[Callable[[Sequence[str]], None]]:
    """Tell how far it is: a bar on a terminal, a line now and then elsewhere."""
    total, ahead = len(texts), sum(tokens[text] for text in texts[first:])
    begun = last = time.monotonic()
    texts_done, tokens_done = first, 0
    bar = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    task = bar.add_task("", total=ahead, visible=show)

    def advance(batch: Sequence[str]) -> None:
        nonlocal texts_done, tokens_done, last
        texts_done += len(batch)
        tokens_done += sum(tokens[text] for text in batch)
        now = time.monotonic()
        state = f"{texts_done} of {total} texts, {tokens_done / (now - begun):.0f} tokens/s"
        bar.update(task, completed=tokens_done, description=state)
        if show and bar.disable and now - last > _INTERVAL:
            left = (now - begun) / tokens_done * (ahead - tokens_done)
            logger.info("embedded %s, about %.0f s left", state, left)
            last = now

    with bar:
        yield advance
