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
import resource
import signal
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import h11

from plurallm.deploy.heads import content_length, problem
from plurallm.deploy.limits import Budget, Connections, Limits, Refusals
from plurallm.deploy.wire import Wire, pass_on, refuse


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
        self._connections = Connections(limits)
        self._refusals = Refusals()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, from its first byte to its end."""
        address = str(writer.get_extra_info("peername", ("?",))[0])
        limits = self._limits
        if not self._connections.take(address):
            self._refusals.note("too many connections", address)
            writer.transport.abort()
            return
        wire = Wire(h11.SERVER, reader, writer, limits.head_bytes)
        upstream: Wire | None = None
        clock = asyncio.get_running_loop().time
        deadline = clock() + limits.head_seconds
        try:
            async with asyncio.timeout_at(deadline):
                await writer.start_tls(self._identity)
            while True:
                async with asyncio.timeout_at(deadline):
                    request = await wire.next_event(limits.idle_seconds)
                if not isinstance(request, h11.Request):
                    break
                refused = problem(request, limits.body_bytes)
                if refused is not None:
                    self._refusals.note(f"{refused[0]} {refused[1]}", address)
                    await refuse(wire, *refused, limits.head_seconds)
                    break
                if upstream is None:
                    upstream = await self._dial()
                size = content_length(request)
                async with (
                    asyncio.timeout(limits.body_seconds),
                    self._bodies.hold(address, size),
                ):
                    await pass_on(request, wire, upstream, limits)
                if wire.http.our_state is not h11.DONE or upstream.http.our_state is not h11.DONE:
                    break
                wire.http.start_next_cycle()
                if upstream.http.their_state is h11.DONE:
                    upstream.http.start_next_cycle()
                else:
                    await upstream.close()
                    upstream = None
                deadline = clock() + limits.idle_seconds
        except h11.RemoteProtocolError as error:
            self._refusals.note("no HTTP", address)
            with suppress(Exception):
                await refuse(wire, error.error_status_hint, "not understood", limits.head_seconds)
        except TimeoutError:
            self._refusals.note("too slow", address)
        except ConnectionRefusedError:
            self._refusals.note("the SuperLink is away", address)
            with suppress(Exception):
                await refuse(wire, 502, "the SuperLink is away", limits.head_seconds)
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, h11.LocalProtocolError):
            pass  # the other side has gone
        except asyncio.CancelledError:
            pass  # the proxy ends, and nobody waits for this task
        finally:
            for side in (wire, upstream):
                if side is not None:
                    await side.close()
            self._connections.give_back(address)

    async def _dial(self) -> Wire:
        host, port = self._superlink
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(host, port, ssl=self._trust), self._limits.head_seconds
        )
        return Wire(h11.CLIENT, reader, writer, 2**20)


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
    # Each connection takes two descriptors, and many systems give a process no more than 1024.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
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
