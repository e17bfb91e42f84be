"""Differential privacy of the people in a group: noise on answer counts, once, on the node.

A person adds at most one to one option's count in each question that they answered. Over at most K
questions the counts of a group, taken as one vector, so differ by at most sqrt(K) in L2 between
surveys with and without that person, and one Gaussian release of them all is (epsilon,
delta)-private for the person, over all questions together. Where a survey has shares only, their
people are a fixed number, and without a person another stands in their place: that moves two
options of a question by one, sqrt(2 K) in all. What follows, shares that are valid, training,
scores, is computed from the noised counts alone and costs nothing more.

The noise must stay the same: noised anew for each message, process or run, it would average away.
A node therefore keeps its noised answers on disk, by the very counts and settings that they came
from, and never draws twice for the same. Other settings or other answers of a group are a further
release, and the log says so.

Dimension letters: ``Q`` questions of a group, ``O`` options (padded).
"""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from safetensors.numpy import load_file

from plurallm.config.error import ConfigError
from plurallm.config.protection import RespondentPrivacy
from plurallm.data.survey import Answers, Survey
from plurallm.federate.privacy.noise import gaussian_scale, os_normal
from plurallm.record.checkpoint import save_arrays

logger = logging.getLogger("plurallm")


def protect_survey(
    survey: Survey, groups: Sequence[str], privacy: RespondentPrivacy, folder: Path
) -> Survey:
    """Replace the answers of groups by their noised ones.

    Parameters
    ----------
    survey : Survey
        As read.
    groups : sequence of str
        Groups to keep; the answers of all others are left out.
    privacy : RespondentPrivacy
        The guarantee.
    folder : Path
        Where noised answers are kept; made when missing.

    Returns
    -------
    Survey
        The same questions; answers with valid shares and no counts.

    Raises
    ------
    ConfigError
        When a group's counts are not known or not whole.
    """
    options_Q = np.array([len(question.options) for question in survey.questions])
    answers = {}
    for group in groups:
        own = survey.answers[group]
        count_QO = _counts(group, own, privacy)
        ids = [survey.questions[position].id for position in own.question_Q]
        mask_QO = np.arange(count_QO.shape[1]) < options_Q[own.question_Q][:, None]
        scale = noise_scale(len(ids), privacy, whole_counts=own.respondents_Q is not None)
        share_QO = _noised_once(group, ids, count_QO, mask_QO, scale, folder)
        answers[group] = Answers(own.question_Q, share_QO)
    return replace(survey, answers=answers)


def check_counts(survey: Survey, groups: Sequence[str], privacy: RespondentPrivacy) -> None:
    """Raise what ``protect_survey`` would for these groups; nothing is drawn."""
    for group in groups:
        _counts(group, survey.answers[group], privacy)


def noise_counts(
    count_QO: npt.NDArray[np.float64],
    mask_QO: npt.NDArray[np.bool_],
    scale: float,
    normal_QO: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Add noise to counts and bring them back to shares.

    Parameters
    ----------
    count_QO : ndarray of shape (Q, O)
        People that chose each option.
    mask_QO : ndarray of shape (Q, O), bool
        Which options exist.
    scale : float
        Standard deviation of the noise, in people.
    normal_QO : ndarray of shape (Q, O)
        Standard normal draws.

    Returns
    -------
    ndarray of shape (Q, O)
        Shares: the point of the simplex nearest to noised counts over their sum; uniform where the
        sum is not positive, for then the noise has left nothing.
    """
    noised_QO = np.where(mask_QO, count_QO + scale * normal_QO, 0)
    total_Q1 = noised_QO.sum(1, keepdims=True)
    uniform_QO = mask_QO / mask_QO.sum(1, keepdims=True)
    share_QO = np.divide(noised_QO, total_Q1, out=uniform_QO.copy(), where=total_Q1 > 0)
    return _nearest_shares(share_QO, mask_QO)


def noise_scale(questions: int, privacy: RespondentPrivacy, whole_counts: bool) -> float:
    """Give the standard deviation of the noise on each of a group's counts.

    Parameters
    ----------
    questions : int
        Of the group.
    privacy : RespondentPrivacy
        The guarantee.
    whole_counts : bool
        Whether the counts are known, and not shares of a fixed number of people.

    Returns
    -------
    float
        In people.
    """
    most = min(privacy.questions_per_respondent or questions, questions)
    squared = most if whole_counts else 2 * most
    return math.sqrt(squared) * gaussian_scale(privacy.epsilon, privacy.delta)


def _nearest_shares(
    value_QO: npt.NDArray[np.float64], mask_QO: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Euclidean projection of each row on the simplex (Duchi et al. 2008, figure 1)."""
    sorted_QO = np.sort(np.where(mask_QO, value_QO, -np.inf), axis=1)[:, ::-1]
    rank_O = np.arange(1, value_QO.shape[1] + 1)
    excess_QO = np.cumsum(np.where(np.isfinite(sorted_QO), sorted_QO, 0), axis=1) - 1
    kept_Q = np.sum(sorted_QO * rank_O > excess_QO, axis=1)
    threshold_Q = excess_QO[np.arange(len(kept_Q)), kept_Q - 1] / kept_Q
    share_QO = np.where(mask_QO, np.maximum(value_QO - threshold_Q[:, None], 0), 0)
    valid_QO: npt.NDArray[np.float64] = share_QO / share_QO.sum(1, keepdims=True)
    return valid_QO


def _counts(group: str, answers: Answers, privacy: RespondentPrivacy) -> npt.NDArray[np.float64]:
    if answers.effective_Q is not None:
        raise ConfigError(
            f"privacy=respondent does not go with weights, and the answers of group {group!r} are "
            "weighted: its noise is measured for persons who count once"
        )
    if answers.respondents_Q is None and privacy.respondents is None:
        raise ConfigError(
            f"privacy=respondent needs the number of people behind each answer, and the survey has "
            f"only shares of group {group!r}: give counts, or privacy.respondents"
        )
    if answers.respondents_Q is None:
        return answers.share_QO * float(privacy.respondents or 0)
    count_QO = answers.share_QO * answers.respondents_Q[:, None]
    if np.abs(count_QO - np.rint(count_QO)).max() > 1e-6:
        raise ConfigError(
            f"privacy=respondent needs whole counts, but those of group {group!r} are not: where "
            "people are weighted, one of them may count as more than one"
        )
    return np.rint(count_QO)


def _noised_once(
    group: str,
    ids: Sequence[str],
    count_QO: npt.NDArray[np.float64],
    mask_QO: npt.NDArray[np.bool_],
    scale: float,
    folder: Path,
) -> npt.NDArray[np.float64]:
    """Noised shares from the folder; drawn and put there the first time."""
    name = _digest(group)
    path = folder / f"{name}-{_digest([list(ids), count_QO.tolist()])}-{scale:.9g}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    # Client processes of one machine start together: only the first may draw.
    with FileLock(folder / f"{name}.lock"):
        if not path.exists():
            earlier = len(list(folder.glob(f"{name}-*.safetensors")))
            if earlier:
                logger.warning(
                    "group %s: answers of it were noised before, %d times, with other settings or "
                    "from another survey; where these are the same people, what was given away "
                    "adds up, and so do the epsilons",
                    *(group, earlier),
                )
            share_QO = noise_counts(count_QO, mask_QO, scale, os_normal(count_QO.shape))
            save_arrays(path, {"share_QO": share_QO})
        return load_file(path)["share_QO"]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
