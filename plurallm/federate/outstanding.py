"""Questions to nodes, of which each node has one at a time.

A node that has not answered in time may be busy, or its machine may be. Another question would make
it busier still, so that it gets none until it has answered, late, or its question has expired. A
question lives longer each time its node lets one expire: a slow node costs the run less and less.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from flwr.app import Message, Metadata
from flwr.serverapp import Grid

logger = logging.getLogger("plurallm")

LIFE = 2.0
"""A question's life, in waits: the answer that comes after the wait is of no use, but it tells that
the node is free again."""

LONGEST_LIFE = 12 * 3600.0
"""Seconds: what Flower gives a message."""


class PatientGrid(Grid):
    """Flower's grid, which asks a node nothing while an answer of it is due.

    Parameters
    ----------
    grid : Grid
        The engine's.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._due: dict[int, Metadata] = {}  # the question of each node
        self._silent: dict[int, int] = {}  # questions in a row that a node let pass

    def busy(self) -> set[int]:
        """Nodes whose answer is due. Takes the answers that have come late, to drop them."""
        ids = {question.message_id: node for node, question in self._due.items()}
        for late in self._grid.pull_messages(list(ids)) if ids else ():
            node = ids.get(late.metadata.reply_to_message_id)
            if node is not None and node in self._due:
                del self._due[node]
                how = "is gone" if late.has_error() else "was answered, too late"
                logger.info("the question to node %d %s: it may be asked again", node, how)
                if not late.has_error():
                    self._silent.pop(node, None)
        return set(self._due)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Ask nodes that are free, and yield their replies.

        Parameters
        ----------
        messages : iterable of Message
            Those to a node that is not free are left out.
        timeout : float, optional
            Seconds to wait; None: as long as it takes.
        """
        busy = self.busy()
        asked: list[Message] = []
        questions: dict[int, Metadata] = {}
        for message in messages:
            node = message.metadata.dst_node_id
            if node in busy or node in questions:
                logger.warning("node %d is not asked: it has a question to answer", node)
                continue
            if timeout is not None:
                waits = LIFE * 2.0 ** min(self._silent.get(node, 0), 32)
                message.metadata.ttl = min(LONGEST_LIFE, waits * timeout)
            asked.append(message)
            questions[node] = message.metadata
        self._due |= questions
        for reply in self._grid.send_and_receive(asked, timeout=timeout):
            self._settle(reply)
            yield reply
        for node in questions.keys() & self._due.keys():
            self._silent[node] = self._silent.get(node, 0) + 1
            logger.warning(
                "node %d has not answered within %g s; it is asked nothing else before it has, "
                "or %.0f s have passed",
                *(node, timeout, questions[node].ttl),
            )

    def _settle(self, reply: Message) -> None:
        """Free the node whose question it answers: of nodes that it has lost, Flower replies."""
        for node, question in self._due.items():
            if question.message_id == reply.metadata.reply_to_message_id:
                del self._due[node]
                self._silent.pop(node, None)
                return

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes that are there, free or not."""
        return self._grid.get_node_ids()

    def set_run(self, run: Any) -> None:
        """As the engine's."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """As the engine's."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """As the engine's."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """As the engine's, past the one question at a time."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As the engine's."""
        return self._grid.pull_messages(message_ids)


def busy_nodes(grid: Grid) -> set[int]:
    """Nodes that may not be asked now; none where the engine answers every question."""
    return grid.busy() if isinstance(grid, PatientGrid) else set()
