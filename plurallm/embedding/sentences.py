"""Sentence-transformers models as embedders.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``T`` distinct texts;
``D`` embedding width.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from plurallm.config import MiniLMEmbedding, SentenceTransformerEmbedding
from plurallm.embedding.models import minilm_folder, model_folder, sentence_model
from plurallm.embedding.pairs import Pair


def embed_sentences(
    pairs: Sequence[Pair], config: MiniLMEmbedding, device: str
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

    Returns
    -------
    ndarray of shape (R, D), float32
        Mean square 1 in each row, and in each half of it with ``parts=separate``.
    """
    model = sentence_model(
        model_folder(config.model)
        if isinstance(config, SentenceTransformerEmbedding)
        else minilm_folder(),
        device,
    )
    if config.parts == "joint":
        sides = [[f"{question} {option}" for question, option in pairs]]
    else:
        sides = [[question for question, _ in pairs], [option for _, option in pairs]]
    # Sorted, so that a text's batch depends on the set of texts alone and holds little padding.
    texts = sorted(set().union(*sides), key=lambda text: (len(text), text))
    vector_TD = model.encode(texts, batch_size=config.batch_size, show_progress_bar=False)
    row = {text: number for number, text in enumerate(texts)}
    return np.concatenate(
        [unit_mean_square(vector_TD[[row[text] for text in side]]) for side in sides], axis=1
    )


def unit_mean_square(table_RD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scale each row to mean square 1: direction counts, length does not.

    Parameters
    ----------
    table_RD : ndarray of shape (R, D), float32
        Vectors of any length but 0.

    Returns
    -------
    ndarray of shape (R, D), float32
        What the network is built for.

    Examples
    --------
    >>> unit_mean_square(np.array([[3, 4]], dtype=np.float32)) ** 2
    array([[0.72, 1.28]], dtype=float32)
    """
    scaled_RD: npt.NDArray[np.float32] = table_RD / np.sqrt(
        np.square(table_RD).mean(axis=1, keepdims=True)
    )
    return scaled_RD
