"""The trained predictor as a reward model: a self-contained bundle, and what it predicts.

Dimension letters: ``R`` distinct texts, ``D`` embedding width, ``W`` model width, ``G`` groups,
``P`` points, ``C`` points of a context, ``Q`` its questions, ``O`` options (padded), ``H`` heads,
``E`` width of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.nn.functional import pad

from plurallm.config import HashingEmbedding, ModelConfig
from plurallm.config.types import VARIANTS
from plurallm.embedding import Pair, hash_texts
from plurallm.model import Memory, PreferenceTransformer
from plurallm.reward.cache import Cache
from plurallm.reward.card import model_card
from plurallm.reward.context import Context, context_from_json
from plurallm.reward.dispersion import dispersion

Group = str | Context
"""A group that the bundle holds a context of, by name, or a context."""

Encoded = tuple[Memory, float | None]
"""A context as the network keeps it, of shape (1, H, C, E), and its dispersion."""

_TEXTS_KEPT = 65_536
_CONTEXTS_KEPT = 256


@dataclass(frozen=True)
class Query:
    """A question to predict for a group.

    Attributes
    ----------
    question : str
        Its text.
    options : tuple of str
        The answers to choose from.
    group : str or Context
        Who answers.
    """

    question: str
    options: tuple[str, ...]
    group: Group


@dataclass(frozen=True)
class Forecast:
    """Predicted answers of a group to a question.

    Attributes
    ----------
    shares : tuple of float
        Predicted share of each option; they sum to 1.
    spread : tuple of float, optional
        Uncertainty: standard deviation of each true share around the predicted one, as
        cross-validation on the group's own context estimates it (``dispersion``). None for a
        context of a single question.
    """

    shares: tuple[float, ...]
    spread: tuple[float, ...] | None


class PreferenceRewardModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="plurallm",
    license="mit",
    tags=["reward-model", "preference", "plurallm"],
):
    """A trained preference transformer with its embedder and the contexts of groups.

    ``PreferenceRewardModel.from_pretrained(FOLDER)`` loads what ``plurallm export`` wrote, or a
    repository of the Hugging Face hub with the same files; ``save_pretrained`` and
    ``push_to_hub`` write it.

    Parameters
    ----------
    model : mapping
        Sizes of the network (``conf/model``).
    embedding : mapping
        The embedder (``conf/embedding``): new texts go through the one of the training.
    embedding_width : int
        Width ``D`` of its vectors.
    precision : str
        ``"float32"`` or ``"float64"``.
    contexts : mapping of str to list, optional
        Answered questions of the groups that agreed to release them, as JSON holds them.
    provenance : mapping, optional
        Where the weights come from and how they scored; it goes into the model card.

    Raises
    ------
    ValueError
        Naming the key that is wrong.
    """

    def __init__(
        self,
        *,
        model: dict[str, Any],
        embedding: dict[str, Any],
        embedding_width: int,
        precision: str = "float32",
        contexts: dict[str, Any] | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.embedding = _embedding_config(embedding)
        self.embedding_width = embedding_width
        self.contexts = {
            group: context_from_json(answers) for group, answers in (contexts or {}).items()
        }
        self.provenance = provenance or {}
        sizes = _typed(ModelConfig, model, "model")
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision must be float32 or float64, but is {precision!r}")
        network = PreferenceTransformer(embedding_width, sizes, seed=0)
        self.network = network.to(getattr(torch, precision))
        self._tokens: Cache[Pair, Tensor] = Cache(_TEXTS_KEPT)
        self._encoded: Cache[Group, Encoded] = Cache(_CONTEXTS_KEPT)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups whose context the bundle holds."""
        return tuple(self.contexts)

    def context_of(self, group: Group) -> Context:
        """Context of a group.

        Raises
        ------
        ValueError
            For a name that the bundle does not know, or an empty context.
        """
        if not isinstance(group, str):
            if not group:
                raise ValueError("a context needs at least one answered question")
            return group
        if group not in self.contexts:
            known = ", ".join(self.contexts) or "none: give a context"
            raise ValueError(f"the bundle holds no context of group {group!r}; it has {known}")
        return self.contexts[group]

    def predict(self, question: str, options: Sequence[str], group: Group) -> Forecast:
        """Predict how a group answers one question.

        Parameters
        ----------
        question : str
            Its text.
        options : sequence of str
            The answers to choose from, at least two, all different.
        group : str or Context
            Name of a released context, or a context.

        Returns
        -------
        Forecast
            Shares in the order of the options, and their uncertainty.
        """
        return self.predict_batch([Query(question, tuple(options), group)])[0]

    def predict_batch(self, queries: Sequence[Query]) -> list[Forecast]:
        """Predict many questions for many groups in one pass.

        Parameters
        ----------
        queries : sequence of Query
            Equal ones are computed once.

        Returns
        -------
        list of Forecast
            In the order of the queries.

        Raises
        ------
        ValueError
            For an unknown group, or a question without two different options.
        """
        distinct = list(dict.fromkeys(queries))
        for query in distinct:
            if len(set(query.options)) < max(2, len(query.options)):
                raise ValueError(
                    f"question {query.question[:60]!r} needs at least two options, all different"
                )
        outputs = self._outputs(
            [[(query.question, option) for option in query.options] for query in distinct],
            [query.group for query in distinct],
        )
        forecasts = {
            query: _forecast(mean_O, self._encode(query.group)[1])
            for query, mean_O in zip(distinct, outputs, strict=True)
        }
        return [forecasts[query] for query in queries]

    def raw_means(self, pairs: Sequence[Pair], groups: Sequence[Group]) -> list[float]:
        """Unnormalised means of free texts: outside what the network was trained on.

        It was trained to compare the options of one question, by a softmax over them: a mean alone
        has no unit, and is comparable only between answers to the same question.

        Parameters
        ----------
        pairs : sequence of (str, str)
            Question or prompt, and a free answer to it.
        groups : sequence of str or Context
            For whom, one for each pair.

        Returns
        -------
        list of float
            Any real numbers.
        """
        outputs = self._outputs([[pair] for pair in pairs], groups)
        return [mean_P.item() for mean_P in outputs]

    @torch.inference_mode()
    def _outputs(self, pairs: Sequence[Sequence[Pair]], groups: Sequence[Group]) -> list[Tensor]:
        """Means (P,) of some points for each of the groups, on the CPU, in float64."""
        if not pairs:
            return []
        texts = dict.fromkeys(pair for own in pairs for pair in own)
        row_of = {pair: row for row, pair in enumerate(texts)}
        token_RW = torch.stack(self._target_tokens(list(texts)))
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
        mean_GP = self.network.decode(token_GPW, memory, mask_GC)[..., 0].double().cpu()
        return [mean_GP[number, points] for number, points in places]

    def _target_tokens(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Tokens (W,) of the texts; what was embedded before is taken from the cache."""

        def compute(missing: list[Pair]) -> list[Tensor]:
            # Copies: a view would keep the whole batch.
            return [row.clone() for row in self.network.target_tokens(self._embed(missing))]

        return self._tokens.get(pairs, compute)

    def _encode(self, group: Group) -> Encoded:
        """Encode a group's context, or take it from the cache."""

        def compute(_: list[Group]) -> list[Encoded]:
            context = self.context_of(group)
            x_CW = self._embed([(a.question, option) for a in context for option in a.options])
            share_C = x_CW.new_tensor([share for a in context for share in a.shares])
            memory = self.network.encode(x_CW.unsqueeze(0), share_C.unsqueeze(0))
            if len(context) < 2:
                return [(memory, None)]
            options_Q = torch.tensor([len(a.options) for a in context], device=x_CW.device)
            place_O = torch.arange(int(options_Q.max()), device=x_CW.device)
            mask_QO = place_O < options_Q.unsqueeze(-1)
            return [(memory, dispersion(self.network, x_CW, share_C, mask_QO))]

        return self._encoded.get([group], compute)[0]

    def _embed(self, pairs: Sequence[Pair]) -> Tensor:
        """First layer (R, W) of the texts' embeddings."""
        x_RD = torch.from_numpy(hash_texts(pairs, self.embedding))
        return self.network.embed(x_RD.to(self.network.first.weight.device))

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; what was computed with the old ones is forgotten."""
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()  # to another device or type
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        self._tokens.clear()
        self._encoded.clear()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the model card: what the bundle holds, where it comes from, how it scored."""
        return ModelCard(model_card(self._hub_mixin_info.model_card_data, self))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **kwargs: Any) -> Any:
        missing = {"model", "embedding", "embedding_width"} - set(kwargs)
        if missing:
            raise ValueError(
                f"{model_id} is not a reward bundle: its config.json lacks {', '.join(missing)}"
            )
        return super()._from_pretrained(model_id=model_id, strict=strict, **kwargs)

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, *_: Any) -> Any:
        raise ValueError(f"{model_file}: weights must be in model.safetensors")


def _typed(schema: type, values: Mapping[str, Any], name: str) -> Any:
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{name} of the bundle: {str(error).splitlines()[0]}") from error


def _embedding_config(values: Mapping[str, Any]) -> HashingEmbedding:
    variants = VARIANTS["embedding"][1]
    if values.get("name") not in variants:
        raise ValueError(f"the bundle needs the embedder {values.get('name')!r}, not known here")
    config = _typed(variants[values["name"]], values, "embedding")
    assert isinstance(config, HashingEmbedding)
    return config


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


def _forecast(mean_O: Tensor, scatter: float | None) -> Forecast:
    share_O = mean_O.softmax(-1)
    if scatter is None:
        return Forecast(tuple(share_O.tolist()), None)
    spread_O = (scatter * share_O * (1 - share_O)).sqrt()
    return Forecast(tuple(share_O.tolist()), tuple(spread_O.tolist()))
