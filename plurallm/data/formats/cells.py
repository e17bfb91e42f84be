"""What stands in one cell of a survey file: lists as JSON, Python literals, texts."""

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

_SEMICOLON = re.compile(r'("(?:[^"\\]|\\.)*")|;', re.DOTALL)


class CellError(ValueError):
    """A cell that cannot be read; the message names the column."""


def filled(cell: object) -> bool:
    """Tell whether a cell holds anything."""
    return cell is not None and str(cell).strip() != ""


def json_list(cell: object, column: str) -> list[Any]:
    """Read a list that is JSON text, or already a list (parquet).

    Semicolons between its items count as commas: files where they separate cells have them.
    """
    if isinstance(cell, str):
        try:
            cell = json.loads(cell if ";" not in cell else _SEMICOLON.sub(_comma, cell))
        except (ValueError, RecursionError) as error:
            raise CellError(f"column {column!r} is not JSON: {error}") from error
    if not isinstance(cell, list):
        raise CellError(f"column {column!r} is not a list: {cell!r}")
    return cell


def _comma(match: re.Match[str]) -> str:
    return match[1] or ","


def literal(cell: str, kind: type[list[Any]] | type[dict[Any, Any]], column: str) -> Any:
    """Read a list or dictionary as Python prints it; nothing of it is run."""
    try:
        tree = ast.parse(cell.strip(), mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise CellError(f"column {column!r} is not a Python {kind.__name__}") from error
    if not isinstance(value, kind):
        raise CellError(f"column {column!r} is not a Python {kind.__name__}")
    if isinstance(tree.body, ast.Dict) and len(value) < len(tree.body.keys):
        names = Counter(ast.literal_eval(key) for key in tree.body.keys if key is not None)
        raise CellError(f"column {column!r} has {names.most_common(1)[0][0]!r} twice")
    return value


def texts(options: Sequence[object]) -> tuple[str, ...]:
    """Options as texts; scales list some as numbers: 1.0 is the answer "1"."""
    for option in options:
        if isinstance(option, bool) or not isinstance(option, str | int | float):
            raise CellError(f"option {option!r} is neither a text nor a number")
    return tuple(
        str(int(option))
        if isinstance(option, float) and option.is_integer()
        else str(option).strip()
        for option in options
    )
