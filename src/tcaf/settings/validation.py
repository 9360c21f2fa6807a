"""Settings that check themselves: frozen pydantic dataclasses whose errors are one line.

Owns the decorator `settings` and the words of what is wrong with a value: what was expected, what
came, and the nearest right name. Ranges stand beside the fields, as `Annotated[int, Field(ge=1)]`.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from tcaf.errors import TCAFError, did_you_mean

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
"""A number of things, at least one."""

Positive = Annotated[float, Field(gt=0)]
"""A number above 0."""

NotNegative = Annotated[float, Field(ge=0)]
"""A number from 0 on."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A share that leaves something, as a dropout must."""

_UNIONS = (Union, UnionType)
"""What `A | B` is, with `Annotated` in it or without."""

_OUT_OF_RANGE = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
)
"""What pydantic calls a number that its annotation's range does not hold."""

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""No text for a number, no truth value for a count, no unknown name, nothing infinite."""


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(section: str, *, kw_only: bool = False) -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass that checks its values when it is made.

    Types, choices and ranges are those of the annotations; `__post_init__` may check what concerns
    several fields, and raises `TCAFError`.

    Args:
        section: what messages call the settings, as in `training.epochs`; may be empty.
        kw_only: whether values are given by name alone.
    """

    def decorate(kind: type[T]) -> type[T]:
        made: Any = pydantic_dataclass(frozen=True, kw_only=kw_only, config=_STRICT)(kind)
        make = made.__init__

        @functools.wraps(make)
        def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807
            try:
                make(self, *args, **values)
            except ValidationError as error:
                raise TCAFError(_in_words(error, section, type(self))) from None

        made.__init__ = __init__
        checked: type[T] = made
        return checked

    return decorate


@functools.cache
def _checked(kind: type, section: str) -> type:
    return settings(section, kw_only=True)(type(kind.__name__, (kind,), {}))


def check_values(kind: type, values: Mapping[str, Any], section: str) -> None:
    """Checks values for a dataclass that does not check itself, such as one of a user's file.

    Raises:
        TCAFError: a value is of another type than its annotation says, or out of its range.
    """
    _checked(kind, section)(**values)


def _in_words(error: ValidationError, section: str, kind: type) -> str:
    """Returns the first thing that pydantic found wrong, in one line."""
    found = error.errors(include_url=False)[0]
    if cause := found.get("ctx", {}).get("error"):
        return str(cause)  # what `__post_init__` raised
    field = str(found["loc"][0])
    name = f"{section}.{field}" if section else field
    hint = get_type_hints(kind, include_extras=True).get(field)
    if hint is None:
        near = did_you_mean(field, [each.name for each in fields(kind)])
        return f"there is no setting {name}{near}"
    if found["type"] == "missing":
        return f"{name} is missing"
    limits = range_of(hint)
    if limits and found["type"] in _OUT_OF_RANGE:
        unit = " seconds" if name.endswith("_s") else ""
        return f"{name} must be {limits}{unit}, got {found['input']}"
    return wrong_value(name, found["input"], hint)


def wrong_value(name: str, value: object, hint: Any) -> str:
    """Returns what is wrong with a value that its annotation does not allow, in one line."""
    if choices := choices_of(hint):
        listed = ", ".join(map(repr, choices))
        return f"{name}: expected one of {listed}, got {value!r}{did_you_mean(str(value), choices)}"
    return f"{name}: expected {type_name(hint)}, got {value!r}"


def _parted(hint: Any) -> tuple[Any, list[Any]]:
    """Returns a type without `Annotated`, and all constraints that stood there."""
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        kind, more = _parted(inner)
        limits = [limit for note in notes for limit in getattr(note, "metadata", [])]
        return kind, [*more, *limits]
    if get_origin(hint) in _UNIONS:
        parts = [_parted(part) for part in get_args(hint)]
        return hint, [limit for _, limits in parts for limit in limits]
    return hint, []


def range_of(hint: Any) -> str:
    """Returns the range of a number in words, such as `at least 0 and below 1`; empty if none."""
    words = {
        Ge: ("at least", "ge"),
        Gt: ("above", "gt"),
        Lt: ("below", "lt"),
        Le: ("at most", "le"),
    }
    _, limits = _parted(hint)
    return " and ".join(
        f"{word} {getattr(limit, name):g}"
        for kind, (word, name) in words.items()
        for limit in limits
        if isinstance(limit, kind)
    )


def choices_of(hint: Any) -> tuple[str, ...]:
    """Returns the words that a setting may be; none if it is no choice."""
    kind, _ = _parted(hint)
    return get_args(kind) if get_origin(kind) is Literal else ()


def type_name(hint: Any) -> str:
    """Returns a type as people write it: `int`, `float | None`, `list` for several values."""
    kind, _ = _parted(hint)
    if get_origin(kind) in _UNIONS:
        return " | ".join(type_name(part) for part in get_args(kind))
    if kind is NoneType:
        return "None"
    if get_origin(kind) is tuple:
        return "list"
    return str(getattr(kind, "__name__", kind))
