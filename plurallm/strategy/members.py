"""Who takes part: the nodes there are, and the groups that each of them hosts."""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from plurallm.config import Config, ConfigError
from plurallm.strategy.replies import error_reason
from plurallm.strategy.report import FederationError

logger = logging.getLogger("plurallm")

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Node:
    """What a node said of itself.

    Attributes
    ----------
    seen_questions : dict of str to int
        Its groups, with the number of seen questions of each.
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
    """

    seen_questions: dict[str, int]
    embedding_width: int
    device: str
    threads: int
    partitions: int | None
    config: str


def meet_nodes(grid: Grid, config: Config, config_digest: str) -> dict[int, Node]:
    """Wait for the expected nodes and ask each for its groups.

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
    deadline = time.monotonic() + config.federation.wait_seconds
    logger.info("waiting for nodes and their groups")
    while not _complete(nodes, config):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise FederationError(_missing(nodes, config))
        new = [node for node in grid.get_node_ids() if node not in nodes]
        if not new:
            time.sleep(_POLL_SECONDS)
            continue
        questions = [Message(RecordDict(), node, "query.groups") for node in new]
        for reply in grid.send_and_receive(questions, timeout=remaining):
            node_id = reply.metadata.src_node_id
            if reply.has_error():
                raise FederationError(f"node {node_id} cannot take part: {error_reason(reply)}")
            nodes[node_id] = _read(reply.content)
    _check(nodes, config_digest)
    return dict(sorted(nodes.items(), key=lambda item: sorted(item[1].seen_questions)))


def _read(content: RecordDict) -> Node:
    record: Mapping[str, Any] = content.config_records["node"]
    return Node(
        seen_questions=dict(zip(record["groups"], record["seen-questions"], strict=True)),
        embedding_width=record["embedding-width"],
        device=record["device"],
        threads=record["threads"],
        partitions=record["partitions"] or None,
        config=record["config"],
    )


def _expected(nodes: dict[int, Node], config: Config) -> int | None:
    if config.federation.nodes is not None:
        return config.federation.nodes
    return next((node.partitions for node in nodes.values()), None)


def _complete(nodes: dict[int, Node], config: Config) -> bool:
    expected = _expected(nodes, config)
    if nodes and expected is None:
        raise ConfigError("federation.nodes must say how many nodes are expected")
    return expected is not None and len(nodes) >= expected


def _missing(nodes: dict[int, Node], config: Config) -> str:
    expected = _expected(nodes, config)
    met = ", ".join(sorted(group for node in nodes.values() for group in node.seen_questions))
    return (
        f"{len(nodes)} of {expected or 'an unknown number of'} nodes were there after "
        f"federation.wait_seconds={config.federation.wait_seconds:g}; their groups: "
        f"{met or 'none'}. Start the missing nodes, or set federation.nodes to their number"
    )


def _check(nodes: dict[int, Node], config_digest: str) -> None:
    host: dict[str, int] = {}
    for node_id, node in nodes.items():
        if node.config != config_digest:
            raise FederationError(
                f"node {node_id} composed another configuration than the server: it must run the "
                "same version, and a resumed run must be started with scripts/run.sh"
            )
        for group in node.seen_questions:
            if group in host:
                raise FederationError(
                    f"group {group!r} is hosted by two nodes, {host[group]} and {node_id}"
                )
            host[group] = node_id
    widths = {node.embedding_width for node in nodes.values()}
    if len(widths) > 1:
        raise FederationError(f"nodes have embeddings of different widths: {sorted(widths)}")


def describe(devices: Iterable[str]) -> str:
    """Devices in a few words: ``2 x cpu``."""
    listed = list(devices)
    return ", ".join(f"{listed.count(device)} x {device}" for device in sorted(set(listed)))
