"""Who takes part: the nodes there are, and the groups that each of them hosts."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import compress
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.data.roles import is_listed
from plurallm.federate.outstanding import busy_nodes
from plurallm.federate.registration import audit, unbound
from plurallm.federate.replies import error_reason
from plurallm.federate.round_report import FederationError, reasons
from plurallm.federate.sent_values import is_between, is_count, one_line, or_reason

logger = logging.getLogger("plurallm")

POLL_SECONDS = 0.2

WIDEST = 2**16
"""Of embeddings: the widest encoders have 8,192, and the server makes a model of that width."""

LONGEST_NAME = 300
"""Characters of a group's name."""


@dataclass(frozen=True)
class Node:
    """What a node said of itself.

    Attributes
    ----------
    seen_questions : dict of str to int
        Its groups, with the number of seen questions of each.
    score_only : frozenset of str
        Groups of it that may only be scored.
    embedding_width : int
        Width of its embeddings.
    device : str
        Where it computes.
    threads : int
        CPU threads it computes with.
    partitions : int or None
        Number of virtual nodes, in a simulation.
    config : str
        Fingerprint of the configuration that it composed.
    embedder : str
        Fingerprint of its embedder.
    probe : list of float
        What its embedder makes of ``plurallm.embedding.PROBE``.
    survey : dict of str to str
        Fingerprint of each group's answers; empty for a data holder's node.
    """

    seen_questions: dict[str, int]
    score_only: frozenset[str]
    embedding_width: int
    device: str
    threads: int
    partitions: int | None
    config: str
    embedder: str
    probe: list[float]
    survey: dict[str, str]


def meet_nodes(grid: Grid, config: Config, config_digest: str) -> dict[int, Node]:
    """Wait for the expected nodes and ask each for its groups.

    In a deployment a node that cannot take part is named in the log and done without, and where
    ``federation.min_groups`` is set, so many groups that may train are enough to start with.

    Parameters
    ----------
    grid : Grid
        The engine.
    config : Config
        ``federation.nodes`` nodes are expected, in a simulation all its virtual nodes.
    config_digest : str
        Fingerprint that every node must report.

    Returns
    -------
    dict of int to Node
        By node id, in the order of their groups' names.

    Raises
    ------
    FederationError
        When nodes are missing after ``federation.wait_seconds``, a node cannot start, two nodes
        host one group, or nodes disagree on configuration or embedding width.
    """
    nodes: dict[int, Node] = {}
    refused: dict[str, str] = {}
    deadline = time.monotonic() + config.federation.wait_seconds
    logger.info("waiting for nodes and their groups")
    while not _complete(nodes, config):
        remaining = deadline - time.monotonic()
        if remaining <= 0 or _all_answered(nodes, refused, config):
            if _enough(nodes, config):
                break
            raise FederationError(_missing(nodes, refused, config))
        known = nodes.keys() | busy_nodes(grid)
        there = grid.get_node_ids()
        new = [node for node in there if node not in known and f"node {node}" not in refused]
        if not new:
            time.sleep(POLL_SECONDS)
            continue
        for node_id, answer in ask_groups(grid, new, remaining):
            problem = objection(node_id, answer, nodes, config_digest)
            if isinstance(answer, Node) and problem is None:
                nodes[node_id] = answer
                audit("node admitted", node=node_id, groups=list(answer.seen_questions))
            elif is_deployment(config):
                refused[f"node {node_id}"] = str(problem)
                audit("node refused", node=node_id, why=problem)
                logger.warning("node %d cannot take part: %s", node_id, problem)
            else:
                raise FederationError(f"node {node_id} cannot take part: {problem}")
    return dict(sorted(nodes.items(), key=lambda item: sorted(item[1].seen_questions)))


def is_deployment(config: Config) -> bool:
    """Tell whether nodes bring surveys of their own, and may come and go."""
    return config.data.source == "nodes"


def ask_groups(
    grid: Grid, node_ids: Iterable[int], timeout: float
) -> Iterator[tuple[int, Node | str]]:
    """Ask nodes for their groups.

    Parameters
    ----------
    grid : Grid
        The engine.
    node_ids : iterable of int
        Whom to ask.
    timeout : float
        Seconds to wait.

    Yields
    ------
    node id, Node or str
        The reason, a text, of one that cannot take part; one that is silent is left out.
    """
    questions = [Message(RecordDict(), node, "query.groups") for node in node_ids]
    for reply in grid.send_and_receive(questions, timeout=timeout):
        if reply.has_error():
            yield reply.metadata.src_node_id, error_reason(reply)
        else:
            yield reply.metadata.src_node_id, or_reason(partial(_read, reply.content))


def objection(
    node_id: int, node: Node | str, others: Mapping[int, Node], config_digest: str
) -> str | None:
    """Why a node, as ``ask_groups`` gives it, cannot take part beside others; or None."""
    if isinstance(node, str):
        return node
    if reason := unbound(node_id, node.seen_questions):
        return reason
    if node.config != config_digest:
        return (
            f"node {node_id} composed another configuration than the server: it must run the "
            "same version, and a resumed run must be started with scripts/run.sh or plurallm submit"
        )
    for other_id, other in others.items():
        for group in node.seen_questions:
            if is_listed(group, other.seen_questions):
                return f"group {group!r} is hosted by two nodes, {other_id} and {node_id}"
        if node.embedding_width != other.embedding_width:
            widths = sorted((node.embedding_width, other.embedding_width))
            return f"nodes have embeddings of different widths: {widths}"
        if node.embedder != other.embedder:
            return (
                f"nodes {other_id} and {node_id} have different embedders: the weights, tokenizer "
                "or settings are not the same files"
            )
    return None


def _read(content: RecordDict) -> Node:
    """Parse a node's answer; ValueError where anything in it cannot be."""
    record: Mapping[str, Any] = content.config_records.get("node", {})
    groups = _list(record, "groups", _is_name)
    seen = _list(record, "seen-questions", lambda value: is_count(value, 0))
    score_only = _list(record, "score-only", lambda value: isinstance(value, bool))
    survey = _list(record, "survey", _is_name) if "survey" in record else []
    if len(survey) not in (0, len(groups)):
        raise ValueError("its groups and the fingerprints of their answers do not fit together")
    if not len(set(groups)) == len(groups) == len(seen) == len(score_only):
        raise ValueError("its groups and what it says of them do not fit together")
    return Node(
        seen_questions=dict(zip(groups, seen, strict=True)),
        score_only=frozenset(compress(groups, score_only)),
        embedding_width=_field(record, "embedding-width", lambda v: is_count(v, 1, WIDEST)),
        device=_field(record, "device", _is_name),
        threads=_field(record, "threads", lambda value: is_count(value, 1)),
        partitions=_field(record, "partitions", lambda value: is_count(value, 0)) or None,
        config=_field(record, "config", _is_name),
        embedder=_field(record, "embedder", _is_name),
        probe=_field(record, "probe", _is_probe),
        survey=dict(zip(groups, survey, strict=False)),
    )


def _field(record: Mapping[str, Any], key: str, fits: Callable[[Any], bool]) -> Any:
    value = record.get(key)
    if not fits(value):
        raise ValueError(f"its answer has {key} {value!r}")
    return value


def _list(record: Mapping[str, Any], key: str, fits: Callable[[Any], bool]) -> list[Any]:
    found: list[Any] = _field(
        record, key, lambda value: isinstance(value, list) and all(map(fits, value))
    )
    return found


def _is_probe(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= WIDEST
        and all(is_between(number, -1e9, 1e9) for number in value)
    )


def _is_name(value: object) -> bool:
    """Short, and nothing that could pass for lines of a log."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and one_line(value) == value


def _expected(nodes: dict[int, Node], config: Config) -> int | None:
    if config.federation.nodes is not None:
        return config.federation.nodes
    if is_deployment(config):
        return None  # no node of a deployment may say how many there are
    return next((node.partitions for node in nodes.values()), None)


def _complete(nodes: dict[int, Node], config: Config) -> bool:
    expected = _expected(nodes, config)
    if nodes and expected is None:
        if config.federation.min_groups is None:
            raise ConfigError("federation.nodes must say how many nodes are expected")
        return _enough(nodes, config)
    return expected is not None and len(nodes) >= expected


def _enough(nodes: dict[int, Node], config: Config) -> bool:
    """Whether a deployment can start without all the expected nodes."""
    may_train = [
        group
        for node in nodes.values()
        for group in node.seen_questions
        if group not in node.score_only
    ]
    least = config.federation.min_groups
    return is_deployment(config) and least is not None and len(may_train) >= least


def _all_answered(nodes: dict[int, Node], refused: dict[str, str], config: Config) -> bool:
    expected = _expected(nodes, config)
    return bool(refused) and expected is not None and len(nodes) + len(refused) >= expected


def _missing(nodes: dict[int, Node], refused: dict[str, str], config: Config) -> str:
    expected = _expected(nodes, config)
    met = ", ".join(sorted(group for node in nodes.values() for group in node.seen_questions))
    waited = f"federation.wait_seconds={config.federation.wait_seconds:g}"
    text = (
        f"{len(nodes)} of {expected or 'an unknown number of'} nodes were there "
        f"({waited}); their groups: {met or 'none'}. "
        "Start the missing nodes, or set federation.nodes to their number"
    )
    return f"{text}. Cannot take part: {reasons(refused)}" if refused else text


def describe(devices: Iterable[str]) -> str:
    """Devices in a few words: ``2 x cpu``."""
    listed = list(devices)
    return ", ".join(f"{listed.count(device)} x {device}" for device in sorted(set(listed)))
