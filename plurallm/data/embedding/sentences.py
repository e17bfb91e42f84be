"""Sentence-transformers models as embedders.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from plurallm.config.learning import MiniLMEmbedding, SentenceTransformerEmbedding
from plurallm.data.embedding.batches import embed_texts
from plurallm.data.embedding.models import count_tokens, minilm_folder, model_folder, sentence_model
from plurallm.data.embedding.pairs import Pair
from plurallm.data.embedding.scale import unit_mean_square


def embed_sentences(
    pairs: Sequence[Pair], config: MiniLMEmbedding, device: str, keep: Path | None
) -> npt.NDArray[np.float32]:
    """Embed with a sentence-transformers model, by its own pooling.

    Parameters
    ----------
    pairs : sequence of (str, str)
        Questions and options.
    config : MiniLMEmbedding
        Which model, and whether question and option are one text (``parts=joint``) or two whose
        vectors stand side by side (``parts=separate``, twice the width).
    device : str
        Where to compute.
    keep : Path or None
        Folder for finished parts.

    Returns
    -------
    ndarray of shape (R, D), float32
        Mean square 1 in each row, and in each half of it with ``parts=separate``.

    Raises
    ------
    ValueError
        When the model or its package is missing.
    """
    if isinstance(config, SentenceTransformerEmbedding):
        folder = model_folder(config.model)
    else:
        folder = minilm_folder()
    model = sentence_model(folder, device)
    if config.parts == "joint":
        texts = [f"{question} {option}" for question, option in pairs]
    else:
        texts = [question for question, _ in pairs] + [option for _, option in pairs]

    def encode(batch: list[str]) -> npt.NDArray[np.float32]:
        vectors = model.encode(batch, batch_size=len(batch), show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)

    vectors = unit_mean_square(
        embed_texts(
            texts,
            lambda texts: count_tokens(model.tokenizer, texts, model.max_seq_length or math.inf),
            encode,
            config.batch_tokens,
            keep,
        )
    )
    return np.concatenate(np.split(vectors, len(texts) // len(pairs)), axis=1)
