"""Heads of HTTP messages: which requests are let through, and with which headers."""

from typing import Any

import h11

LET_THROUGH = frozenset(
    f"/v1/fleet/{name}".encode()
    for name in (
        *("register-node", "activate-node", "deactivate-node", "unregister-node"),
        *("send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab"),
        *("push-object", "pull-object", "confirm-message-received"),
    )
)
"""What Flower's SuperNode asks for."""

_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)


def problem(request: h11.Request, body_bytes: int) -> tuple[int, str] | None:
    """Status and reason of a request that is not let through, or None.

    Parameters
    ----------
    request : h11.Request
        The head.
    body_bytes : int
        Most that a body may have.
    """
    if request.method != b"POST" or request.target not in LET_THROUGH:
        return 404, "no such thing here"
    names = [name for name, _ in request.headers]
    if names.count(b"content-length") != 1 or b"transfer-encoding" in names:
        return 411, "the body's length must be said"
    if b"upgrade" in names or b"expect" in names:
        return 400, "not understood"
    if content_length(request) > body_bytes:
        return 413, f"a body may have {body_bytes} bytes"
    return None


def content_length(request: h11.Request) -> int:
    """Bytes that the body is announced with; h11 has checked that it is a number."""
    return int(next(value for name, value in request.headers if name == b"content-length"))


def end_to_end(headers: Any) -> list[tuple[bytes, bytes]]:
    """Headers without those that concern one connection alone."""
    framing = any(name == b"transfer-encoding" for name, _ in headers)
    kept = [(name, value) for name, value in headers if name not in _HOP_BY_HOP]
    return [*kept, (b"transfer-encoding", b"chunked")] if framing else kept
