"""Causal language models as embedders: the mean of the last hidden states.

Dimension letters: ``R`` rows, one for each distinct (question, option); ``D`` embedding width.
"""

import sys
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
class CausalLMEmbedding(EmbeddingConfig):
    """A causal language model, read as GPO does (arXiv 2310.11523).

    A vector is the mean of the hidden states that the model's head would read, over all tokens of
    prompt and answer: those that the tokenizer or the template put in front count, padding does
    not.
    """

    name: Literal["causal_lm"]
    model: Text
    list_options: bool
    template: Literal["none", "alpaca", "llama2", "chat"]
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_tokens: Count
    device: Text | None

    def place(self) -> Path:
        """Folder of the model."""
        from plurallm.data.embedding.models import model_folder

        return model_folder(self.model)

    def embed(
        self, pairs: "Sequence[Pair]", device: str, keep: Path | None
    ) -> "npt.NDArray[np.float32]":
        """Embed; mean square 1 in each row.

        Raises
        ------
        ValueError
            When the model is missing or incomplete, or its tokenizer has no chat template to use.
        """
        import torch

        from plurallm.data.embedding import beginnings
        from plurallm.data.embedding.batches import embed_texts
        from plurallm.data.embedding.models import causal_lm, count_tokens
        from plurallm.data.embedding.prompts import prompt_text
        from plurallm.data.embedding.scale import unit_mean_square

        model, tokenizer = causal_lm(self.place(), device, self.dtype)
        # A chat template writes its special tokens itself.
        special = self.template != "chat"
        limit = min(
            tokenizer.model_max_length,
            getattr(model.config, "max_position_embeddings", None) or sys.maxsize,
        )

        def encode(batch: list[str]) -> "npt.NDArray[np.float32]":
            ids = tokenizer(batch, add_special_tokens=special, truncation=True, max_length=limit)
            with torch.inference_mode():
                mean_TD = beginnings.mean_states(model, ids["input_ids"], device)
            return mean_TD.cpu().numpy()

        texts = [prompt_text(pair, self.template, tokenizer) for pair in pairs]
        return unit_mean_square(
            embed_texts(
                texts,
                lambda texts: count_tokens(tokenizer, texts, limit, special),
                encode,
                self.batch_tokens,
                keep,
                [question for question, _ in pairs],
            )
        )
