"""Requests and replies of the server, as its OpenAPI schema shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1, max_length=10_000)]
LongText = Annotated[str, Field(max_length=100_000)]
Option = Annotated[str, Field(min_length=1, max_length=2_000)]
Options = Annotated[list[Option], Field(min_length=2, max_length=100)]
Share = Annotated[float, Field(ge=0, le=1.01, allow_inf_nan=False)]
Scale = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=100)]
MeasureName = Literal[
    "share", "jensen_shannon", "wasserstein", "cosine", "kendall", "borda", "raw_mean"
]
AggregateName = Literal["mean", "min", "max", "log_mean_exp", "adaptive"]


class Strict(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


class AnsweredQuestion(Strict):
    """A question and the shares of a group's answers, which sum to 1."""

    question: Text
    options: Options
    shares: Annotated[list[Share], Field(min_length=2, max_length=100)]


ContextAnswers = Annotated[list[AnsweredQuestion], Field(min_length=1, max_length=200)]


class Query(Strict):
    """A question to predict for a released group, or for a new one by its context."""

    question: Text
    options: Options
    group: Annotated[str, Field(max_length=200)] | None = None
    context: ContextAnswers | None = None


class PredictRequest(Strict):
    """Questions to predict; all in one pass."""

    queries: Annotated[list[Query], Field(max_length=10_000)]


class Prediction(Strict):
    """Predicted shares in the order of the options, and the standard deviation of each."""

    shares: list[float]
    spread: list[float] | None


class PredictReply(Strict):
    """One prediction for each query."""

    predictions: list[Prediction]


class Item(Strict):
    """An answer to score; without group and context, for all groups aggregated."""

    completion: LongText
    question: Text
    options: Annotated[list[Option], Field(max_length=100)] = []
    ordinal: Scale | None = None
    group: Annotated[str, Field(max_length=200)] | None = None
    context: ContextAnswers | None = None


class ScoreRequest(Strict):
    """Answers to score; measure and aggregation are the server's unless given."""

    items: Annotated[list[Item], Field(max_length=10_000)]
    measure: MeasureName | None = None
    over_groups: AggregateName | None = None


class ItemScore(Strict):
    """A reward; `in_distribution` is false for free text."""

    reward: float
    by_group: dict[str, float]
    parsed: bool
    in_distribution: bool


class ScoreReply(Strict):
    """One score for each item."""

    scores: list[ItemScore]


class RewardRequest(BaseModel):
    """OpenRLHF's request; each label is a JSON object with question, options and group."""

    query: Annotated[list[LongText], Field(max_length=10_000)]
    prompts: Annotated[list[LongText], Field(max_length=10_000)] = []
    labels: Annotated[list[LongText], Field(max_length=10_000)] = []


class RewardReply(Strict):
    """OpenRLHF's reply."""

    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]]


class ContextReply(Strict):
    """The answers that a file holds."""

    context: ContextAnswers


class ModelReply(Strict):
    """What is served."""

    groups: list[str]
    embedding: dict[str, str | int | float | bool | None]
    measure: MeasureName
    over_groups: AggregateName
    limits: dict[str, int]


class Health(Strict):
    """The server answers."""

    status: Literal["ok"]


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
