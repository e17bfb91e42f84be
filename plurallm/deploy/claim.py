"""The claim that a process has on its task, kept while the process starts, and asked for later.

Flower gives a task that was claimed 30 seconds until its process reports, and then starts another
process for it: on a busy machine, where Python and torch take longer, ever more of them.
"""

import time

import httpx
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supercore.tls import validate_and_resolve_root_certificates

START_SECONDS = 180.0
"""So long the claim is kept for the process, which then speaks for itself."""

LOOK_SECONDS = 10.0
"""Between two looks; Flower waits for 30 s, and 60 s after a heartbeat."""

NOTHING = PullObjectRequest(node=Node(node_id=SUPERLINK_NODE_ID), object_id="0" * 64)
"""Asks for an object that does not exist: SuperLink and SuperNode take that from every task."""


class Claim:
    """One process's claim.

    Parameters
    ----------
    spec : ExecutionSpec
        What the process was started for.
    """

    def __init__(self, spec: ExecutionSpec) -> None:
        self._began = self._looked = time.monotonic()
        self._refused = 0
        self._client = RuntimeHttpClient.from_server_address(
            server_address=spec.runtime_api_address,
            insecure=spec.insecure,
            root_certificates=validate_and_resolve_root_certificates(
                spec.root_certificates_path, spec.insecure
            ),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                RuntimeTokenHttpInterceptor(spec.token),
            ],
        )

    def is_lost(self) -> bool:
        """Whether nobody waits for the process any more: two looks in a row found no claim."""
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return self._refused > 1
        self._looked = now
        try:
            if now < self._began + START_SECONDS:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            else:  # another request, which prolongs nothing: only whether the token still counts
                self._client.PullObject(NOTHING)
        except httpx.HTTPStatusError as error:
            # Not 403: Flower answers that to a token that counts, but not for this request.
            refused = error.response.status_code == httpx.codes.UNAUTHORIZED
            self._refused = self._refused + 1 if refused else 0
        except httpx.HTTPError:
            pass  # the link is away: nothing is known
        else:
            self._refused = 0
        return self._refused > 1

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
