"""Nodes that come and go while a deployment's run goes on."""

import logging
import math
import time
from collections.abc import Mapping

from flwr.serverapp import Grid

from plurallm.config.schema import Config
from plurallm.data.roles import Roles
from plurallm.federate.members import POLL_SECONDS, Node, ask_groups, is_deployment, objection
from plurallm.federate.node_roles import extend_roles
from plurallm.federate.outstanding import busy_nodes
from plurallm.federate.registration import audit

_ASK_SECONDS = 60.0  # for a new node's groups: the round waits meanwhile
_ASK_AGAIN_ROUNDS = 5  # a node that was refused may have been mended
_LONGEST_PAUSE = 10.0  # seconds between two looks for more groups

logger = logging.getLogger("plurallm")


class Attendance:
    """Who is there in a round: nodes that came late, those that left, and those that came back.

    Parameters
    ----------
    config : Config
        The run's configuration.
    config_digest : str
        Fingerprint that every node must report.
    nodes : mapping of int to Node
        Who is there at the start.
    roles : Roles
        Of their groups, and of groups that an earlier part of a resumed run knew.

    Attributes
    ----------
    nodes : dict of int to Node
        Who is there now.
    roles : Roles
        Of every group that has ever been there: a role never changes.
    joined, left : dict of str to str
        Since the round before: groups and their nodes.
    """

    def __init__(
        self, config: Config, config_digest: str, nodes: Mapping[int, Node], roles: Roles
    ) -> None:
        self.nodes = dict(nodes)
        self.roles = roles
        self.joined: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self._config = config
        self._digest = config_digest
        self._refused: set[int] = set()
        self._there = set(self.nodes)
        self._busy: set[int] = set()

    @property
    def groups_of(self) -> dict[int, tuple[str, ...]]:
        """Groups of each node that is there, as far as they take part."""
        return {
            node_id: tuple(group for group in self.roles.groups if group in node.seen_questions)
            for node_id, node in self.nodes.items()
        }

    def follow(self, grid: Grid, round_number: int) -> None:
        """See who is there before a round; where that is too few, wait for more.

        A simulation's virtual nodes neither come nor go.

        Parameters
        ----------
        grid : Grid
            The engine.
        round_number : int
            The round that begins.
        """
        self.joined, self.left = {}, {}
        if not is_deployment(self._config):
            return
        if round_number % _ASK_AGAIN_ROUNDS == 0:
            self._refused.clear()
        deadline = time.monotonic() + self._config.federation.wait_seconds
        self._look(grid, round_number)
        if self._too_few():
            logger.warning("round %d: too few groups are there; waiting for more", round_number)
        pause = POLL_SECONDS
        while self._too_few() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._look(grid, round_number)

    def _look(self, grid: Grid, round_number: int) -> None:
        there = set(grid.get_node_ids())
        self._busy = busy_nodes(grid)
        for node_id in sorted(set(self.nodes) - there):
            groups = self.nodes.pop(node_id).seen_questions
            self.left |= dict.fromkeys(groups, str(node_id))
            logger.warning(
                "round %d: node %d with %s has left", round_number, node_id, ", ".join(groups)
            )
        if there != self._there:
            self._refused.clear()
        self._there = there
        new = sorted(there - set(self.nodes) - self._refused - self._busy)
        for node_id, answer in ask_groups(grid, new, _ASK_SECONDS) if new else ():
            reason = objection(node_id, answer, self.nodes, self._digest)
            if isinstance(answer, Node) and reason is None:
                self._admit(node_id, answer, round_number)
            else:
                audit("node refused", node=node_id, why=reason)
                logger.warning(
                    "round %d: node %d cannot take part: %s", round_number, node_id, reason
                )
        self._refused |= set(new) - set(self.nodes)

    def _admit(self, node_id: int, node: Node, round_number: int) -> None:
        self.nodes[node_id] = node
        audit("node admitted", node=node_id, groups=list(node.seen_questions))
        self.roles = extend_roles(self.roles, node.seen_questions, node.score_only, self._config)
        self.joined |= dict.fromkeys(node.seen_questions, str(node_id))
        for group in node.seen_questions:
            role = self.roles.by_group.get(group, "no role: the run does not list it")
            logger.info(
                "round %d: group %s joins on node %d: %s", round_number, group, node_id, role
            )

    def _too_few(self) -> bool:
        free = (groups for node, groups in self.groups_of.items() if node not in self._busy)
        hosted = {group for groups in free for group in groups}
        train = [group for group in self.roles.train if group in hosted]
        least = self._config.federation.min_groups or math.ceil(len(self.roles.train) / 2)
        return len(train) < least
