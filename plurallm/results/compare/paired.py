"""Scores of a finished arm question by question: what comparisons pair and examples show.

Dimension letters: ``N`` (group, question, draw) pairs, ``Q`` questions, ``O`` options (padded).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import pad

from plurallm.evaluate.scores import Predictor, predict_draws
from plurallm.study import Study


@dataclass(frozen=True)
class Pairs:
    """Scores of one arm and seed.

    Attributes
    ----------
    group_N : ndarray of shape (N,), text
        The group.
    question_N : ndarray of shape (N,), int64
        Position of the question in the survey.
    draw_N : ndarray of shape (N,), int64
        Which context was drawn.
    seen_N : ndarray of shape (N,), bool
        Whether it is a seen question.
    distance_N : ndarray of shape (N,), float64
        Distance of the prediction, in [0, 1].
    share_NO : ndarray of shape (N, O), float32
        Predicted shares.
    """

    group_N: npt.NDArray[np.str_]
    question_N: npt.NDArray[np.int64]
    draw_N: npt.NDArray[np.int64]
    seen_N: npt.NDArray[np.bool_]
    distance_N: npt.NDArray[np.float64]
    share_NO: npt.NDArray[np.float32]


def write_pairs(path: Path, predictors: Mapping[str, Predictor], study: Study) -> None:
    """Score predictors question by question; the file is there whole or not at all."""
    columns: dict[str, list[Any]] = {field.name: [] for field in fields(Pairs)}
    for group, predict in predictors.items():
        for draw, scored in enumerate(predict_draws(study.tasks[group], predict, study.config)):
            count = len(scored.target)
            columns["group_N"].append(np.full(count, group))
            columns["question_N"].append(scored.target.question_Q.numpy())
            columns["draw_N"].append(np.full(count, draw))
            columns["seen_N"].append(np.arange(count) < scored.seen_questions)
            columns["distance_N"].append(scored.distance_Q.numpy())
            columns["share_NO"].append(scored.share_QO)
    widest = max(share_QO.shape[1] for share_QO in columns["share_NO"])
    padded = [pad(share_QO, (0, widest - share_QO.shape[1])) for share_QO in columns["share_NO"]]
    columns["share_NO"] = [torch.cat(padded).float().numpy()]
    part = path.with_name("part.npz")
    arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    np.savez_compressed(part, **arrays)
    os.replace(part, path)


def read_pairs(path: Path, places: Sequence[int] | None = None) -> Pairs:
    """Read what ``write_pairs`` wrote; `places`: where its questions stand now, if elsewhere."""
    with np.load(path, allow_pickle=False) as file:
        pairs = Pairs(**{field.name: file[field.name] for field in fields(Pairs)})
    if places is None:
        return pairs
    return replace(pairs, question_N=np.array(places, np.int64)[pairs.question_N])
