"""The custom FedAvg: groups instead of nodes, sums in a fixed order, bad updates refused.

A node hosts one or more groups and answers for all of them in one message. The strategy asks for
groups, takes the answers apart by group and hands them, with the order of the roles, to the
aggregator of the configured strategy, so that neither the number of nodes nor the order of replies
changes a bit of the result.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from plurallm.config.error import ConfigError
from plurallm.config.schema import Config
from plurallm.config.strategies import FairStrategy
from plurallm.data.roles import Roles
from plurallm.federate.aggregators.aggregator import Aggregator
from plurallm.federate.aggregators.choice import participants
from plurallm.federate.attendance import Attendance
from plurallm.federate.messages import read_array, write_array
from plurallm.federate.outstanding import busy_nodes
from plurallm.federate.replies import (
    Update,
    answers,
    read_more_scores,
    read_scores,
    read_updates,
    read_work,
    size,
)
from plurallm.federate.round_report import FederationError, RoundReport, reasons
from plurallm.record.checkpoint import Arrays

logger = logging.getLogger("plurallm")


class GroupFedAvg(FedAvg):
    """FedAvg (arXiv 1602.05629) over groups.

    Parameters
    ----------
    config : Config
        The run's configuration.
    roles : Roles
        Which groups train and which are held out.
    groups_of : mapping of int to tuple of str
        Groups of each node.
    aggregator : Aggregator
        Turns updates into the next global model, see ``make_aggregator``.
    run : str
        Name of the run, for what nodes keep of it.
    first_round : int
        Rounds that an earlier run has finished: Flower counts from 1, the run goes on from there.
    attendance : Attendance, optional
        Follows a deployment's nodes, before every round.

    Attributes
    ----------
    report : RoundReport
        The round that runs, or ran last.
    asked : dict of int to list of str
        Groups of the last messages, by node.
    grid : Grid or None
        Of the round.
    """

    def __init__(
        self,
        config: Config,
        roles: Roles,
        groups_of: Mapping[int, tuple[str, ...]],
        aggregator: Aggregator,
        run: str,
        first_round: int = 0,
        attendance: Attendance | None = None,
    ) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.config = config
        self.roles = roles
        self.groups_of = groups_of
        self.aggregator = aggregator
        self.run = run
        self.first_round = first_round
        self.attendance = attendance
        self.report = RoundReport(first_round)
        asked = len(self._participants())
        if (config.federation.min_groups or 0) > asked:
            raise ConfigError(
                f"federation.min_groups is {config.federation.min_groups}, "
                f"but only {asked} groups are asked in a round"
            )
        self.asked: dict[int, list[str]] = {}
        self._busy: set[int] = set()
        self._failed_rounds = 0
        self._global: Arrays = {}
        self._started = 0.0
        self.grid: Grid | None = None

    def summary(self) -> None:
        """Log who takes part."""
        logger.info(
            "%d training and %d held-out groups on %d nodes",
            len(self.roles.train),
            len(self.roles.held_out),
            len(self.groups_of),
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the nodes of this round's training groups for an update of each."""
        self.grid = grid
        self.report = RoundReport(self.first_round + server_round)
        if self.attendance is not None:
            self.attendance.follow(grid, self.report.round_number)
            self.roles, self.groups_of = self.attendance.roles, self.attendance.groups_of
        self._global = {name: read_array(array) for name, array in arrays.items()}
        participants = self._participants()
        messages = self.ask(MessageType.TRAIN, participants, arrays)
        away = self.away(participants)
        self.report.refused |= away
        self.aggregator.begin(participants, self._global)
        for group in away:
            self.aggregator.skip(group)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Give the updates that can be used to the aggregator.

        Raises
        ------
        FederationError
            When fewer than ``federation.min_groups`` groups brought one, or fewer than the
            strategy needs, in more than ``federation.failed_rounds`` rounds.
        """
        losses = {}
        for group, update in self.updates(replies):
            if isinstance(update, str):
                self.report.refused[group] = update
                logger.warning("round %d: %s: %s", self.report.round_number, group, update)
                self.aggregator.skip(group)
            else:
                self.aggregator.add(group, update)
                losses[group] = update.loss
        self.report.losses = {
            group: losses[group] for group in self.aggregator.order if group in losses
        }
        self.report.seconds["train"] = time.monotonic() - self._started
        if self._has_failed():
            return None, None  # Flower keeps the weights of the round before
        arrays = self.aggregator.finish()
        self.report.strategy = self.aggregator.report()
        averaged = ArrayRecord({name: write_array(array) for name, array in arrays.items()})
        return averaged, MetricRecord({"train-loss": float(self.report.train_loss or 0)})

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask all groups for their scores, every ``evaluation.every`` rounds and at the end."""
        number = self.report.round_number
        if number % self.config.evaluation.every and number != self.config.federation.rounds:
            self.asked = {}
            return []
        messages = self.ask(MessageType.EVALUATE, self.roles.groups, arrays)
        self.report.unscored |= self.away(self.roles.groups)
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Collect the groups' scores.

        Raises
        ------
        FederationError
            When no group could be scored.
        """
        if not self.asked:
            return None
        for groups, content in answers(replies, self.asked):
            draws = self.config.evaluation.draws
            scores = content if isinstance(content, str) else read_scores(content, groups, draws)
            if isinstance(scores, str):
                self.report.unscored |= dict.fromkeys(groups, scores)
                continue
            self.report.scores |= scores
            if not isinstance(content, str):
                self.report.personal_scores |= read_more_scores(content, "personal", groups, draws)
        for group, reason in self.report.unscored.items():
            logger.warning("round %d: %s not scored: %s", self.report.round_number, group, reason)
        if not self.report.scores:
            raise FederationError(
                f"round {self.report.round_number}: no group could be scored; "
                + reasons(self.report.unscored)
            )
        self.report.seconds["evaluate"] = time.monotonic() - self._started
        return MetricRecord({"groups-scored": len(self.report.scores)})

    def _participants(self) -> tuple[str, ...]:
        return participants(self.config, self.roles, self.report.round_number)

    def ask(
        self,
        message_type: str,
        groups: Iterable[str],
        arrays: ArrayRecord,
        more: Mapping[str, list[str]] | None = None,
    ) -> list[Message]:
        """Make the messages that ask the nodes of some groups, who are noted.

        Parameters
        ----------
        message_type : str
            Which of the ClientApp's functions answers.
        groups : iterable of str
            For whom; groups that no node hosts, or one with a question to answer, are left out.
        arrays : ArrayRecord
            Weights.
        more : mapping, optional
            Further entries of the message's configuration.
        """
        wanted = set(groups)
        self._started = time.monotonic()
        self._busy = set() if self.grid is None else busy_nodes(self.grid)
        asked = {
            node: [group for group in hosted if group in wanted]
            for node, hosted in self.groups_of.items()
            if node not in self._busy
        }
        # In the order of the roles, so that an engine that answers in order needs no buffer.
        rank = {group: position for position, group in enumerate(self.roles.groups)}
        nodes = sorted((node for node in asked if asked[node]), key=lambda n: rank[asked[n][0]])
        self.asked = {node: asked[node] for node in nodes}
        self.report.bytes_down += len(nodes) * size(arrays)
        return [
            Message(
                RecordDict(
                    {
                        self.arrayrecord_key: arrays,
                        self.configrecord_key: ConfigRecord(
                            {
                                "round": self.report.round_number,
                                "groups": asked[node],
                                "run": self.run,
                                **self._began_with(node, asked[node]),
                                **(more or {}),
                            }
                        ),
                    }
                ),
                node,
                message_type,
            )
            for node in nodes
        ]

    def _began_with(self, node: int, groups: list[str]) -> dict[str, list[str]]:
        """Fingerprints of the answers that a simulation's node began with."""
        known = {} if self.attendance is None else self.attendance.nodes[node].survey
        return {"survey": [known[group] for group in groups]} if known else {}

    def updates(self, replies: Iterable[Message]) -> Iterator[tuple[str, Update | str]]:
        """Take the replies to a training message apart: an update of each group, or a reason."""
        for groups, content in answers(replies, self.asked):
            if isinstance(content, str):
                yield from ((group, content) for group in groups)
            else:
                work = read_work(content, groups)
                self.report.work |= work
                self.report.bytes_up += sum(row["bytes_up"] for row in work.values())
                bound = self.config.federation.max_update_norm
                fair = isinstance(self.config.strategy, FairStrategy)
                yield from read_updates(content, groups, self._global, bound, fair)

    def away(self, groups: Iterable[str]) -> dict[str, str]:
        """Of some groups, those whose node was not asked, with the reason."""
        node_of = {group: node for node, hosted in self.groups_of.items() for group in hosted}
        reasons_of = dict.fromkeys(self._busy, "its node has an earlier question to answer")
        return {
            group: reasons_of[node_of[group]] if group in node_of else "its node is away"
            for group in groups
            if group not in node_of or node_of[group] in reasons_of
        }

    def _has_failed(self) -> bool:
        answered, asked = len(self.report.losses), len(self._participants())
        least = self.config.federation.min_groups or math.ceil(asked / 2)
        rule = f"federation.min_groups is {least}"
        if self.aggregator.least > least:
            least = self.aggregator.least
            rule = f"strategy={self.config.strategy.name} needs {least}"
        if answered >= least:
            return False
        self.report.failed = (
            f"round {self.report.round_number}: {answered} of {asked} groups brought an update "
            f"and {rule}; " + reasons(self.report.refused)
        )
        self._failed_rounds += 1
        if self._failed_rounds > self.config.federation.failed_rounds:
            raise FederationError(self.report.failed)
        logger.warning("%s; the weights stay as they are", self.report.failed)
        unused = dict.fromkeys(self.report.losses, "the round failed")
        self.report.refused |= unused
        self.report.losses = {}
        return True
