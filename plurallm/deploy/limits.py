"""What strangers may use of the public port before a key was checked."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

logger = logging.getLogger("plurallm.proxy")

_SMALL = 2**16  # bytes of a body that never waits: heartbeats and questions
_LOG_SECONDS = 5.0  # between lines about refusals: a stranger must not fill the disk
_MOST_REASONS = 100  # addresses, too, are somebody else's to choose


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
        if amount <= _SMALL:
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


class Connections:
    """Counts what is open, by address.

    Parameters
    ----------
    limits : Limits
        How much may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()

    def take(self, address: str) -> bool:
        """Count one more, where there is room."""
        full = self._open.total() >= self._limits.connections
        if full or self._open[address] >= self._limits.connections_per_address:
            return False
        self._open[address] += 1
        return True

    def give_back(self, address: str) -> None:
        """Count one less."""
        self._open[address] -= 1
        self._open = +self._open


class Refusals:
    """Counts what was refused, and says it now and then."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()
        self._logged = 0.0

    def note(self, what: str, address: str) -> None:
        """Count one, and log all since the last line where that is long ago."""
        self._counted[f"{what} ({address})"] += 1
        if len(self._counted) > _MOST_REASONS:
            self._counted = Counter({"of many addresses": self._counted.total()})
        now = asyncio.get_running_loop().time()
        if now > self._logged + _LOG_SECONDS:
            told = ", ".join(f"{count} x {text}" for text, count in self._counted.items())
            logger.warning("refused: %s", told)
            self._counted.clear()
            self._logged = now
