"""Experts that answer together: a context fits their weights once, then they predict in turn.

Dimension letters: ``M`` experts, ``D`` embedding width, ``C`` points of a context, ``Q`` questions,
``O`` options (padded), ``P`` points that are asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plurallm.data.context import Context, Group
from plurallm.data.embedding.pairs import Pair
from plurallm.learn.ensemble import decode_members, members, take_member
from plurallm.learn.mixing import Mixing, fit_mixing, folds, mix
from plurallm.learn.transformer import Memory, PreferenceTransformer
from plurallm.reward.cache import Cache
from plurallm.reward.forecast import Forecast, Query

_TEXTS_KEPT = 16_384

_ENCODED_KEPT = 256
"""Contexts that are kept, times experts: one of 90 options takes half a megabyte of each."""


@dataclass(frozen=True)
class _Fitted:
    """What a context becomes: whose networks predict, their encodings, and their weights."""

    ensemble: PreferenceTransformer
    memory: Memory
    mixing: Mixing
    answers: dict[tuple[str, tuple[str, ...]], tuple[float, ...]]


class ExpertReadout:
    """Reads predictions out of experts for groups.

    Parameters
    ----------
    experts : PreferenceTransformer
        The networks as an ensemble; call ``clear`` when their weights change.
    owners : sequence of str
        The group of each: asked for by name, it is predicted by its own expert alone.
    embed : callable
        From texts and a device to their embeddings (R, D) there, see ``Embedder``.
    pairs_of : callable
        From a question and its options to the texts that are embedded.
    context_of : callable
        From a group to its context.
    """

    def __init__(
        self,
        experts: PreferenceTransformer,
        owners: Sequence[str],
        embed: Callable[[Sequence[Pair], torch.device], Tensor],
        pairs_of: Callable[[str, Sequence[str]], list[Pair]],
        context_of: Callable[[Group], Context],
    ) -> None:
        self._experts = experts
        self._owners = tuple(owners)
        self._embedder = embed
        self._pairs_of = pairs_of
        self._context_of = context_of
        self.tokens: Cache[Pair, Tensor] = Cache(_TEXTS_KEPT)
        self._fitted: Cache[tuple[Context, str | None], _Fitted] = Cache(
            max(_ENCODED_KEPT // len(owners), 1)
        )

    def clear(self) -> None:
        """Forget all that was computed."""
        self.tokens.clear()
        self._fitted.clear()

    @torch.inference_mode()
    def forecasts(self, queries: Sequence[Query]) -> list[Forecast]:
        """Predict questions for groups.

        Parameters
        ----------
        queries : sequence of Query
            All different.

        Returns
        -------
        list of Forecast
            In the order of the queries. A question that the group's context holds is answered by
            it, without a spread of its own: the answer is known.
        """
        pairs = [self._pairs_of(query.question, query.options) for query in queries]
        found: dict[int, Forecast] = {}
        for fitted, mean_MP, places in self._passes(pairs, [query.group for query in queries]):
            for number, points in places:
                query = queries[number]
                known = fitted.answers.get((query.question, query.options))
                if known is not None:
                    found[number] = Forecast(known, (0.0,) * len(known))
                    continue
                share_MO = mean_MP[:, points].softmax(-1)
                mask_1O = torch.ones(1, share_MO.shape[1], dtype=torch.bool)
                share_1O, spread_1O = mix(fitted.mixing, share_MO.unsqueeze(1), mask_1O)
                found[number] = Forecast(tuple(share_1O[0].tolist()), tuple(spread_1O[0].tolist()))
        return [found[number] for number in range(len(queries))]

    @torch.inference_mode()
    def raw_means(self, pairs: Sequence[Pair], groups: Sequence[Group]) -> list[float]:
        """Unnormalised means of free texts: the experts', mixed by the group's weights."""
        found: dict[int, float] = {}
        for fitted, mean_MP, places in self._passes([[pair] for pair in pairs], groups):
            centre_P = mean_MP.mean(0)
            mixed_P = centre_P + fitted.mixing.weight_M @ (mean_MP - centre_P)
            found |= {number: mixed_P[points].item() for number, points in places}
        return [found[number] for number in range(len(pairs))]

    def _passes(
        self, pairs: Sequence[Sequence[Pair]], groups: Sequence[Group]
    ) -> Iterator[tuple[_Fitted, Tensor, list[tuple[int, slice]]]]:
        """For each group: its context, and every expert's means of all that is asked for it."""
        by_group: dict[Group, list[int]] = {}
        for number, group in enumerate(groups):
            by_group.setdefault(group, []).append(number)
        for group, numbers in by_group.items():
            context = self._context_of(group)
            owner = group if isinstance(group, str) and group in self._owners else None
            (fitted,) = self._fitted.get(
                [(context, owner)], lambda new: [self._fit(*own) for own in new]
            )
            places, start = [], 0
            for number in numbers:
                places.append((number, slice(start, start + len(pairs[number]))))
                start += len(pairs[number])
            x_PD = self._embed([pair for number in numbers for pair in pairs[number]])
            mean_MP = _decode(fitted.ensemble, x_PD, fitted.memory)
            yield fitted, mean_MP, places

    def _fit(self, context: Context, owner: str | None) -> _Fitted:
        ensemble = self._experts
        if owner is not None:
            ensemble = take_member(ensemble, self._owners.index(owner))
        x_CD = self._embed(
            [pair for a in context for pair in self._pairs_of(a.question, a.options)]
        )
        share_C = x_CD.new_tensor([share for a in context for share in a.shares])
        count_Q = torch.tensor([len(a.options) for a in context])
        mask_QO = torch.arange(int(count_Q.max())) < count_Q.unsqueeze(-1)
        question_C = torch.arange(len(context)).repeat_interleave(count_Q)
        predicted_MQO = torch.zeros(members(ensemble), *mask_QO.shape, dtype=torch.float64)
        true_QO = torch.zeros(mask_QO.shape, dtype=torch.float64)
        true_QO[mask_QO] = share_C.double().cpu()
        for asked_Q, shown_Q in folds(len(context)) if len(context) > 1 else []:
            asked_C, shown_C = (torch.isin(question_C, part) for part in (asked_Q, shown_Q))
            mean_MC = torch.full((len(predicted_MQO), len(share_C)), float("-inf")).double()
            memory = _encode(ensemble, x_CD[shown_C], share_C[shown_C])
            mean_MC[:, asked_C] = _decode(ensemble, x_CD[asked_C], memory)
            mean_MQO = torch.full_like(predicted_MQO, float("-inf"))
            mean_MQO[:, mask_QO] = mean_MC
            predicted_MQO[:, asked_Q] = mean_MQO[:, asked_Q].softmax(-1)
        known = len(context) if len(context) > 1 else 0
        return _Fitted(
            ensemble,
            _encode(ensemble, x_CD, share_C),
            fit_mixing(predicted_MQO[:, :known], true_QO[:known], mask_QO[:known]),
            {(a.question, a.options): a.shares for a in context},
        )

    def _embed(self, pairs: Sequence[Pair]) -> Tensor:
        device = self._experts.first.weight.device
        distinct = list(dict.fromkeys(pairs))

        def compute(new: list[Pair]) -> list[Tensor]:
            return [row.clone() for row in self._embedder(new, device)]

        found = dict(zip(distinct, self.tokens.get(distinct, compute), strict=True))
        return torch.stack([found[pair] for pair in pairs])


def _encode(ensemble: PreferenceTransformer, x_CD: Tensor, share_C: Tensor) -> Memory:
    count = members(ensemble)
    x_MCW = ensemble.embed(x_CD.expand(count, -1, -1))
    return ensemble.encode(x_MCW, share_C.to(x_MCW.dtype).expand(count, -1))


def _decode(ensemble: PreferenceTransformer, x_PD: Tensor, memory: Memory) -> Tensor:
    x_MPD = x_PD.expand(members(ensemble), -1, -1)
    token_MPW = ensemble.target_tokens(ensemble.embed(x_MPD))
    return decode_members(ensemble, token_MPW, memory)[..., 0].double().cpu()
