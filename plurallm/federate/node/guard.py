"""The node's own log, and what of an error leaves the node."""

import logging
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from plurallm.config.error import ConfigError
from plurallm.federate.node.settings import node_settings

logger = logging.getLogger("plurallm")


def guard(
    message: Message, context: Context, call_next: Callable[[Message, Context], Message]
) -> Message:
    """On a data holder's node, log every message, and keep what an error says inside.

    An error can quote a row of the survey. What the server is told of one is its kind, except for
    a refusal, which speaks of the run and of group names only.
    """
    if node_settings(context.node_config) is None:
        return call_next(message, context)
    if not logger.hasHandlers():  # Flower's processes show its own log only
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
    kind, started = message.metadata.message_type, perf_counter()
    try:
        reply = call_next(message, context)
    except ConfigError as error:
        logger.error("%s refused: %s", kind, error)
        raise
    except Exception as error:
        logger.exception("%s failed", kind)
        name = type(error).__name__
        raise RuntimeError(f"{name} on the node, whose own log says more") from None
    config: Mapping[str, Any] = message.content.config_records.get("config", ConfigRecord())
    answered: Mapping[str, Any] = next(iter(reply.content.config_records.values()))
    logger.info(
        "%s round=%s groups=%s seconds=%.2f bytes=%d",
        kind,
        config.get("round", "-"),
        ",".join(answered["groups"]),
        perf_counter() - started,
        sum(
            len(array.data)
            for record in reply.content.array_records.values()
            for array in record.values()
        ),
    )
    return reply
