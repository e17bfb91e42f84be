"""A bounded store of computed values: the least recently used are forgotten first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """Values by key; several threads may ask at once. A copy of it, or a pickle, starts empty.

    Parameters
    ----------
    size : int
        How many values are kept.

    Attributes
    ----------
    hits, misses : int
        Keys that were found, and that had to be computed.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = 0
        self.misses = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._size,)

    def get(
        self, keys: Sequence[Key], compute: Callable[[list[Key]], Sequence[Value]]
    ) -> list[Value]:
        """Take values, computing those that are missing in one call.

        Parameters
        ----------
        keys : sequence
            All different.
        compute : callable
            From the missing keys to their values.

        Returns
        -------
        list
            One value for each key.
        """
        with self._lock:
            found = {key: self._values[key] for key in keys if key in self._values}
            for key in found:
                self._values.move_to_end(key)
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        missing = [key for key in keys if key not in found]
        if missing:
            computed = dict(zip(missing, compute(missing), strict=True))
            found |= computed
            with self._lock:
                self._values |= computed
                while len(self._values) > self._size:
                    self._values.popitem(last=False)
        return [found[key] for key in keys]

    def clear(self) -> None:
        """Forget all values."""
        with self._lock:
            self._values.clear()
