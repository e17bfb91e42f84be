"""The network with what it remembers: contexts encoded once, texts embedded once, one pass a batch.

Dimension letters: ``R`` distinct texts, ``D`` embedding width, ``W`` model width, ``G`` groups,
``P`` points, ``C`` points of a context, ``Q`` its questions, ``O`` options (padded), ``H`` heads,
``E`` width of a head.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from plurallm.config import EmbeddingConfig
from plurallm.embedding import Pair, embed_pairs
from plurallm.model import Memory, PreferenceTransformer
from plurallm.reward.cache import Cache
from plurallm.reward.context import Context, Group
from plurallm.reward.dispersion import dispersion

Encoded = tuple[Memory, float | None]
"""A context as the network keeps it, of shape (1, H, C, E), and its dispersion."""

_TEXTS_KEPT = 16_384
_CONTEXTS_KEPT = 128


class Readout:
    """Reads means of texts out of a network for groups.

    Parameters
    ----------
    network : PreferenceTransformer
        The network; call ``clear`` when its weights change.
    embedding : EmbeddingConfig
        The embedder of the texts.
    pairs_of : callable
        From a question and its options to the texts that are embedded.
    context_of : callable
        From a group to its context.
    """

    def __init__(
        self,
        network: PreferenceTransformer,
        embedding: EmbeddingConfig,
        pairs_of: Callable[[str, Sequence[str]], list[Pair]],
        context_of: Callable[[Group], Context],
    ) -> None:
        self._network = network
        self._embedding = embedding
        self._pairs_of = pairs_of
        self._context_of = context_of
        self.tokens: Cache[Pair, Tensor] = Cache(_TEXTS_KEPT)
        self._encoded: Cache[Group, Encoded] = Cache(_CONTEXTS_KEPT)

    def clear(self) -> None:
        """Forget all that was computed."""
        self.tokens.clear()
        self._encoded.clear()

    @torch.inference_mode()
    def means(self, pairs: Sequence[Sequence[Pair]], groups: Sequence[Group]) -> list[Tensor]:
        """Unnormalised means of texts.

        Parameters
        ----------
        pairs : sequence of sequences of (str, str)
            Some questions with their options, or prompts with an answer.
        groups : sequence of str or Context
            For whom, one for each entry of `pairs`.

        Returns
        -------
        list of Tensor of shape (P,), float64, on the CPU
            One mean for each text.
        """
        if not pairs:
            return []
        texts = dict.fromkeys(pair for own in pairs for pair in own)
        row_of = {pair: row for row, pair in enumerate(texts)}
        token_RW = torch.stack(self.tokens.get(list(texts), self._target_tokens))
        number_of = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        rows: list[list[int]] = [[] for _ in number_of]
        places = []
        for own, group in zip(pairs, groups, strict=True):
            row = rows[number_of[group]]
            places.append((number_of[group], slice(len(row), len(row) + len(own))))
            row += [row_of[pair] for pair in own]
        widest = max(map(len, rows))
        row_GP = torch.tensor([own + [0] * (widest - len(own)) for own in rows])
        token_GPW = token_RW[row_GP.to(token_RW.device)]
        memory, mask_GC = _stack([self._encode(group)[0] for group in number_of])
        mean_GP = self._network.decode(token_GPW, memory, mask_GC)[..., 0].double().cpu()
        return [mean_GP[number, points] for number, points in places]

    def dispersion_of(self, group: Group) -> float | None:
        """``c`` of a group's context; None for a context of a single question."""
        return self._encode(group)[1]

    def _encode(self, group: Group) -> Encoded:
        return self._encoded.get([group], lambda groups: [self._encode_anew(groups[0])])[0]

    @torch.inference_mode()
    def _encode_anew(self, group: Group) -> Encoded:
        context = self._context_of(group)
        x_CW = self._embed(
            [pair for a in context for pair in self._pairs_of(a.question, a.options)]
        )
        share_C = x_CW.new_tensor([share for a in context for share in a.shares])
        memory = self._network.encode(x_CW.unsqueeze(0), share_C.unsqueeze(0))
        if len(context) < 2:
            return memory, None
        options_Q = torch.tensor([len(a.options) for a in context], device=x_CW.device)
        place_O = torch.arange(int(options_Q.max()), device=x_CW.device)
        mask_QO = place_O < options_Q.unsqueeze(-1)
        return memory, dispersion(self._network, x_CW, share_C, mask_QO)

    def _target_tokens(self, pairs: Sequence[Pair]) -> list[Tensor]:
        # Copies: a view would keep the whole batch.
        return [row.clone() for row in self._network.target_tokens(self._embed(pairs))]

    def _embed(self, pairs: Sequence[Pair]) -> Tensor:
        """First layer (R, W) of the texts' embeddings."""
        device = self._network.first.weight.device
        x_RD = torch.from_numpy(embed_pairs(pairs, self._embedding, str(device)))
        return self._network.embed(x_RD.to(device))


def _stack(memories: Sequence[Memory]) -> tuple[Memory, Tensor]:
    """Contexts of different length in one memory (G, H, C, E), and which points exist (G, C)."""
    length_G = [memory[0][0].shape[-2] for memory in memories]
    widest = max(length_G)
    lacking = [widest - length for length in length_G]
    stacked: Memory = []
    for layers in zip(*memories, strict=True):
        key, value = (
            torch.cat([pad(part, (0, 0, 0, n)) for part, n in zip(parts, lacking, strict=True)])
            for parts in zip(*layers, strict=True)
        )
        stacked.append((key, value))
    place_C = torch.arange(widest, device=key.device)
    return stacked, place_C < torch.tensor(length_G, device=key.device).unsqueeze(-1)
