"""What stands before the application: host, token, limits of requests, security headers.

A plain ASGI middleware: it reads the body itself, so that an oversized or slow one is refused while
it arrives.
"""

import asyncio
import base64
import binascii
import hmac
import json
import re
import time
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plurallm.reward.http.metrics import Metrics

OPEN_PATHS = ("/health",)
"""Paths that need no token and take no body, so that no limit has to stand before them."""

_PORT = re.compile(rb":\d*\Z")


class Guard:
    """Refuses what the application should not see, and counts what it answers.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    paths : collection of str
        The application's paths, for the metrics.
    metrics : Metrics
        Counts requests.
    token : str or None
        What clients must send: as ``Authorization: Bearer TOKEN``, or as the password of HTTP Basic
        authentication, which a browser asks for and ``http://user:TOKEN@host`` sends.
    hosts : collection of str, optional
        Names that requests may give the server, IPv6 addresses in brackets; None for any.
    max_body_bytes, max_concurrency : int
        Limits; only requests with the token count as concurrent.
    body_timeout : float
        Seconds until the body must have arrived.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        paths: Collection[str],
        metrics: Metrics,
        token: str | None,
        hosts: Collection[str] | None,
        max_body_bytes: int,
        max_concurrency: int,
        body_timeout: float,
    ) -> None:
        self._app = app
        self._paths = frozenset(paths)
        self._metrics = metrics
        self._token = None if token is None else token.encode()
        self._hosts = None if hosts is None else {host.lower().encode() for host in hosts}
        self._max_body_bytes = max_body_bytes
        self._max_concurrency = max_concurrency
        self._body_timeout = body_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), None

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_SECURITY_HEADERS]
            await send(message)

        try:
            await self._serve(scope, receive, send_counted)
        except asyncio.CancelledError:
            # The server ends and has waited long enough: no fault that belongs in its log.
            if status is None:
                await _refuse(send_counted, 503, "the server ends")
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count_request(path, status or 500, time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        host = _PORT.sub(b"", headers.get(b"host", b"")).lower()
        if self._hosts is not None and host not in self._hosts:
            await _refuse(send, 400, "the server goes by another host name")
        elif scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        elif not _sends(headers.get(b"authorization", b""), self._token):
            challenge = [(b"www-authenticate", b'Basic realm="plurallm", charset="UTF-8"')]
            await _refuse(send, 401, "a token is needed", challenge)
        elif self._metrics.in_flight >= self._max_concurrency:
            await _refuse(send, 503, "too many requests at once", [(b"retry-after", b"1")])
        else:
            self._metrics.in_flight += 1
            try:
                await self._admit(scope, receive, send, headers.get(b"content-length", b"0"))
            finally:
                self._metrics.in_flight -= 1

    async def _admit(self, scope: Scope, receive: Receive, send: Send, length: bytes) -> None:
        """Read the body and let the application answer."""
        if not length.isdigit() or int(length[:20]) > self._max_body_bytes:
            await _refuse(send, 413, f"a body has at most {self._max_body_bytes} bytes")
            return
        try:
            async with asyncio.timeout(self._body_timeout):
                body = await self._read(receive)
        except TimeoutError:
            await _refuse(send, 408, f"the body did not arrive in {self._body_timeout:g} seconds")
            return
        if body is None:
            await _refuse(send, 413, f"a body has at most {self._max_body_bytes} bytes")
            return
        given = False

        async def receive_body() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, receive_body, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """Read a body; None as soon as it is too large."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                return None
            if not message.get("more_body", False):
                return bytes(body)


def in_url(host: str) -> str:
    """Write a host as URLs and ``Host`` headers do: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _sends(authorization: bytes, token: bytes | None) -> bool:
    """Whether a header carries the token, if there is one; compared in constant time."""
    if token is None:
        return True
    scheme, _, value = authorization.partition(b" ")
    sent = value.strip()
    if scheme.lower() == b"basic":
        try:
            sent = base64.b64decode(sent, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != b"bearer":
        return False
    return hmac.compare_digest(sent, token)


async def _refuse(
    send: Send, status: int, reason: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    body = json.dumps({"detail": reason}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    # What is left of the body is not read, so the connection cannot be used again.
    start += [(b"connection", b"close"), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
