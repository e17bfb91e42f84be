"""The public port of a deployment: lets nodes through to the SuperLink, and nothing else.

Flower serves nodes, operators and the processes of runs on one port, and asks for a key only of
nodes. So the SuperLink listens on loopback, and this proxy, on the public port, passes ``POST
/v1/fleet/NAME`` for the names that nodes need. Whatever else is asked for is answered with 404 and
never reaches it. Everything that a stranger can make grow is bounded before a key was checked:
connections, also those of one address, headers, bodies, bodies under way together, and time.

    python -m plurallm.deploy.proxy --listen 0.0.0.0:8443 --superlink localhost:9000
        --certificate server.crt --key server.key --ca ca.crt
"""

import argparse
import asyncio
import logging
import signal
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

import h11

logger = logging.getLogger("plurallm.proxy")

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
_BLOCK = 2**16
_CLOSE_SECONDS = 2.0
_LOG_SECONDS = 5.0  # between lines about refusals: a stranger must not fill the disk


@dataclass(frozen=True)
class Limits:
    """What one stranger, or all together, may use.

    Attributes
    ----------
    connections, connections_per_address : int
        Open at a time.
    head_bytes : int
        Of a request's first line and headers.
    body_bytes : int
        Of one request's body.
    bodies_bytes : int
        Of all large bodies under way: a further one waits, also one whose address has half of it.
    head_seconds : float
        From the connection, TLS included, to the end of the first request's headers.
    idle_seconds : float
        Between requests of a connection, and between two parts of a body.
    body_seconds : float
        For a whole request and its answer.
    body_rate : float
        Bytes a second that a body must bring on the average, after the first `idle_seconds`.
    """

    connections: int = 512
    connections_per_address: int = 64
    head_bytes: int = 2**14
    body_bytes: int = 64 * 2**20
    bodies_bytes: int = 256 * 2**20
    head_seconds: float = 15.0
    idle_seconds: float = 60.0
    body_seconds: float = 600.0
    body_rate: float = 2**15


class Budget:
    """Bytes of bodies that may be under way together; who asks for more waits.

    No address has more than half, so that one stranger does not shut out everybody else.

    Parameters
    ----------
    size : int
        Bytes in all.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, address: str, amount: int) -> AsyncIterator[None]:
        """Wait until so many bytes are free, and keep them."""
        if amount <= _BLOCK:  # heartbeats and questions never wait
            yield
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._fits(address, amount))
            self._taken[address] += amount
        try:
            yield
        finally:
            async with self._changed:
                self._taken[address] -= amount
                self._taken = +self._taken
                self._changed.notify_all()

    def _fits(self, address: str, amount: int) -> bool:
        own = self._taken[address] + amount <= self._size // 2
        return own and self._taken.total() + amount <= self._size


class Wire:
    """One side of a connection, as HTTP/1.1 events.

    Parameters
    ----------
    role : h11.SERVER or h11.CLIENT
        Which side this program is.
    reader, writer : asyncio streams
        Of the socket.
    head_bytes : int
        Bound of the headers.
    """

    def __init__(
        self,
        role: type[h11.CLIENT] | type[h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head_bytes: int,
    ) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=head_bytes)
        self.reader, self.writer = reader, writer

    async def next_event(self, seconds: float) -> Any:
        """Give the next event; `TimeoutError` where nothing comes for so long."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await asyncio.wait_for(self.reader.read(_BLOCK), seconds))

    async def send(self, event: Any, seconds: float) -> None:
        """Send an event; `TimeoutError` where the other side does not take it."""
        data = self.http.send(event)
        if data:
            self.writer.write(data)
            await asyncio.wait_for(self.writer.drain(), seconds)

    async def close(self) -> None:
        """Let the other side have what was sent, but do not wait for it for long."""
        self.writer.close()
        with suppress(Exception):
            await asyncio.wait_for(self.writer.wait_closed(), _CLOSE_SECONDS)
        self.writer.transport.abort()


class Proxy:
    """Passes nodes' requests to the SuperLink.

    Parameters
    ----------
    superlink : tuple of str and int
        Host and port.
    trust : ssl.SSLContext
        Whose certificate the SuperLink must have.
    identity : ssl.SSLContext
        The certificate shown to nodes.
    limits : Limits
        What they may use.
    """

    def __init__(
        self,
        superlink: tuple[str, int],
        trust: ssl.SSLContext,
        identity: ssl.SSLContext,
        limits: Limits,
    ) -> None:
        self._superlink = superlink
        self._trust = trust
        self._identity = identity
        self._limits = limits
        self._bodies = Budget(limits.bodies_bytes)
        self._open: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._logged = 0.0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, from its first byte to its end."""
        address = str(writer.get_extra_info("peername", ("?",))[0])
        limits = self._limits
        if (
            self._open.total() >= limits.connections
            or self._open[address] >= limits.connections_per_address
        ):
            self._note("too many connections", address)
            writer.transport.abort()
            return
        self._open[address] += 1
        wire = Wire(h11.SERVER, reader, writer, limits.head_bytes)
        upstream: Wire | None = None
        seconds = limits.head_seconds
        try:
            async with asyncio.timeout(limits.head_seconds):
                await writer.start_tls(self._identity)
            while True:
                async with asyncio.timeout(seconds):
                    request = await wire.next_event(seconds)
                if not isinstance(request, h11.Request):
                    break
                problem = self._problem(request)
                if problem is not None:
                    self._note(f"{problem[0]} {problem[1]}", address)
                    await self._refuse(wire, *problem)
                    break
                if upstream is None:
                    upstream = await self._dial()
                size = _content_length(request)
                async with (
                    asyncio.timeout(limits.body_seconds),
                    self._bodies.hold(address, size),
                ):
                    await self._pass(request, wire, upstream)
                if wire.http.our_state is not h11.DONE or upstream.http.our_state is not h11.DONE:
                    break
                wire.http.start_next_cycle()
                if upstream.http.their_state is h11.DONE:
                    upstream.http.start_next_cycle()
                else:
                    await upstream.close()
                    upstream = None
                seconds = limits.idle_seconds
        except h11.RemoteProtocolError as error:
            self._note("no HTTP", address)
            with suppress(Exception):
                await self._refuse(wire, error.error_status_hint, "not understood")
        except TimeoutError:
            self._note("too slow", address)
        except ConnectionRefusedError:
            self._note("the SuperLink is away", address)
            with suppress(Exception):
                await self._refuse(wire, 502, "the SuperLink is away")
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, h11.LocalProtocolError):
            pass  # the other side has gone
        except asyncio.CancelledError:
            pass  # the proxy ends, and nobody waits for this task
        finally:
            for side in (wire, upstream):
                if side is not None:
                    await side.close()
            self._open[address] -= 1
            self._open = +self._open

    def _problem(self, request: h11.Request) -> tuple[int, str] | None:
        """Status and reason of what is not let through."""
        if request.method != b"POST" or request.target not in LET_THROUGH:
            return 404, "no such thing here"
        names = [name for name, _ in request.headers]
        if names.count(b"content-length") != 1 or b"transfer-encoding" in names:
            return 411, "the body's length must be said"
        if b"upgrade" in names or b"expect" in names:
            return 400, "not understood"
        if _content_length(request) > self._limits.body_bytes:
            return 413, f"a body may have {self._limits.body_bytes} bytes"
        return None

    async def _refuse(self, wire: Wire, status: int, reason: str) -> None:
        body = reason.encode()
        headers = [("content-length", str(len(body))), ("connection", "close")]
        answer = h11.Response(status_code=status, headers=headers)
        for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
            await wire.send(event, self._limits.head_seconds)

    async def _dial(self) -> Wire:
        host, port = self._superlink
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host, port, ssl=self._trust), self._limits.head_seconds
        )
        return Wire(h11.CLIENT, reader, writer, 2**20)

    async def _pass(self, request: h11.Request, wire: Wire, upstream: Wire) -> None:
        """Pass a request on and its answer back, part by part."""
        seconds = self._limits.idle_seconds
        headers = _end_to_end(request.headers)
        await upstream.send(
            h11.Request(method=request.method, target=request.target, headers=headers), seconds
        )
        clock = asyncio.get_running_loop().time
        began, received = clock(), 0
        while isinstance(event := await wire.next_event(seconds), h11.Data):
            received += len(event.data)
            if received < (clock() - began - seconds) * self._limits.body_rate:
                raise TimeoutError
            await upstream.send(event, seconds)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        await upstream.send(h11.EndOfMessage(), seconds)
        # How long the SuperLink takes to answer is its own affair.
        answer = await upstream.next_event(self._limits.body_seconds)
        if not isinstance(answer, h11.Response):
            raise ConnectionResetError
        await wire.send(
            h11.Response(status_code=answer.status_code, headers=_end_to_end(answer.headers)),
            seconds,
        )
        while isinstance(event := await upstream.next_event(seconds), h11.Data):
            await wire.send(event, seconds)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError
        await wire.send(h11.EndOfMessage(), seconds)

    def _note(self, what: str, address: str) -> None:
        """Count what was refused; say it now and then."""
        self._refused[f"{what} ({address})"] += 1
        if len(self._refused) > 100:  # addresses, too, are somebody else's to choose
            self._refused = Counter({"of many addresses": self._refused.total()})
        now = asyncio.get_running_loop().time()
        if now > self._logged + _LOG_SECONDS:
            told = ", ".join(f"{count} x {text}" for text, count in self._refused.items())
            logger.warning("refused: %s", told)
            self._refused.clear()
            self._logged = now


def _content_length(request: h11.Request) -> int:
    # h11 has checked that it is a number.
    return int(next(value for name, value in request.headers if name == b"content-length"))


def _end_to_end(headers: Any) -> list[tuple[bytes, bytes]]:
    framing = any(name == b"transfer-encoding" for name, _ in headers)
    kept = [(name, value) for name, value in headers if name not in _HOP_BY_HOP]
    return [*kept, (b"transfer-encoding", b"chunked")] if framing else kept


def identity_context(certificate: str, key: str) -> ssl.SSLContext:
    """Context of the public port: TLS 1.2 or later, with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context


async def serve(proxy: Proxy, listen: tuple[str, int], superlink: tuple[str, int]) -> None:
    """Wait for the SuperLink, then let nodes in until TERM or Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    while not ended.is_set():
        try:
            _, writer = await asyncio.open_connection(*superlink)
        except OSError:
            await asyncio.sleep(0.2)
            continue
        writer.close()
        break
    server = await asyncio.start_server(proxy.connected, *listen, backlog=128)
    async with server:
        print(f"Nodes may connect to {listen[0]}:{listen[1]}", flush=True)
        await ended.wait()


def host_and_port(text: str) -> tuple[str, int]:
    """Read ``host:port``; an IPv6 address stands in brackets."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def main(arguments: Sequence[str]) -> Literal[0]:
    """Serve until a signal."""
    logging.basicConfig(format="proxy: %(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(prog="plurallm.deploy.proxy", description=__doc__)
    parser.add_argument("--listen", type=host_and_port, required=True)
    parser.add_argument("--superlink", type=host_and_port, required=True)
    for name in ("--certificate", "--key", "--ca"):
        parser.add_argument(name, required=True)
    for name, default in (("connections", 512), ("connections-per-address", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--body-megabytes", type=int, default=64, help="of one request")
    options = parser.parse_args(arguments)
    limits = Limits(
        connections=options.connections,
        connections_per_address=options.connections_per_address,
        body_bytes=options.body_megabytes * 2**20,
        bodies_bytes=4 * options.body_megabytes * 2**20,
    )
    proxy = Proxy(
        options.superlink,
        ssl.create_default_context(cafile=options.ca),
        identity_context(options.certificate, options.key),
        limits,
    )
    asyncio.run(serve(proxy, options.listen, options.superlink))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
