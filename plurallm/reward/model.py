"""The trained predictor as a reward model: a self-contained bundle that predicts."""

import json
import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, PyTorchModelHubMixin
from torch import nn

from plurallm.data.content import check_format
from plurallm.data.context import Context, Group, context_from_json, context_to_json, read_context
from plurallm.data.embedding.pairs import Pair, question_pairs
from plurallm.data.hub import check_hub
from plurallm.data.survey import Question
from plurallm.learn.ensemble import make_ensemble
from plurallm.learn.transformer import PreferenceTransformer
from plurallm.reward.bundle import check_keys, check_place, embedding_config, model_config, reading
from plurallm.reward.card import model_card
from plurallm.reward.embedder import Embedder
from plurallm.reward.forecast import Forecast, Query, make_forecast, option_texts
from plurallm.reward.mixture import ExpertReadout
from plurallm.reward.readout import Readout

logger = logging.getLogger("plurallm")


class PreferenceRewardModel(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="plurallm",
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
        Where the weights come from, how they scored and under which licence; it goes into the
        model card.
    experts : sequence of str, optional
        Groups whose fine-tuned networks predict, mixed to fit a context: see
        ``plurallm.evaluate.experts``. Without them the one network does.
    probe : mapping, optional
        ``text`` and ``vector``: what tells whether the embedder is still the one of the training.
    non_answers : str
        What the training did with options that are no answers, ``"drop"`` or ``"keep"`` (as 0.1.0
        did): contexts are read alike.
    content : mapping, optional
        Fingerprint of the survey and of the embedder behind the weights, with the format of the
        bundle and the version of the program that made it; see ``plurallm.data.content``.

    Attributes
    ----------
    contexts : dict of str to Context
        What ``save_pretrained`` will write: add a group's context, or delete it.

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
        experts: Sequence[str] = (),
        probe: dict[str, Any] | None = None,
        content: dict[str, Any] | None = None,
        non_answers: str = "keep",
    ) -> None:
        super().__init__()
        self.sizes = model_config(model)
        self.embedding = embedding_config(embedding)
        self.embedding_width = embedding_width
        self.contexts = {
            group: context_from_json(answers) for group, answers in (contexts or {}).items()
        }
        self.provenance = provenance or {}
        if non_answers not in ("drop", "keep"):
            raise ValueError(f"non_answers must be drop or keep, but is {non_answers!r}")
        self.non_answers = non_answers
        self.probe, self.content = probe, content
        embed = Embedder(self.embedding, embedding_width, probe)
        self.precision = precision
        if precision not in ("float32", "float64"):
            raise ValueError(f"precision must be float32 or float64, but is {precision!r}")
        network = PreferenceTransformer(embedding_width, self.sizes, seed=0)
        network_type = getattr(torch, precision)
        self.network = network.to(network_type)
        self.expert_groups = tuple(experts)
        self.experts: PreferenceTransformer | None = None
        self._mixture: ExpertReadout | None = None
        if self.expert_groups:
            rows = len(self.expert_groups)
            named = self.network.named_parameters()
            # All experts as one network: what is asked goes through them in one pass.
            self.experts = make_ensemble(
                self.network, {name: own.new_zeros(rows, *own.shape) for name, own in named}
            )
            self._mixture = ExpertReadout(
                self.experts, self.expert_groups, embed, self.pairs_of, self.context_of
            )
        self._readout = Readout(self.network, embed, self.pairs_of, self.context_of)

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

    def read_context(self, path: str | Path) -> Context:
        """Read one group's answers from a file, as the training read its own.

        Parameters
        ----------
        path : str or Path
            As for ``plurallm.reward.read_context``.

        Raises
        ------
        SurveyError, ValueError
            As ``plurallm.reward.read_context``.
        """
        return read_context(path, self.non_answers)

    def pairs_of(self, question: str, options: Sequence[str]) -> list[Pair]:
        """Texts that are embedded for a question, one for each option.

        Raises
        ------
        ValueError
            For a question without a text or without two different options, or with more of them
            than the embedder can list.
        """
        return question_pairs(
            Question(question[:60], question, option_texts(options)), self.embedding
        )

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
        return self.predict_batch([Query(question, option_texts(options), group)])[0]

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
        if self._mixture is not None:
            found = dict(zip(distinct, self._mixture.forecasts(distinct), strict=True))
            return [found[query] for query in queries]
        means = self._readout.means(
            [self.pairs_of(query.question, query.options) for query in distinct],
            [query.group for query in distinct],
        )
        forecasts = {
            query: make_forecast(mean_O, dispersion)
            for query, (mean_O, dispersion) in zip(distinct, means, strict=True)
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
        if self._mixture is not None:
            return self._mixture.raw_means(pairs, groups)
        means = self._readout.means([[pair] for pair in pairs], groups)
        return [mean_P.item() for mean_P, _ in means]

    @property
    def texts_embedded(self) -> tuple[int, int]:
        """How many texts were found in the cache, and how many had to be embedded."""
        tokens = (self._mixture or self._readout).tokens
        return tokens.hits, tokens.misses

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load weights; what was computed with the old ones is forgotten."""
        self._forget()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()  # to another device or type
        return super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _forget(self) -> None:
        self._readout.clear()
        if self._mixture is not None:
            self._mixture.clear()

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the model card: what the bundle holds, where it comes from, how it scored."""
        return ModelCard(model_card(self._hub_mixin_info.model_card_data, self))

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        # The mixin would write what the model was made with, whose contexts may be withdrawn now.
        config = {
            "model": asdict(self.sizes),
            "embedding": asdict(self.embedding),
            "embedding_width": self.embedding_width,
            "precision": self.precision,
            "contexts": {group: context_to_json(own) for group, own in self.contexts.items()},
            "provenance": self.provenance,
            "experts": list(self.expert_groups),
            "probe": self.probe,
            "content": self.content,
            "non_answers": self.non_answers,
        }
        text = json.dumps(config, sort_keys=True, indent=2)
        (save_directory / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a bundle from a folder, or from a repository of the Hugging Face hub.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            Folder, or ``owner/name`` of a repository.
        **kwargs
            Of ``huggingface_hub.ModelHubMixin.from_pretrained``: ``revision``, ``token``, ...; and
            parameters of the class, which replace those of the bundle: ``embedding`` for an
            embedder that lies elsewhere now.

        Returns
        -------
        PreferenceRewardModel
            Ready to predict, on the CPU.

        Raises
        ------
        OSError
            Naming the bundle, when a file is missing, or the hub out of reach.
        ValueError
            Naming it, when it is not a reward bundle or damaged.
        """
        check_place(pretrained_model_name_or_path)
        name = str(pretrained_model_name_or_path)
        if not Path(name).is_dir():
            try:
                check_hub()
            except OSError as error:
                logger.warning("the Hugging Face hub does not answer (%s)", error)
                kwargs = {"local_files_only": True} | kwargs
        # The hub's mixin prints where it loads from; what a command prints is for programs.
        with reading(name), redirect_stdout(sys.stderr):
            model: Self = super().from_pretrained(name, **kwargs)
            check_format(model.content, name)
        return model

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **kwargs: Any) -> Any:
        check_keys(kwargs)
        return super()._from_pretrained(model_id=model_id, strict=strict, **kwargs)

    @classmethod
    def _load_as_pickle(cls, model: Any, model_file: str, *_: Any) -> Any:
        raise ValueError(f"{model_file}: weights must be in model.safetensors")
