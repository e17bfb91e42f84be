"""The trained predictor as a reward model that RLHF tools can call."""

from plurallm.data.context import AnsweredQuestion, Context, read_context, survey_context
from plurallm.reward.forecast import Forecast, Query
from plurallm.reward.model import PreferenceRewardModel
from plurallm.reward.scorer import Item, Score, Scorer

__all__ = [
    "AnsweredQuestion",
    "Context",
    "Forecast",
    "Item",
    "PreferenceRewardModel",
    "Query",
    "Score",
    "Scorer",
    "read_context",
    "survey_context",
]
