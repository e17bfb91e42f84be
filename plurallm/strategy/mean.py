"""Averages that do not depend on who answers first."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plurallm.checkpoint import Arrays

BLOCK = 8192
"""Values of an array that are taken at a time: what is made of them stays in the processor's cache.
"""


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

    An update is added as soon as all before it are settled and kept only until then, so that a
    stream in order takes the memory of one update.

    Parameters
    ----------
    order : iterable of str
        All groups that may come.
    """

    def __init__(self, order: Iterable[str]) -> None:
        self._order = list(order)
        self._waiting: dict[str, tuple[Mapping[str, npt.NDArray[Any]], float] | None] = {}
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
        for total in self._sums.values():
            total /= self._weight
        return self._sums

    def _settle(
        self, group: str, update: tuple[Mapping[str, npt.NDArray[Any]], float] | None
    ) -> None:
        self._waiting[group] = update
        while self._order and self._order[0] in self._waiting:
            ready = self._waiting.pop(self._order.pop(0))
            if ready is not None:
                self._accumulate(*ready)

    def _accumulate(self, arrays: Mapping[str, npt.NDArray[Any]], weight: float) -> None:
        self._weight += weight
        for name, array in arrays.items():
            if name not in self._sums:
                out = np.empty(array.shape)  # a number, too, stays an array
                self._sums[name] = np.multiply(array, weight, out=out, dtype=np.float64)
                continue
            total, part = self._sums[name].reshape(-1), array.reshape(-1)
            for start in range(0, len(part), BLOCK):
                block = slice(start, start + BLOCK)
                total[block] += np.multiply(part[block], weight, dtype=np.float64)
