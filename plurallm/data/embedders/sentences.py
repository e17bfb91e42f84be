"""Sentence-transformers models as embedders.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic.dataclasses import dataclass

from plurallm.config.learning import EmbeddingConfig
from plurallm.config.ranges import SECTION, Count, Text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from plurallm.data.embedding.pairs import Pair


@dataclass(frozen=True, config=SECTION)
class SentenceEmbedding(EmbeddingConfig):
    """A sentence-transformers model, by its own pooling.

    Question and option are one text (``parts=joint``), or two whose vectors stand side by side
    (``parts=separate``, twice the width).
    """

    parts: Literal["joint", "separate"]
    batch_tokens: Count
    device: Text | None

    def embed(
        self, pairs: "Sequence[Pair]", device: str, keep: Path | None
    ) -> "npt.NDArray[np.float32]":
        """Embed; mean square 1 in each row, and in each half of it with ``parts=separate``.

        Raises
        ------
        ValueError
            When the model or its package is missing.
        """
        import numpy as np

        from plurallm.data.embedding.batches import embed_texts
        from plurallm.data.embedding.models import count_tokens, sentence_model
        from plurallm.data.embedding.scale import unit_mean_square

        model = sentence_model(self.place(), device)
        if self.parts == "joint":
            texts = [f"{question} {option}" for question, option in pairs]
        else:
            texts = [question for question, _ in pairs] + [option for _, option in pairs]

        def encode(batch: list[str]) -> "npt.NDArray[np.float32]":
            vectors = model.encode(batch, batch_size=len(batch), show_progress_bar=False)
            return np.asarray(vectors, dtype=np.float32)

        vectors = unit_mean_square(
            embed_texts(
                texts,
                lambda texts: count_tokens(
                    model.tokenizer, texts, model.max_seq_length or math.inf
                ),
                encode,
                self.batch_tokens,
                keep,
            )
        )
        return np.concatenate(np.split(vectors, len(texts) // len(pairs)), axis=1)


@dataclass(frozen=True, config=SECTION)
class MiniLMEmbedding(SentenceEmbedding):
    """all-MiniLM-L6-v2 from an installed package."""

    name: Literal["minilm"]

    def place(self) -> Path:
        """Folder of the package's model."""
        from plurallm.data.embedding.models import minilm_folder

        return minilm_folder()


@dataclass(frozen=True, config=SECTION)
class SentenceTransformerEmbedding(SentenceEmbedding):
    """Any sentence-transformers model."""

    name: Literal["sentence_transformer"]
    model: Text

    def place(self) -> Path:
        """Folder of the model."""
        from plurallm.data.embedding.models import model_folder

        return model_folder(self.model)
