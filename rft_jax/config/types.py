"""Which values a setting takes, by the annotation of its field."""

import types
import typing
from typing import Any, Literal

MISMATCH = object()  # what `convert` returns for a value of another type


def alternatives(kind: Any) -> tuple:
    """The types of a union, or the one type."""
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def convert(value: Any, kind: Any) -> Any:
    """The value as one of this type, which is no union; `MISMATCH` if it is none."""
    origin = typing.get_origin(kind)
    if origin is Literal:
        return value if value in typing.get_args(kind) else MISMATCH
    if origin is tuple:
        items = value if isinstance(value, tuple | list) else (value,)
        options = alternatives(typing.get_args(kind)[0])
        found = [[convert(item, option) for option in options] for item in items]
        found = [[value for value in values if value is not MISMATCH] for values in found]
        return tuple(values[0] for values in found) if all(found) else MISMATCH
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or kind
    if isinstance(value, bool) and plain is not bool:
        return MISMATCH
    return value if isinstance(plain, type) and isinstance(value, plain) else MISMATCH


def describe(kind: Any) -> str:
    """The type for people."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    return (
        "a value of type " + getattr(kind, "__name__", str(kind))
        if isinstance(kind, type)
        else f"a value of type {kind}"
    )
