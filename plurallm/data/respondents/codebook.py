"""Codebooks: tables or YAML that say what the columns and codes of a survey mean."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from plurallm.config.surveys import CODEBOOK_COLUMNS as COLUMNS
from plurallm.data.formats.tabular import SurveyError
from plurallm.data.identity import label
from plurallm.data.respondents.codes import Variable
from plurallm.data.respondents.respondent_files import read_sheet

_KINDS = {
    **dict.fromkeys(("ordinal", "ordered", "likert"), "ordinal"),
    **dict.fromkeys(("nominal", "categorical", "binary", "dichotomous"), "nominal"),
    **dict.fromkeys(("numeric", "scale", "continuous", "interval", "count"), "numeric"),
    **dict.fromkeys(("open", "text", "identifier", "weight", "date", "other"), "other"),
    "": "",
}
_USE = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": None}
_SPAN = re.compile(
    r"(?:range\s*:?)?\s*(-?\d+)\s*(?:[-\u2012-\u2015]|\.\.|to)\s*(-?\d+)", re.IGNORECASE
)


class _UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a mapping in which a key stands twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key!r} stands there twice", problem_mark=node.start_mark
                )
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def read_codebook(path: Path, columns: Mapping[str, str]) -> dict[str, Variable]:
    """Read a codebook.

    Parameters
    ----------
    path : Path
        ``.yaml`` or ``.yml``: by variable, a mapping of the others of ``CODEBOOK_COLUMNS``; or a
        table with one row a variable. ``options`` as ``1=Yes; 2=No; 9=No answer*`` (a star: no
        answer) or as JSON; ``codes``, those that are answers, as ``{1,2,3}`` or ``0-10``;
        ``missing``, those that are none, as ``77;88;99``; ``type`` ordinal, nominal, numeric or
        other; ``use`` whether it is a question.
    columns : mapping of str to str
        Names of the table's columns, by those of ``CODEBOOK_COLUMNS``; others are called as there.

    Returns
    -------
    dict of str to Variable
        In the order of the codebook.

    Raises
    ------
    SurveyError
        Naming the codebook, the variable and the cell.
    """
    found: dict[str, Variable] = {}
    rows = (
        _yaml_rows(path) if path.suffix.lower() in (".yaml", ".yml") else _table_rows(path, columns)
    )
    for cells in rows:
        name = label(cells.get("variable"))
        if not name:
            continue
        if name in found:
            raise SurveyError(f"{path}: variable {name!r} stands there twice")
        try:
            found[name] = _variable(name, cells)
        except ValueError as error:
            raise SurveyError(f"{path}, variable {name!r}: {error}") from error
    if not found:
        raise SurveyError(f"{path}: no variable in it")
    return found


def _table_rows(path: Path, columns: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    sheet = read_sheet(path)
    names = {name: columns.get(name, name) for name in COLUMNS}
    for name, column in names.items():
        if column not in sheet.columns and (name == "variable" or column != name):
            raise SurveyError(
                f"{path}: column {column!r} is missing; the columns are "
                f"{', '.join(sheet.columns)}: name it with data.codebook_columns.{name}"
            )
    cells = {
        name: sheet.columns[column].texts()
        for name, column in names.items()
        if column in sheet.columns
    }
    for row in zip(*cells.values(), strict=True):
        yield dict(zip(cells, row, strict=True))


def _yaml_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise SurveyError(
            f"{path}: not a readable YAML file: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(tree, dict) or not all(isinstance(own, dict) for own in tree.values()):
        raise SurveyError(f"{path}: a codebook in YAML is a mapping of variables to mappings")
    for name, own in tree.items():
        strange = sorted(set(own) - set(COLUMNS))
        if strange:
            raise SurveyError(
                f"{path}, variable {name!r}: {strange[0]!r} is not one of {', '.join(COLUMNS[1:])}"
            )
        yield {"variable": name, **own}


def _variable(name: str, cells: Mapping[str, Any]) -> Variable:
    labels, starred = _options(cells.get("options"))
    codes, span = _codes(cells.get("codes"))
    kind, use = (str(cells.get(key) or "").strip().lower() for key in ("type", "use"))
    if isinstance(cells.get("use"), bool):
        use = str(cells["use"]).lower()
    if kind not in _KINDS:
        raise ValueError(f"type {kind!r} is not ordinal, nominal, numeric or other")
    if use not in _USE:
        raise ValueError(f"use {use!r} is neither true nor false")
    bare = [code for code, text in labels.items() if not text]
    if span is not None:
        labels = {code: text for code, text in labels.items() if text}
    elif bare and _USE[use] is not False:
        raise ValueError(f"option {bare[0]} has no text: write it, or use=false")
    return Variable(
        name,
        str(cells.get("question") or "").strip(),
        labels,
        starred | _missing(cells.get("missing")),
        codes=codes,
        span=span,
        kind=_KINDS[kind],
        asked=_USE[use],
    )


def _options(cell: Any) -> tuple[dict[str, str], frozenset[str]]:
    """Texts by code, and the codes whose text has a star."""
    if isinstance(cell, str) and cell.strip().startswith("{"):
        try:
            cell = json.loads(cell, object_pairs_hook=list)
        except ValueError as error:
            raise ValueError(f"options are not JSON: {error}") from error
    if isinstance(cell, dict):
        cell = list(cell.items())
    if isinstance(cell, list):  # pairs, so that a code which stands twice shows
        pairs = [(label(code), str(text).strip()) for code, text in cell]
    elif "=" not in str(cell or ""):  # a unit, such as "in years"
        pairs = []
    else:
        pieces = [piece for piece in str(cell).split(";") if piece.strip()]
        bare = [piece.strip() for piece in pieces if "=" not in piece]
        if bare:
            raise ValueError(
                f"option {bare[0]!r} has no code: write 1={bare[0]}, or the options as JSON"
            )
        pairs = [
            (label(code), text.strip()) for code, _, text in (p.partition("=") for p in pieces)
        ]
    labels: dict[str, str] = {}
    for code, text in pairs:
        if code in labels:
            raise ValueError(f"code {code} stands there twice")
        labels[code] = text.rstrip("*").strip()
    return labels, frozenset(code for code, text in pairs if text.endswith("*"))


def _codes(cell: Any) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Codes of a set such as ``{1,2,3}``, or the ends of a range such as ``0-10``."""
    if isinstance(cell, list | tuple):
        return tuple(label(code) for code in cell), None
    text = str(cell or "").strip()
    if not text:
        return (), None
    if text[0] in "{[" and text[-1] in "}]":
        return tuple(label(code) for code in re.split(r"[,;]", text[1:-1]) if code.strip()), None
    span = _SPAN.fullmatch(text)
    if span is None or int(span[1]) >= int(span[2]):
        raise ValueError(
            f"codes {text!r} are neither a set such as {{1,2,3}} nor a range such as 0-10"
        )
    return (), (int(span[1]), int(span[2]))


def _missing(cell: Any) -> frozenset[str]:
    codes = cell if isinstance(cell, list) else re.split(r"[,;\s]+", label(cell))
    return frozenset(label(code) for code in codes if label(code))
