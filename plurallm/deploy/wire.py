"""One side of a connection, and what is passed from one to another."""

import asyncio
from contextlib import suppress
from typing import Any

import h11

from plurallm.deploy.heads import end_to_end
from plurallm.deploy.limits import Limits

_BLOCK = 2**16
_CLOSE_SECONDS = 2.0


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


async def refuse(wire: Wire, status: int, reason: str, seconds: float) -> None:
    """Answer with a reason, and let the connection end."""
    body = reason.encode()
    headers = [("content-length", str(len(body))), ("connection", "close")]
    answer = h11.Response(status_code=status, headers=headers)
    for event in (answer, h11.Data(data=body), h11.EndOfMessage()):
        await wire.send(event, seconds)


async def pass_on(request: h11.Request, wire: Wire, upstream: Wire, limits: Limits) -> None:
    """Pass a request on and its answer back, part by part.

    Raises
    ------
    TimeoutError
        When either side is too slow.
    ConnectionResetError
        When either side ends in the middle.
    """
    seconds = limits.idle_seconds
    headers = end_to_end(request.headers)
    await upstream.send(
        h11.Request(method=request.method, target=request.target, headers=headers), seconds
    )
    clock = asyncio.get_running_loop().time
    began, received = clock(), 0
    while isinstance(event := await wire.next_event(seconds), h11.Data):
        received += len(event.data)
        if received < (clock() - began - seconds) * limits.body_rate:
            raise TimeoutError
        await upstream.send(event, seconds)
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionResetError
    await upstream.send(h11.EndOfMessage(), seconds)
    # How long the SuperLink takes to answer is its own affair.
    answer = await upstream.next_event(limits.body_seconds)
    if not isinstance(answer, h11.Response):
        raise ConnectionResetError
    await wire.send(
        h11.Response(status_code=answer.status_code, headers=end_to_end(answer.headers)),
        seconds,
    )
    while isinstance(event := await upstream.next_event(seconds), h11.Data):
        await wire.send(event, seconds)
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionResetError
    await wire.send(h11.EndOfMessage(), seconds)
