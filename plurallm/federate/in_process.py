"""The same two Flower apps in one process: no Ray, no SuperLink, starts in a second.

The one place that touches private names of Flower.
"""

import copy
import logging
import random
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.task_identity import TaskIdentity

from plurallm.config.compose import load_config
from plurallm.config.overrides import hydra_quote
from plurallm.data.tasks import plan_nodes
from plurallm.federate.client_app import app as default_client_app
from plurallm.federate.server_app import app as default_server_app
from plurallm.record.run_folder import new_run_folder, remove_empty

_CLIENT_APP_RAISED = 2
"""Flower's error code for an exception in a ClientApp."""

logger = logging.getLogger("plurallm")


class InProcessGrid(Grid):
    """Calls a ClientApp for every message, one after the other.

    Parameters
    ----------
    client_app : ClientApp
        What every node runs.
    nodes : int or sequence of dict
        Number of virtual nodes, or the ``--node-config`` of each data holder's node.
    run_config : dict
        As Flower would hand it to the apps.

    Attributes
    ----------
    keyless : bool
        Its nodes are this process's own: no key says which groups they may bring.
    """

    keyless = True

    def __init__(
        self,
        client_app: ClientApp,
        nodes: int | Sequence[dict[str, Any]],
        run_config: dict[str, Any],
    ) -> None:
        if isinstance(nodes, int):
            nodes = [{"partition-id": i, "num-partitions": nodes} for i in range(nodes)]
        self._client_app = client_app
        self._contexts = {
            node_id: Context(
                run_id=1,
                node_id=node_id,
                node_config=node_config,
                state=RecordDict(),
                run_config=run_config,
            )
            for node_id, node_config in enumerate(nodes, start=1)
        }
        self._sent = 0
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the virtual nodes."""
        return list(self._contexts)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Yield each node's reply as soon as it is asked for: only one need be in memory.

        Calls cannot be interrupted, so `timeout` is not observed.
        """
        for message in messages:
            yield self._call(message)

    def _call(self, message: Message) -> Message:
        self._sent += 1
        message.metadata.__dict__["_message_id"] = str(self._sent)
        # Every node is sent the same records; one that changes them must not change them for all.
        # The arrays in them hold bytes, which nobody can change.
        content = {
            key: record.copy() if isinstance(record, ArrayRecord) else copy.deepcopy(record)
            for key, record in message.content.items()
        }
        received = Message(
            RecordDict(content),
            message.metadata.dst_node_id,
            message.metadata.message_type,
        )
        received.metadata.__dict__["_message_id"] = str(self._sent)
        try:
            return self._client_app(received, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            logger.debug("client failed", exc_info=True)
            reason = f"{type(error).__name__}: {error}"
            return Message(Error(code=_CLIENT_APP_RAISED, reason=reason), reply_to=received)

    def set_run(self, run: Any) -> None:
        """Not needed in one process."""

    @property
    def run(self) -> Any:
        """Not available in one process."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not available: make a ``Message`` directly."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not available: use ``send_and_receive``."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Nothing: no reply comes late."""
        return []


def run_in_process(
    overrides: Sequence[str],
    client_app: ClientApp = default_client_app,
    server_app: ServerApp = default_server_app,
    nodes: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Run a whole federation in this process.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, paths absolute.
    client_app, server_app : ClientApp, ServerApp
        What nodes and server run.
    nodes : sequence of dict, optional
        The ``--node-config`` of each data holder's node, for a deployment in one process; by
        default virtual nodes share the groups.

    Raises
    ------
    ConfigError, SurveyError, FederationError
        As the apps raise them.
    """
    # Flower logs for an operator of many runs; here the run's own lines say what happens.
    logging.getLogger("flwr").setLevel(logging.WARNING)
    config = load_config(overrides, None)
    run_config: dict[str, Any] = {"overrides": shlex.join(overrides)}
    grid = InProcessGrid(client_app, nodes or plan_nodes(config), run_config)
    context = Context(
        run_id=random.getrandbits(62),
        node_id=0,
        node_config={},
        state=RecordDict(),
        run_config=run_config,
    )
    server_app(grid, context)


def run_here(overrides: Sequence[str]) -> Path:
    """Run a whole federation in this process; a folder of a run that failed at once is removed.

    Parameters
    ----------
    overrides : sequence of str
        Hydra overrides, paths absolute; without ``output_dir`` a new folder in ``outputs``.

    Returns
    -------
    Path
        The run's folder.
    """
    config = load_config(overrides, None)
    folder = config.resume or config.output_dir
    if folder is None:
        folder = str(new_run_folder(Path.cwd() / "outputs"))
        overrides = [*overrides, f"output_dir={hydra_quote(folder)}"]
    try:
        run_in_process(overrides)
    except BaseException:
        remove_empty(Path(folder))
        raise
    return Path(folder)
