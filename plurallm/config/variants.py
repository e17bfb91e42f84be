"""Variants: the choices of a kind, a file each, from here and from other packages.

A variant is a class whose discriminating field is a ``Literal`` of its names. Ours are the classes
in the modules of one package; another package offers its own by an entry point, whose name is the
variant's: ``[project.entry-points."plurallm.strategies"] mine = "my_package.mine:Mine"``. Whoever
runs a node thus decides by what is installed there which code a run may name.
"""

import difflib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from plurallm.config.error import ConfigError

Base = TypeVar("Base")

CONFIG_TREES = "plurallm.conf"
"""Entry points of packages that hold yaml files for our config groups."""


@dataclass(frozen=True)
class Kind(Generic[Base]):
    """One kind of variants.

    Attributes
    ----------
    base : type
        What every variant is.
    section : str
        What messages call it: a section of the configuration, where it is one.
    field : str
        The discriminating field.
    package : str
        Where ours are.
    group : str
        Entry points of other packages'.
    """

    base: type[Base]
    section: str
    field: str
    package: str
    group: str

    def find(self, name: object) -> type[Base]:
        """Give the class of a name.

        Raises
        ------
        ConfigError
            Naming the nearest known name, or what is wrong with a package that offers it.
        """
        if name in _own(self):
            return _own(self)[str(name)]
        for point in entry_points(group=self.group):
            if point.name == name:
                return self._load(point)
        near = difflib.get_close_matches(str(name), self.names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        known, key = ", ".join(self.names), f"{self.section}.{self.field}"
        raise ConfigError(f"{key} must be one of {known}, but is {name!r}{hint}")

    @property
    def names(self) -> tuple[str, ...]:
        """Every name there is, ours first."""
        others = sorted(point.name for point in entry_points(group=self.group))
        return tuple(dict.fromkeys([*_own(self), *others]))

    @property
    def all(self) -> dict[str, type[Base]]:
        """Every variant by its name, ours first."""
        return {name: self.find(name) for name in self.names}

    def _load(self, point: EntryPoint) -> type[Base]:
        found = point.load()
        if not (isinstance(found, type) and issubclass(found, self.base)):
            raise ConfigError(
                f"entry point {point.name!r} of {self.group}: {point.value} is no subclass of "
                f"{self.base.__name__}"
            )
        if point.name not in _names(found, self.field):
            raise ConfigError(
                f"entry point {point.name!r} of {self.group}: {point.value} does not go by that "
                "name"
            )
        return found


def config_trees() -> list[Path]:
    """Folders of yaml files that other packages bring."""
    trees = []
    for point in entry_points(group=CONFIG_TREES):
        trees += [Path(place) for place in import_module(point.value).__path__]
    return trees


@cache
def _own(kind: Kind[Base]) -> Mapping[str, type[Base]]:
    """Our variants by their names, modules in alphabetical order."""
    found: dict[str, type[Base]] = {}
    for module in sorted(
        each.name for each in pkgutil.iter_modules(import_module(kind.package).__path__)
    ):
        for value in vars(import_module(f"{kind.package}.{module}")).values():
            if (
                isinstance(value, type)
                and issubclass(value, kind.base)
                and value.__module__ == f"{kind.package}.{module}"
            ):
                found |= dict.fromkeys(_names(value, kind.field), value)
    return found


def _names(variant: type, field: str) -> tuple[Any, ...]:
    return get_args(variant.__annotations__.get(field))
