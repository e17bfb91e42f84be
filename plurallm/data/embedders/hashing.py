"""Hashed n-grams: an embedder that needs no model.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from plurallm.config.learning import EmbeddingConfig
from plurallm.config.ranges import SECTION

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from plurallm.data.embedding.pairs import Pair

_CHUNK = 2048


@dataclass(frozen=True, config=SECTION)
class HashingEmbedding(EmbeddingConfig):
    """Hashed n-grams: half of the width for the question, half for the option.

    Words and pairs of words tell topics and names, runs of characters make inflections similar.
    """

    name: Literal["hashing"]
    width: Annotated[int, Field(ge=2, multiple_of=2)]

    def embed(
        self, pairs: "Sequence[Pair]", device: str, keep: Path | None
    ) -> "npt.NDArray[np.float32]":
        """Hash on the host."""
        import numpy as np
        from sklearn.feature_extraction.text import HashingVectorizer

        half = self.width // 2
        vectorizers = [
            HashingVectorizer(n_features=half, analyzer=analyzer, ngram_range=ngrams, norm="l2")
            for analyzer, ngrams in (("word", (1, 2)), ("char_wb", (3, 4)))
        ]
        table_RD = np.empty((len(pairs), self.width), dtype=np.float32)
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            for side in (0, 1):
                texts = [pair[side] for pair in chunk]
                dense = sum(vectorizer.transform(texts).toarray() for vectorizer in vectorizers)
                table_RD[start : start + _CHUNK, side * half : (side + 1) * half] = dense
        return table_RD * np.float32(math.sqrt(half / 2))
