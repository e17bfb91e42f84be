"""Rows of results, as a notebook shows them and as other programs take them."""

from collections import UserList
from typing import Any

from rich.console import Console
from rich.table import Table

Row = dict[str, Any]


class Rows(UserList[Row]):
    """Rows with equal keys: a list of dictionaries that prints as a table."""

    def to_pandas(self) -> Any:
        """Make a ``pandas.DataFrame``.

        Raises
        ------
        ImportError
            When pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas") from error
        return DataFrame(list(self))

    def __repr__(self) -> str:
        if not self:
            return "no rows"
        table = Table()
        for name in self[0]:
            table.add_column(name)
        for row in self:
            table.add_row(*map(_text, row.values()))
        console = Console(width=160, color_system=None, force_terminal=False)
        with console.capture() as shown:
            console.print(table)
        return shown.get().rstrip()


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
