"""Averages that do not depend on who answers first."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from plurallm.checkpoint import Arrays


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
        """Mean of all added updates, in float64."""
        return {name: total / self._weight for name, total in self._sums.items()}

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
            weighted = np.multiply(array, weight, dtype=np.float64)
            if name in self._sums:
                self._sums[name] += weighted
            else:
                self._sums[name] = weighted
