"""Replies of nodes, checked and taken apart by group.

A node replies with its groups' weights stacked ``[G, ...]`` in one ArrayRecord, one MetricRecord
of fixed keys with a list entry per group, and the groups' names in a ConfigRecord.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from plurallm.checkpoint import Arrays
from plurallm.evaluation import GroupScore
from plurallm.records import read_array

Shapes = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape and type of every weight by name."""


@dataclass(frozen=True)
class Update:
    """One group's update.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Its weights after local training, all finite.
    examples : float
        Its number of training questions, positive.
    loss : float
        Its mean training loss.
    distance : float, optional
        Its mean base 2 Jensen-Shannon distance at the weights it received, before it trained, in
        [0, 1]; None where the strategy does not ask for it.
    """

    arrays: Arrays
    examples: float
    loss: float
    distance: float | None = None


def answers(
    replies: Iterable[Message], asked: Mapping[int, Sequence[str]]
) -> Iterator[tuple[Sequence[str], RecordDict | str]]:
    """Pair the groups that were asked for with the content of their node's reply.

    Parameters
    ----------
    replies : iterable of Message
        As they arrive.
    asked : mapping of int to sequence of str
        Groups asked for, by node.

    Yields
    ------
    groups, content
        ``content`` is the reason, a text, where a node failed or did not reply.
    """
    silent = dict(asked)
    for reply in replies:
        # Flower reports a node that it lost as an error from the link, which was never asked.
        groups = silent.pop(reply.metadata.src_node_id, None)
        if groups is not None:
            yield groups, error_reason(reply) if reply.has_error() else reply.content
    for node, groups in silent.items():
        yield groups, f"no reply from node {node}"


def error_reason(reply: Message) -> str:
    """Why a node failed, in one line.

    Flower's simulation engine wraps what a client raised into two tracebacks of Ray's.
    """
    reason = str(reply.error.reason).strip()
    raised = re.search(r"Exception ClientAppException occurred\. Message: (.+)", reason)
    line = raised[1] if raised else reason.partition("\n")[0]
    line = re.sub(r"^<class '(?:\w+\.)*(\w+)'>:<'", r"\1: ", line)
    return line.removesuffix("'>").strip() or "no reason given"


def read_updates(
    content: RecordDict, groups: Sequence[str], shapes: Shapes, with_distance: bool = False
) -> Iterator[tuple[str, Update | str]]:
    """Take a training reply apart.

    Parameters
    ----------
    content : RecordDict
        What the node sent.
    groups : sequence of str
        What it was asked for.
    shapes : Shapes
        Of the global weights.
    with_distance : bool
        Whether the strategy needs each group's distance.

    Yields
    ------
    group, update
        ``update`` is the reason, a text, where it is refused.
    """
    keys = ("num-examples", "train-loss", *(("received-distance",) if with_distance else ()))
    problem = _problem(content, groups, shapes, keys)
    if problem is not None:
        for group in groups:
            yield group, f"update refused: {problem}"
        return
    record = next(iter(content.array_records.values()))
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()))
    stacked = {name: read_array(record[name]) for name in record}
    for row, group in enumerate(groups):
        arrays = {name: array[row] for name, array in stacked.items()}
        examples, loss, *distance = (float(metrics[key][row]) for key in keys)
        wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if wrong:
            yield group, f"update refused: {wrong[0]} is not finite"
        elif not (0 < examples < math.inf and math.isfinite(loss)):
            yield group, f"update refused: {examples} examples, loss {loss}"
        elif distance and not 0 <= distance[0] <= 1:
            yield group, f"update refused: distance {distance[0]} is not between 0 and 1"
        else:
            yield group, Update(arrays, examples, loss, *distance)


def read_work(content: RecordDict, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a training reply took: ``seconds`` on the node and ``bytes_up``, by group."""
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()), MetricRecord())
    seconds: Any = metrics.get("seconds")
    if not isinstance(seconds, list) or len(seconds) != len(groups):
        seconds = [None] * len(groups)
    sent = sum(map(size, content.array_records.values()))
    return {
        group: {
            "seconds": spent,
            "bytes_up": sent // len(groups),
        }
        for group, spent in zip(groups, seconds, strict=True)
    }


def too_large(update: Update, weights: Arrays, bound: float | None) -> str | None:
    """Why an update that is longer than a bound is refused, or None.

    Parameters
    ----------
    update : Update
        A group's.
    weights : Arrays
        The global weights that it was trained from.
    bound : float or None
        Of its L2 norm over all weights; None: any will do.
    """
    if bound is None:
        return None
    with np.errstate(over="ignore"):  # an infinite norm is too large as well
        moved = [(array - weights[name]).ravel() for name, array in update.arrays.items()]
        squares = [float(np.dot(difference, difference)) for difference in moved]
    norm = math.sqrt(sum(squares))
    return f"update refused: its norm is {norm:.3g}, the bound {bound:g}" if norm > bound else None


def read_scores(content: RecordDict, groups: Sequence[str]) -> dict[str, GroupScore] | str:
    """Take an evaluation reply apart.

    Returns
    -------
    dict of str to GroupScore, or str
        Scores by group, or why they cannot be used.
    """
    problem = _other_groups(content, groups)
    if problem is not None:
        return problem
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()), MetricRecord())
    scores = {}
    try:
        draws = len(metrics["seen-distance"]) // len(groups)
        for row, group in enumerate(groups):
            counts = [int(metrics[f"{column}-questions"][row]) for column in ("seen", "unseen")]
            seen, unseen = (
                tuple(metrics[f"{column}-distance"][row * draws : (row + 1) * draws])
                for column in ("seen", "unseen")
            )
            if not all(0 <= value <= 1 for value in seen + unseen) or len(seen) != draws:
                return "scores are not between 0 and 1"
            scores[group] = GroupScore(seen, unseen if counts[1] else (), *counts)
    except (KeyError, IndexError, TypeError) as error:
        return f"malformed scores: {error!r}"
    return scores


def read_personal_scores(content: RecordDict, groups: Sequence[str]) -> dict[str, GroupScore]:
    """Take the scores of personal models from an evaluation reply that was accepted.

    Parameters
    ----------
    content : RecordDict
        What the node sent.
    groups : sequence of str
        What it was asked for.

    Returns
    -------
    dict of str to GroupScore
        Empty where there are none, or where they cannot be used.
    """
    metrics = content.metric_records.get("personal")
    own: Any = next(iter(content.config_records.values())).get("personal-groups")
    if metrics is None or not isinstance(own, list) or not own or not set(own) <= set(groups):
        return {}
    record = RecordDict({"metrics": metrics, "config": ConfigRecord({"groups": own})})
    scores = read_scores(record, own)
    return {} if isinstance(scores, str) else scores


def size(arrays: ArrayRecord) -> int:
    """Bytes of weights in a record."""
    return sum(len(array.data) for array in arrays.values())


def _problem(
    content: RecordDict, groups: Sequence[str], shapes: Shapes, keys: Sequence[str]
) -> str | None:
    """Why a training reply as a whole is refused, or None."""
    records: list[Any] = [
        content.array_records,
        content.metric_records,
        content.config_records,
    ]
    if any(len(record) != 1 for record in records):
        return "not one record each of arrays, metrics and config"
    arrays = next(iter(content.array_records.values()))
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()))
    problem = _other_groups(content, groups)
    if problem is not None:
        return problem
    sent = {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}
    due = {name: ((len(groups), *shape), dtype) for name, (shape, dtype) in shapes.items()}
    for name in sorted(due | sent):
        if sent.get(name) != due.get(name):
            return f"{name} is {sent.get(name)} instead of {due.get(name)}"
    for key in keys:
        values = metrics.get(key)
        if not isinstance(values, list) or len(values) != len(groups):
            return f"{key} is {values!r} for {len(groups)} groups"
    return None


def _other_groups(content: RecordDict, groups: Sequence[str]) -> str | None:
    config = next(iter(content.config_records.values()), ConfigRecord())
    if config.get("groups") != list(groups):
        return f"asked for {list(groups)}, got {config.get('groups')!r}"
    return None
