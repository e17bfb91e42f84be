"""A bundle's embedder, which must be the one that its network was trained with."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plurallm.config.learning import EmbeddingConfig
from plurallm.data.embedding.pairs import Pair
from plurallm.data.embedding.table import embed_pairs

TOLERANCE = 1e-4
"""How far a vector may be from the recorded one, of mean square 1: devices round differently."""

TOLERANCE_HALF = 0.1
"""The same for an embedder that computes in 16 bits."""

logger = logging.getLogger("plurallm")


class Embedder:
    """Embeds texts, after the embedder has proved to be the one of the training.

    Parameters
    ----------
    config : EmbeddingConfig
        Which embedder.
    width : int
        Width ``D`` of its vectors.
    probe : mapping or None
        ``text``, a question and an option, and ``vector``, its embedding at the training; None
        where that was not recorded.
    """

    def __init__(self, config: EmbeddingConfig, width: int, probe: dict[str, Any] | None) -> None:
        self._config = config
        self._width = width
        self._probe = probe

    def __call__(self, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        """Embed texts.

        Parameters
        ----------
        pairs : sequence of (str, str)
            Questions and options.
        device : torch.device
            Where to compute.

        Returns
        -------
        Tensor of shape (R, D), float32
            On the device.

        Raises
        ------
        ValueError
            When the embedder gives vectors of another width, or another vector for the probe.
        """
        x_RD = self._embed(pairs, device)
        if self._probe is not None:
            self._check(self._probe, device)
            self._probe = None
        return x_RD

    def _embed(self, pairs: Sequence[Pair], device: torch.device) -> Tensor:
        x_RD = torch.from_numpy(embed_pairs(pairs, self._config, str(device)))
        if x_RD.shape[1] != self._width:
            raise ValueError(
                f"embedding={self._config.name} gives vectors of width {x_RD.shape[1]}, but the "
                f"bundle was made with width {self._width}: it needs the embedder of the training"
            )
        return x_RD.to(device)

    def _check(self, probe: dict[str, Any], device: torch.device) -> None:
        question, option = probe["text"]
        now_D = self._embed([(question, option)], device)[0].double().cpu().numpy()
        apart = float(np.abs(now_D - np.array(probe["vector"])).max())
        half = getattr(self._config, "dtype", "float32") != "float32"
        if not apart <= (TOLERANCE_HALF if half else TOLERANCE):
            raise ValueError(
                f"embedding={self._config.name} has changed since the training: the vector of the "
                f"bundle's probe text differs by up to {apart:.2g}, so that predictions would be "
                "others. Restore the embedder's files, or give the right one with embedding=..."
            )
