"""The server's endpoints."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse

from plurallm import __version__
from plurallm.config.services import LIMITS, ServeConfig
from plurallm.data.context import context_to_json
from plurallm.reward import PreferenceRewardModel, Scorer
from plurallm.reward.agreement import RAW_MEAN
from plurallm.reward.http import openapi as schema
from plurallm.reward.http.batching import Batcher, Work
from plurallm.reward.http.metrics import Metrics
from plurallm.reward.http.request import Limits, reason_of, refusing, to_items, to_queries
from plurallm.reward.http.request_limits import Guard, in_url
from plurallm.reward.http.trial_page import page
from plurallm.reward.openrlhf import read_items, write_reply

logger = logging.getLogger("plurallm")

_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": schema.Problem, "description": text}
    for code, text in (
        (400, "Not readable, or meant for another host."),
        (401, "A token is needed."),
        (408, "The body came too slowly."),
        (413, "The body is too large."),
        (422, "Not a request that can be answered; `detail` says why."),
        (503, "Too many requests at once."),
    )
}


class RewardService:
    """Scorers by measure and aggregation, one batcher, and the endpoints over them."""

    def __init__(self, model: PreferenceRewardModel, config: ServeConfig) -> None:
        self.model = model
        self.config = config
        self.metrics = Metrics()
        self.batcher = Batcher(config.max_items, self.metrics)
        self.limits = Limits(
            config.max_items, config.max_options, config.max_contexts, config.max_context_options
        )
        self._scorers: dict[tuple[str, str], Scorer] = {}
        self.scorer(None, None)  # a wrong name fails here, not at the first request

    def scorer(self, measure: str | None, over_groups: str | None) -> Scorer:
        """Scorer of a measure and an aggregation; the history of ``adaptive`` lives in it."""
        key = (measure or self.config.measure, over_groups or self.config.over_groups)
        if key not in self._scorers:
            config = self.config
            self._scorers[key] = Scorer(
                self.model, *key, alpha=config.alpha, unparsable=config.unparsable
            )
        return self._scorers[key]

    async def predict(self, request: schema.PredictRequest) -> schema.PredictReply:
        """Predict how groups answer questions."""
        with refusing():
            queries = to_queries(request.queries, self.model, self.limits)
        forecasts = await self._compute("predict", self.model.predict_batch, queries)
        return schema.PredictReply(
            predictions=[
                schema.Prediction(shares=list(f.shares), spread=f.spread and list(f.spread))
                for f in forecasts
            ]
        )

    async def score(self, request: schema.ScoreRequest) -> schema.ScoreReply:
        """Reward what a policy wrote: an option, a distribution, a ranking or a free text."""
        scorer = self.scorer(request.measure, request.over_groups)
        with refusing():
            items = to_items(request.items, scorer, self.limits)
        scores = await self._compute(scorer, scorer.score, items)
        in_distribution = scorer.measure != RAW_MEAN
        return schema.ScoreReply(
            scores=[
                schema.ItemScore(**vars(score), in_distribution=in_distribution) for score in scores
            ]
        )

    async def get_reward(self, request: schema.RewardRequest) -> schema.RewardReply:
        """Answer OpenRLHF's remote reward model protocol, with the server's measure."""
        scorer = self.scorer(None, None)
        with refusing():
            items = read_items(request.query, request.prompts, request.labels)
            self.limits.check(items, len(scorer.groups))
            for item in items:
                scorer.check(item)
        scores = await self._compute(scorer, scorer.score, items)
        return schema.RewardReply(**write_reply(scores))

    async def context(
        self, text: Annotated[str, Body(media_type="text/csv")]
    ) -> schema.ContextReply:
        """Read a new group's answers from a survey file in CSV, for requests to bring along."""
        with refusing():
            answers = await asyncio.to_thread(_context_of_text, text, self.model)
            self.limits.check_contexts([answers])
            return schema.ContextReply.model_validate({"context": context_to_json(answers)})

    async def describe(self) -> schema.ModelReply:
        """What is served: groups, embedder, default reward, limits."""
        return schema.ModelReply(
            groups=list(self.model.groups),
            embedding=vars(self.model.embedding),
            measure=self.config.measure,  # type: ignore[arg-type]
            over_groups=self.config.over_groups,  # type: ignore[arg-type]
            limits={key: getattr(self.config, key) for key in LIMITS},
        )

    async def health(self) -> schema.Health:
        """Tell that the server answers; needs no token."""
        return schema.Health(status="ok")

    async def counters(self) -> PlainTextResponse:
        """Counters in Prometheus' text format."""
        found, embedded = self.model.texts_embedded
        text = self.metrics.text({"texts_found": found, "texts_embedded": embedded})
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _compute(self, key: Hashable, work: Work, inputs: Sequence[Any]) -> Sequence[Any]:
        try:
            return await self.batcher.run(key, work, inputs)
        except ValueError as error:
            # The request's fault or ours: the checks should have found it.
            logger.warning("a request passed the checks, but cannot be computed", exc_info=error)
            raise HTTPException(422, reason_of(error)) from error

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        """Run the batcher as long as the application runs."""
        worker = asyncio.create_task(self.batcher.serve())
        try:
            yield
        finally:
            worker.cancel()
            self.batcher.close()


def make_app(model: PreferenceRewardModel, config: ServeConfig, token: str | None) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    model : PreferenceRewardModel
        What is served.
    config : ServeConfig
        Default reward and limits.
    token : str or None
        What clients must send.

    Returns
    -------
    FastAPI
        With its OpenAPI schema at ``/openapi.json``.
    """
    service = RewardService(model, config)
    app = FastAPI(
        title="PluralLLM reward model",
        version=__version__,
        lifespan=service.lifespan,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        exception_handlers={RequestValidationError: _refuse_invalid},
        responses=_REFUSALS,
    )
    app.post("/get_reward")(service.get_reward)
    app.post("/v1/predict")(service.predict)
    app.post("/v1/score")(service.score)
    app.post("/v1/context")(service.context)
    app.get("/v1/model")(service.describe)
    app.get("/health")(service.health)
    app.get("/metrics", response_class=PlainTextResponse)(service.counters)
    for path, name in (("/", "try"), ("/docs", "docs")):
        app.get(path, include_in_schema=False)(_answer_page(name))
    # A web page elsewhere must not reach a server on loopback under a name of its own.
    only_here = token is None and not config.allow_insecure
    app.add_middleware(
        Guard,
        paths=[str(getattr(route, "path", "")) for route in app.routes],
        metrics=service.metrics,
        token=token,
        hosts=["localhost", "127.0.0.1", "[::1]", in_url(config.host)] if only_here else None,
        max_body_bytes=config.max_body_bytes,
        max_concurrency=config.max_concurrency,
        body_timeout=config.body_timeout,
    )
    return app


def _answer_page(name: str) -> Callable[[], Awaitable[HTMLResponse]]:
    html, policy = page(name)

    async def answer() -> HTMLResponse:
        return HTMLResponse(html, headers={"content-security-policy": policy})

    return answer


def _context_of_text(text: str, model: PreferenceRewardModel) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "answers.csv")
        path.write_text(text, encoding="utf-8", newline="")
        try:
            return model.read_context(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "the file")) from error


async def _refuse_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": reason_of(error)}, 422)
