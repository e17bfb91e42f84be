"""What a layout of survey files is."""

from collections.abc import Callable
from dataclasses import dataclass

from plurallm.data.builder import Builder


@dataclass(frozen=True)
class Layout:
    """One way in which a file is laid out.

    Attributes
    ----------
    name : str
        In words.
    columns : tuple of str
        Columns that it must have; a file may have more.
    read : callable
        Puts the rows into a survey.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[Builder], None]
