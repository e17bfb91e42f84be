"""Predictors without a network: what a trained model has to beat."""

from plurallm.baselines.answers import (
    AnswerPool,
    answer_pool,
    mixture,
    simplex_weights,
    training_mean,
    unanswered_pairs,
)
from plurallm.baselines.neighbours import neighbours
from plurallm.baselines.plain import context_mean, uniform
from plurallm.baselines.score import ORACLES, baseline_predictors, score_baselines

__all__ = [
    "ORACLES",
    "AnswerPool",
    "answer_pool",
    "baseline_predictors",
    "context_mean",
    "mixture",
    "neighbours",
    "score_baselines",
    "simplex_weights",
    "training_mean",
    "unanswered_pairs",
    "uniform",
]
