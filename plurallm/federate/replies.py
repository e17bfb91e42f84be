"""Replies of nodes, checked and taken apart by group.

A node replies with its groups' weights stacked ``[G, ...]`` in one ArrayRecord, one MetricRecord
of fixed keys with a list entry per group, and the groups' names in a ConfigRecord.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from plurallm.evaluate.scores import GroupScore
from plurallm.federate.aggregators.ordered_mean import blocks
from plurallm.federate.messages import read_exactly, type_name
from plurallm.federate.sent_values import MOST, is_between, is_count, one_line, or_reason
from plurallm.record.checkpoint import Arrays

_LARGEST_LOSS = 1e6  # a loss of training is below a hundred; means and fair weights stay finite


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
    return one_line(line.removesuffix("'>").strip()) or "no reason given"


def read_updates(
    content: RecordDict,
    groups: Sequence[str],
    weights: Arrays,
    bound: float | None,
    with_distance: bool = False,
) -> Iterator[tuple[str, Update | str]]:
    """Take a training reply apart.

    Parameters
    ----------
    content : RecordDict
        What the node sent.
    groups : sequence of str
        What it was asked for.
    weights : dict of str to ndarray
        The global weights that it was sent.
    bound : float or None
        Of the L2 norm of an update's change over all weights; None: any will do.
    with_distance : bool
        Whether the strategy needs each group's distance.

    Yields
    ------
    group, update
        ``update`` is the reason, a text, where it is refused.
    """
    distance = ("received-distance",) if with_distance else ()
    reply = or_reason(lambda: _training_reply(content, groups, weights, distance))
    for row, group in enumerate(groups):
        update = (
            reply
            if isinstance(reply, str)
            else or_reason(partial(_update, *reply, row, weights, bound))
        )
        yield group, f"update refused: {update}" if isinstance(update, str) else update


def read_work(content: RecordDict, groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a training reply took: ``seconds`` on the node and ``bytes_up``, by group."""
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()), MetricRecord())
    seconds: Any = metrics.get("seconds")
    if not isinstance(seconds, list) or len(seconds) != len(groups):
        seconds = [None] * len(groups)
    # Nothing is computed from them: what is no time is left out, and the update is taken.
    seconds = [value if is_between(value, 0, MOST) else None for value in seconds]
    sent = sum(map(size, content.array_records.values()))
    return {
        group: {
            "seconds": spent,
            "bytes_up": sent // len(groups),
        }
        for group, spent in zip(groups, seconds, strict=True)
    }


def read_scores(
    content: RecordDict, groups: Sequence[str], draws: int
) -> dict[str, GroupScore] | str:
    """Take an evaluation reply apart.

    Parameters
    ----------
    content : RecordDict
        What the node sent.
    groups : sequence of str
        What it was asked for.
    draws : int
        Scores due of each group: ``evaluation.draws``.

    Returns
    -------
    dict of str to GroupScore, or str
        Scores by group, or why they cannot be used.
    """
    return or_reason(lambda: _scores(content, groups, draws))


def read_more_scores(
    content: RecordDict, name: str, groups: Sequence[str], draws: int
) -> dict[str, GroupScore]:
    """Take further scores from an evaluation reply that was accepted.

    Parameters
    ----------
    content : RecordDict
        What the node sent.
    name : str
        Of the record: ``"personal"``, of personal models, or ``"population"``.
    groups : sequence of str
        What it was asked for.
    draws : int
        Scores due of each group.

    Returns
    -------
    dict of str to GroupScore
        Of the groups that ``NAME-groups`` lists, or of all; empty where there are none, or where
        they cannot be used.
    """
    metrics = content.metric_records.get(name)
    own: Any = next(iter(content.config_records.values())).get(f"{name}-groups", list(groups))
    if metrics is None or not isinstance(own, list) or not own or not set(own) <= set(groups):
        return {}
    record = RecordDict({"metrics": metrics, "config": ConfigRecord({"groups": own})})
    scores = read_scores(record, own, draws)
    return {} if isinstance(scores, str) else scores


def size(arrays: ArrayRecord) -> int:
    """Bytes of weights in a record."""
    return sum(len(array.data) for array in arrays.values())


def _training_reply(
    content: RecordDict, groups: Sequence[str], weights: Arrays, distance: Sequence[str]
) -> tuple[Arrays, dict[str, list[Any]]]:
    """Stacked weights, and the metrics' columns, of a training reply."""
    records: list[Any] = [content.array_records, content.metric_records, content.config_records]
    if any(len(record) != 1 for record in records):
        raise ValueError("not one record each of arrays, metrics and config")
    _check_groups(content, groups)
    arrays = _stacked(next(iter(content.array_records.values())), len(groups), weights)
    metrics: Mapping[str, Any] = next(iter(content.metric_records.values()))
    keys = ("num-examples", "train-loss", *distance)
    return arrays, {key: _column(metrics, key, len(groups)) for key in keys}


def _stacked(record: ArrayRecord, count: int, weights: Arrays) -> Arrays:
    sent = {name: (tuple(array.shape), array.dtype) for name, array in record.items()}
    due = {name: ((count, *own.shape), type_name(own.dtype)) for name, own in weights.items()}
    for name in sorted(due | sent):
        if sent.get(name) != due.get(name):
            raise ValueError(f"{name} is {sent.get(name)} instead of {due.get(name)}")
    stacked = {}
    for name, array in record.items():
        try:
            stacked[name] = read_exactly(array)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from error
    return stacked


def _update(
    stacked: Arrays,
    columns: Mapping[str, list[Any]],
    row: int,
    weights: Arrays,
    bound: float | None,
) -> Update:
    arrays = {name: array[row] for name, array in stacked.items()}
    examples, loss, *distance = (column[row] for column in columns.values())
    norm = _norm_of_change(arrays, weights)
    if not math.isfinite(norm):  # of finite weights it can be infinite, but that is rare
        wrong = [name for name, array in arrays.items() if not np.isfinite(array).all()]
        if wrong:
            raise ValueError(f"{wrong[0]} is not finite")
    if not is_count(examples, 1) or not is_between(loss, -_LARGEST_LOSS, _LARGEST_LOSS):
        raise ValueError(f"{examples!r} examples, loss {loss!r}")
    if distance and not is_between(distance[0], 0, 1):
        raise ValueError(f"distance {distance[0]!r} is not between 0 and 1")
    if bound is not None and norm > bound:
        raise ValueError(f"its norm is {norm:.3g}, the bound {bound:g}")
    return Update(arrays, float(examples), float(loss), *map(float, distance))


def _norm_of_change(arrays: Arrays, weights: Arrays) -> float:
    """L2 norm over all weights; not finite where one is not."""
    square = 0.0
    with np.errstate(all="ignore"):
        for name, array in arrays.items():
            own, sent = array.ravel(), weights[name].ravel()
            for block in blocks(own.size):
                change = own[block] - sent[block]
                square += float(np.dot(change, change))
    return math.sqrt(square)


def _scores(content: RecordDict, groups: Sequence[str], draws: int) -> dict[str, GroupScore]:
    _check_groups(content, groups)
    named = content.metric_records
    metrics: Mapping[str, Any] = named.get("metrics", next(iter(named.values()), MetricRecord()))
    seen, unseen = (
        _column(metrics, f"{column}-distance", len(groups) * draws) for column in ("seen", "unseen")
    )
    if not all(is_between(value, 0, 1) for value in (*seen, *unseen)):
        raise ValueError("scores are not between 0 and 1")
    counts = [
        # There is no mean over no seen question; a group without unseen ones says so.
        _counts(metrics, "seen-questions", len(groups), least=1),
        _counts(metrics, "unseen-questions", len(groups), least=0),
    ]
    novel = [0.0] * len(unseen)
    counts.append([0] * len(groups))
    if "novel-questions" in metrics:
        novel = _column(metrics, "novel-distance", len(groups) * draws)
        counts[2] = _counts(metrics, "novel-questions", len(groups), least=0)
        if not all(is_between(value, 0, 1) for value in novel):
            raise ValueError("scores are not between 0 and 1")
    scores = {}
    for row, (group, *numbers) in enumerate(zip(groups, *counts, strict=True)):
        of_group = slice(row * draws, (row + 1) * draws)
        seen_count, unseen_count, novel_count = numbers
        if novel_count > unseen_count:
            raise ValueError(f"novel-questions is {novel_count} of {unseen_count} unseen ones")
        scores[group] = GroupScore(
            tuple(seen[of_group]),
            tuple(unseen[of_group]) if unseen_count else (),
            seen_count,
            unseen_count,
            tuple(novel[of_group]) if novel_count else (),
            novel_count,
        )
    return scores


def _counts(metrics: Mapping[str, Any], key: str, length: int, least: int) -> list[int]:
    counts = _column(metrics, key, length)
    if not all(is_count(count, least) for count in counts):
        raise ValueError(f"{key} is {counts!r}, not counts from {least} to {MOST}")
    return counts


def _column(metrics: Mapping[str, Any], key: str, length: int) -> list[Any]:
    values = metrics.get(key)
    if not isinstance(values, list) or len(values) != length:
        found = len(values) if isinstance(values, list) else repr(values)
        raise ValueError(f"{key} is {found} instead of {length} values")
    return values


def _check_groups(content: RecordDict, groups: Sequence[str]) -> None:
    config = next(iter(content.config_records.values()), ConfigRecord())
    if config.get("groups") != list(groups):
        raise ValueError(f"asked for {list(groups)}, got {config.get('groups')!r}")
