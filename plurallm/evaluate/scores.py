"""How well a group's answers are predicted: scores of groups, fairness over them, the four cells.

The alignment score of a group is the mean over its questions of 1 - distance. Which one,
``data.distance`` says. With the Jensen-Shannon distance in base 2, the default, it lies in [0, 1];
in base e, as PluralLLM and GPO report it, in [1 - sqrt(ln 2), 1] = [0.167, 1]. With the Wasserstein
distance on ordinal values, divided by their range, it lies in [0, 1] and has no base.

Dimension letters: ``R`` rows of the table, ``D`` embedding width, ``W`` model width, ``Q``
questions, ``O`` options, ``K`` contexts drawn, ``G`` groups.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plurallm.config.randomness import generator
from plurallm.config.schema import Config
from plurallm.data.preferences import Preferences, make_episode, split_context
from plurallm.data.tasks import GroupTask
from plurallm.learn.divergence import SQRT_LN2, jensen_shannon_distance, wasserstein_distance
from plurallm.learn.transformer import PreferenceTransformer, gather_questions, predict_episode

Predictor = Callable[[Preferences, Preferences], Tensor]
"""From context and targets to predicted shares of shape (Q, O) of the targets."""

ROLES = {"train": "train_groups", "held_out": "held_out_groups"}
"""Names of the cells' rows by role."""


@dataclass(frozen=True)
class GroupScore:
    """One group's scores.

    Attributes
    ----------
    seen_distance : tuple of float, length K
        Mean distance (Jensen-Shannon in base 2, or Wasserstein) over the seen questions that are
        not context, for each context drawn; in [0, 1].
    unseen_distance : tuple of float, length K
        The same over the unseen questions; empty when the group has none.
    seen_questions, unseen_questions : int
        How many questions each mean is over.
    novel_distance : tuple of float, length K
        As `unseen_distance`, over the unseen questions that have no near copy among the seen ones;
        empty where there are none, or where that is not known.
    novel_questions : int
        How many these are.
    """

    seen_distance: tuple[float, ...]
    unseen_distance: tuple[float, ...]
    seen_questions: int
    unseen_questions: int
    novel_distance: tuple[float, ...] = ()
    novel_questions: int = 0


@dataclass(frozen=True)
class ScoredDraw:
    """A predictor's answers to one group's targets, for one context drawn.

    Attributes
    ----------
    target : Preferences
        The seen questions that are not context, then the unseen ones, with their true shares.
    seen_questions : int
        How many of the targets are seen questions.
    share_QO : Tensor of shape (Q, O), float64
        Predicted shares.
    distance_Q : Tensor of shape (Q,), float64
        Distance of each, Jensen-Shannon in base 2 or Wasserstein, in [0, 1].
    """

    target: Preferences
    seen_questions: int
    share_QO: Tensor
    distance_Q: Tensor


def predict_draws(task: GroupTask, predict: Predictor, config: Config) -> Iterator[ScoredDraw]:
    """Let a predictor answer a group's targets, for each of ``evaluation.draws`` fixed contexts.

    Parameters
    ----------
    task : GroupTask
        The group. Contexts are drawn from its seen questions; they depend on the seed and the
        group's name only.
    predict : Predictor
        It sees the targets' questions; their shares are hidden.
    config : Config
        The run's configuration.

    Yields
    ------
    ScoredDraw
        One for each context.

    Raises
    ------
    ValueError
        When a prediction is not a number, naming the group.
    """
    for draw in range(config.evaluation.draws):
        draws = generator(config.seed, "evaluation", task.name, draw)
        context, rest = split_context(task.seen, config.evaluation.context_questions, draws)
        target = rest.join(task.unseen)
        share_QO = predict(context, target.without_shares()).double().cpu()
        distance_Q = _distance(target, share_QO, config.data.distance)
        if not torch.isfinite(distance_Q).all():
            raise ValueError(f"group {task.name!r}: the prediction is not a number")
        yield ScoredDraw(target, len(rest), share_QO, distance_Q)


def score_group(task: GroupTask, predict: Predictor, config: Config) -> GroupScore:
    """Score a predictor on one group: the means of ``predict_draws``.

    Parameters
    ----------
    task : GroupTask
        The group.
    predict : Predictor
        What is scored.
    config : Config
        The run's configuration.

    Returns
    -------
    GroupScore
        Scores.

    Raises
    ------
    ValueError
        When a prediction is not a number, naming the group.
    """
    seen, unseen, novel = [], [], []
    novel_Q = task.novel_Q
    for draw in predict_draws(task, predict, config):
        seen.append(draw.distance_Q[: draw.seen_questions].mean().item())
        if len(task.unseen):
            unseen.append(draw.distance_Q[draw.seen_questions :].mean().item())
        if novel_Q is not None and novel_Q.any():
            novel.append(draw.distance_Q[draw.seen_questions :][novel_Q].mean().item())
    counts = (draw.seen_questions, len(task.unseen))
    return GroupScore(
        *(tuple(seen), tuple(unseen), *counts),
        tuple(novel),
        0 if novel_Q is None else int(novel_Q.sum()),
    )


def model_predictor(model: PreferenceTransformer, table_RD: Tensor) -> Predictor:
    """Make a predictor of a model as it is: one pass over all targets of a group.

    Parameters
    ----------
    model : PreferenceTransformer
        The model, on the table's device.
    table_RD : Tensor of shape (R, D)
        Embeddings. The part of the network that does not depend on answers is computed here, once
        for each (question, option), whatever the number of groups that are predicted.

    Returns
    -------
    Predictor
        Without gradients; valid until the model changes.
    """
    with torch.inference_mode():
        embedded_RW = model.embed(table_RD)
        token_RW = model.target_tokens(embedded_RW)

    def predict(context: Preferences, target: Preferences) -> Tensor:
        episode = make_episode(context, target).to(embedded_RW.device)
        with torch.inference_mode():
            output_P2 = predict_episode(
                model,
                embedded_RW[episode.context_row_P],
                episode.context_share_P,
                token_RW[episode.target_row_P],
            )
            shares_QO = gather_questions(output_P2, episode.point_QO, episode.mask_QO).shares_QO
        widest = target.mask_QO.shape[-1]
        return torch.nn.functional.pad(shares_QO, (0, widest - shares_QO.shape[-1]))

    return predict


def with_context_of(task: GroupTask, predict: Predictor) -> Predictor:
    """Show a predictor a task's answers to the questions of any context.

    Parameters
    ----------
    task : GroupTask
        Answers to show, for example noised ones; its seen questions hold every context's.
    predict : Predictor
        What predicts.

    Returns
    -------
    Predictor
        `predict` itself where a context is drawn from the task.
    """

    def shown(context: Preferences, target: Preferences) -> Tensor:
        row_Q = torch.searchsorted(task.seen.question_Q, context.question_Q)
        return predict(replace(context, share_QO=task.seen.share_QO[row_Q]), target)

    return shown


def fairness(scores_G: Sequence[float]) -> dict[str, float]:
    """Fairness over groups.

    Parameters
    ----------
    scores_G : sequence of float
        Alignment score of each group, at least one.

    Returns
    -------
    dict
        ``worst``: lowest score; ``gap``: highest - lowest; ``cov``: coefficient of variation,
        population standard deviation / mean; ``fi``: fairness index 1 / (1 + cov^2), equal to
        Jain's index, which saturates near 1 (arXiv 2512.08786).

    Raises
    ------
    ValueError
        When every score is 0.

    Examples
    --------
    >>> fairness([0.6, 0.8])["worst"]
    0.6
    """
    scores = np.asarray(scores_G, dtype=np.float64)
    if not scores.mean() > 0:
        raise ValueError("fairness is undefined where every alignment score is 0")
    cov = float(scores.std() / scores.mean())
    return {
        "worst": float(scores.min()),
        "gap": float(scores.max() - scores.min()),
        "cov": cov,
        "fi": 1 / (1 + cov**2),
    }


def summarize(
    scores: Mapping[str, GroupScore], roles: Mapping[str, str], distance: str
) -> dict[str, dict[str, Any]]:
    """Bring the groups' scores into the four cells and a table of groups.

    Parameters
    ----------
    scores : mapping of str to GroupScore
        By group.
    roles : mapping of str to str
        ``"train"`` or ``"held_out"`` by group.
    distance : str
        ``data.distance``: what the scores are made of.

    Returns
    -------
    dict
        ``cells``: by ``"train_groups.seen_questions"`` and so on, with ``alignment`` (macro: mean
        over groups, base 2), ``alignment_e``, ``micro`` and ``micro_e`` (mean over all
        group-question pairs), ``worst``, ``gap``, ``cov``, ``fi``, ``groups``, ``questions`` and,
        with several contexts, ``spread`` (standard deviation of ``alignment`` over them). A cell
        without questions is left out. ``groups``: role and scores by group. Only the
        Jensen-Shannon distance has the scores in base e. ``novel_cells``: those of unseen questions
        without the ones that have a near copy among the seen; only where there are such copies.
    """
    cells: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {name: {"role": roles[name]} for name in sorted(scores)}
    for role, row in ROLES.items():
        members = [name for name in groups if roles[name] == role]
        for column in ("seen", "unseen"):
            scored = {
                name: (getattr(scores[name], f"{column}_distance"), count)
                for name in members
                if (count := getattr(scores[name], f"{column}_questions"))
            }
            if scored:
                cells[f"{row}.{column}_questions"] = _cell(scored, distance)
            for name, (distance_K, count) in scored.items():
                groups[name][f"{column}_questions"] = {
                    **_alignment("alignment", float(np.mean(distance_K)), distance),
                    "questions": count,
                }
    return {"cells": cells, "groups": groups} | _novel_cells(scores, roles, distance)


def _novel_cells(
    scores: Mapping[str, GroupScore], roles: Mapping[str, str], distance: str
) -> dict[str, Any]:
    known = {name: own for name, own in sorted(scores.items()) if own.novel_distance}
    if all(own.novel_questions == own.unseen_questions for own in known.values()):
        return {}
    cells = {}
    for role, row in ROLES.items():
        scored = {
            name: (own.novel_distance, own.novel_questions)
            for name, own in known.items()
            if roles[name] == role
        }
        if scored:
            cells[f"{row}.unseen_questions"] = _cell(scored, distance)
    return {"novel_cells": cells}


def _cell(scored: Mapping[str, tuple[Sequence[float], int]], distance: str) -> dict[str, Any]:
    distance_GK = np.array([distance_K for distance_K, _ in scored.values()])
    count_G = np.array([count for _, count in scored.values()])
    distance_G = distance_GK.mean(1)
    cell = {
        **_alignment("alignment", float(distance_G.mean()), distance),
        **fairness(1 - distance_G),
        **_alignment("micro", float(np.average(distance_G, weights=count_G)), distance),
        "groups": len(scored),
        "questions": int(count_G.sum()),
    }
    if distance_GK.shape[1] > 1:
        cell["spread"] = float(distance_GK.mean(0).std(ddof=1))
    return cell


def _alignment(name: str, value: float, distance: str) -> dict[str, float]:
    """Scores of a mean distance: in base 2 and base e where the distance has a base."""
    scores = {name: 1 - value}
    if distance == "jensen_shannon":
        scores[f"{name}_e"] = 1 - value * SQRT_LN2
    return scores


def _distance(target: Preferences, share_QO: Tensor, distance: str) -> Tensor:
    if distance == "wasserstein":
        return wasserstein_distance(target.share_QO.double(), share_QO, target.position_QO)
    return jensen_shannon_distance(target.share_QO.double(), share_QO)
