"""Values with their ranges as types, and what is said of a value that breaks one.

Sections of the configuration are pydantic's dataclasses and not its models, because
``dataclasses.replace`` checks what it makes and ``model_copy`` does not.
"""

import difflib
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen, MultipleOf
from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from plurallm.config.error import ConfigError

Section = TypeVar("Section")

SECTION = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""How every section is checked: no value is guessed, no key is ignored, numbers are finite."""


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_as_text)]
"""A text; a number is one too, such as the name of a wave of a survey or of a folder."""

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
"""Part of a whole that is never all of it."""
Probability = Annotated[float, Field(gt=0, lt=1)]


def make_section(schema: type[Section], values: Mapping[str, Any], name: str = "") -> Section:
    """Check the values of one section.

    Parameters
    ----------
    schema : type
        A pydantic dataclass.
    values : mapping of str to Any
        By key.
    name : str
        The section, which errors put before its keys.

    Returns
    -------
    Section
        The checked values.

    Raises
    ------
    ConfigError
        Naming the key, its value and what is allowed; of an unknown key the nearest known one.
    """
    prefix = f"{name}." if name else ""
    for key, value in values.items():
        if value == "???":
            raise ConfigError(f"{prefix}{key} has no value: give {prefix}{key}=...")
    try:
        return schema(**values)
    except ValidationError as error:
        raise _explained(error, schema, values, prefix) from error


def change_section(section: Section, name: str, **changes: Any) -> Section:
    """Replace some values of a section.

    Raises
    ------
    ConfigError
        As ``make_section``; ``dataclasses.replace`` would raise pydantic's own error.
    """
    return make_section(type(section), vars(section) | changes, name)


def _explained(
    error: ValidationError, schema: type, values: Mapping[str, Any], prefix: str
) -> ConfigError:
    """Say what is wrong with the first key that is."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return cause
    key = str(first["loc"][0])
    fields: dict[str, FieldInfo] = getattr(schema, "__pydantic_fields__")  # noqa: B009
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        return ConfigError(f"{prefix}{key} is not a key of the configuration{hint}")
    if key not in values:
        return ConfigError(f"{prefix}{key} has no value: give {prefix}{key}=...")
    in_kind = first["type"].startswith(("greater", "less", "multiple"))
    allowed = _rule(fields[key].annotation, fields[key].metadata, in_kind)
    return ConfigError(f"{prefix}{key} must be {allowed}, but is {values[key]!r}")


def _rule(kind: Any, limits: Iterable[Any], in_kind: bool) -> str:
    """Which values a type allows, in words; of a number that is one, its range alone."""
    if get_origin(kind) is Annotated:
        kind, *own = get_args(kind)
        return _rule(kind, [*limits, *own], in_kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_rule(each, (), in_kind) for each in get_args(kind))
    if get_origin(kind) is Literal:
        *most, last = map(repr, get_args(kind))
        return f"{', '.join(most)} or {last}" if most else last
    if get_origin(kind) is list:
        filled = "that is not empty" if any(isinstance(each, MinLen) for each in limits) else ""
        return " ".join(("a list such as [A,B]", filled)).strip()
    if get_origin(kind) is dict:
        return "a mapping such as {A:B}"
    if kind in (int, float):
        noun = "a whole number" if kind is int else "a number"
        return " ".join([noun] * (not in_kind) + [_range(limits)]).strip()
    return {NoneType: "null", bool: "true or false"}.get(kind, "a text")


def _range(limits: Iterable[Any]) -> str:
    """Both ends of a range in words; one end as a sign."""
    low: list[str] = []
    high: list[str] = []
    step: list[str] = []
    for limit in limits:
        for each in limit.metadata if isinstance(limit, FieldInfo) else [limit]:
            match each:
                case Ge(ge=bound):
                    low = [f"at least {bound}", f">= {bound}"]
                case Gt(gt=bound):
                    low = [f"above {bound}", f"> {bound}"]
                case Le(le=bound):
                    high = [f"at most {bound}"]
                case Lt(lt=bound):
                    high = [f"below {bound}"]
                case MultipleOf(multiple_of=bound):
                    step = [f"a multiple of {bound}"]
    return ", ".join([*low[:1], *high] if high else [*low[1:], *step])
