"""A table as text: the same in a terminal and on the page."""

from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes
    ----------
    title : str
        What it shows.
    columns : tuple of str
        Headings.
    rows : tuple of tuple of str
        As wide as the headings.
    labels : int
        How many of the first columns name the row; the others hold numbers.
    note : str
        What a reader must know to read it.
    strong : frozenset of int
        Rows to stress.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    labels: int = 1
    note: str = ""
    strong: frozenset[int] = frozenset()

    def for_terminal(self) -> Table:
        """The table for rich; texts are no markup."""
        table = Table(
            title=Text(self.title),
            caption=Text(self.note) if self.note else None,
            box=box.SIMPLE,
            pad_edge=False,
            collapse_padding=True,
        )
        for number, heading in enumerate(self.columns):
            table.add_column(
                Text(heading),
                justify="left" if number < self.labels else "right",
                overflow="fold",  # a cut-off number is a wrong number
                no_wrap=number >= self.labels,
            )
        for number, row in enumerate(self.rows):
            style = "bold" if number in self.strong else None
            table.add_row(*(Text(cell) for cell in row), style=style)
        return table
