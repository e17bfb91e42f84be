"""The network with what it remembers: contexts encoded once, texts embedded once, one pass a batch.

Dimension letters: ``R`` distinct texts, ``D`` embedding width, ``W`` model width, ``G`` groups,
``P`` points, ``C`` points of a context, ``Q`` its questions, ``O`` options (padded), ``H`` heads,
``E`` width of a head.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from plurallm.data.context import Context, Group
from plurallm.data.embedding.pairs import Pair
from plurallm.learn.transformer import Memory, PreferenceTransformer
from plurallm.reward.cache import Cache
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
    embed : callable
        From texts and a device to their embeddings (R, D) there, see ``Embedder``.
    pairs_of : callable
        From a question and its options to the texts that are embedded.
    context_of : callable
        From a group to its context.
    """

    def __init__(
        self,
        network: PreferenceTransformer,
        embed: Callable[[Sequence[Pair], torch.device], Tensor],
        pairs_of: Callable[[str, Sequence[str]], list[Pair]],
        context_of: Callable[[Group], Context],
    ) -> None:
        self._network = network
        self._embedder = embed
        self._pairs_of = pairs_of
        self._context_of = context_of
        self.tokens: Cache[Pair, Tensor] = Cache(_TEXTS_KEPT)
        # Contexts that come and go, and those of the bundle's groups, which must not make room.
        self._encoded: Cache[Context, Encoded] = Cache(_CONTEXTS_KEPT)
        self._released: dict[str, tuple[Context, Encoded]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_released": {}}

    def clear(self) -> None:
        """Forget all that was computed."""
        self.tokens.clear()
        self._encoded.clear()
        self._released.clear()

    @torch.inference_mode()
    def means(
        self, pairs: Sequence[Sequence[Pair]], groups: Sequence[Group]
    ) -> list[tuple[Tensor, float | None]]:
        """Unnormalised means of texts, and the dispersion of the group's context.

        Parameters
        ----------
        pairs : sequence of sequences of (str, str)
            Some questions with their options, or prompts with an answer.
        groups : sequence of str or Context
            For whom, one for each entry of `pairs`.

        Returns
        -------
        list of (Tensor of shape (P,), float)
            For each entry: one mean for each text, float64, on the CPU; and ``c`` of
            ``plurallm.reward.dispersion``, None for a context of a single question.
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
        encoded = [self._encode(group) for group in number_of]
        memory, mask_GC = _stack([memory for memory, _ in encoded])
        mean_GP = self._network.decode(token_GPW, memory, mask_GC)[..., 0].double().cpu()
        return [(mean_GP[number, points], encoded[number][1]) for number, points in places]

    def _encode(self, group: Group) -> Encoded:
        context = self._context_of(group)
        if isinstance(group, str):
            known = self._released.get(group)
            if known is None or known[0] != context:  # the name may have another context by now
                known = self._released[group] = (context, self._encode_anew(context))
            return known[1]
        return self._encoded.get([context], lambda new: [self._encode_anew(new[0])])[0]

    def _encode_anew(self, context: Context) -> Encoded:
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
        return self._network.embed(self._embedder(pairs, self._network.first.weight.device))


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
