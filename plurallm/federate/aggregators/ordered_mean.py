"""Averages that do not depend on who answers first."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plurallm.record.checkpoint import Arrays

_BLOCK = 32768
"""Values of an array that are taken at a time: what is made of them stays in the processor's cache.
"""

_TOGETHER = 8
"""Updates that are added in one pass over the sums, which are the larger part of what is read."""

_Weighted = tuple[Mapping[str, npt.NDArray[Any]], float]


class Mean(Protocol):
    """Takes updates as they arrive, each once, and gives their mean."""

    def add(self, group: str, arrays: Mapping[str, npt.NDArray[Any]], weight: float) -> None:
        """Take a group's update."""

    def skip(self, group: str) -> None:
        """Do without a group."""

    def average(self) -> Arrays:
        """Mean in float64, once all groups are settled."""


class OrderedMean:
    """Weighted mean in float64, summed in one order whatever the order of arrival.

    Updates are added eight at a time, once all before them are settled, and kept only until then: a
    stream in order takes the memory of eight updates, or of the replies that they are parts of,
    whatever its length.

    Parameters
    ----------
    order : iterable of str
        All groups that may come.
    """

    def __init__(self, order: Iterable[str]) -> None:
        self._order = list(order)
        self._waiting: dict[str, _Weighted | None] = {}
        self._ready: list[_Weighted] = []
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._weight = 0.0

    def add(self, group: str, arrays: Mapping[str, npt.NDArray[Any]], weight: float) -> None:
        """Take a group's update with a positive weight."""
        self._settle(group, (arrays, weight))

    def skip(self, group: str) -> None:
        """Do without a group."""
        self._settle(group, None)

    def average(self) -> Arrays:
        """Mean of all added updates, in float64; it takes the place of their sum."""
        self._accumulate()
        for total in self._sums.values():
            total /= self._weight
        return self._sums

    def _settle(self, group: str, update: _Weighted | None) -> None:
        self._waiting[group] = update
        while self._order and self._order[0] in self._waiting:
            ready = self._waiting.pop(self._order.pop(0))
            if ready is not None:
                self._ready.append(ready)
            if len(self._ready) == _TOGETHER:
                self._accumulate()

    def _accumulate(self) -> None:
        """Add what is ready, each value in the order of the updates."""
        updates, self._ready = self._ready, []
        for arrays, weight in updates:
            self._weight += weight
            for name, array in arrays.items():
                if name not in self._sums:
                    self._sums[name] = np.full(array.shape, -0.0)  # to which -0 may be added
        for name, total in self._sums.items():
            flat = total.reshape(-1)
            parts = [(arrays[name].reshape(-1), weight) for arrays, weight in updates]
            for block in blocks(flat.size):
                for part, weight in parts:
                    flat[block] += np.multiply(part[block], weight, dtype=np.float64)


def blocks(length: int) -> Iterator[slice]:
    """Slices of an array of so many values, one after the other."""
    return (slice(start, start + _BLOCK) for start in range(0, length, _BLOCK))
