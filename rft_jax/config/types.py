"""Which values a setting takes, by the annotation of its field."""

import collections.abc
import dataclasses
import types
import typing
from typing import Any, ClassVar, Literal, Protocol, TypeGuard


class DataclassInstance(Protocol):
    """An instance of a data class."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


def is_settings_class(value: object) -> TypeGuard[type[Any]]:
    """Whether a value is a class of settings."""
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def is_settings(value: object) -> TypeGuard[DataclassInstance]:
    """Whether a value is a section of settings, no single one."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


MISMATCH = object()  # what `convert` returns for a value of another type


def alternatives(kind: Any) -> tuple:
    """The types of a union, or the one type."""
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    return typing.get_args(kind) if union else (kind,)


def convert(value: object, kind: Any) -> Any:
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
    if any(typing.get_origin(option) is collections.abc.Callable for option in alternatives(kind)):
        return "a name, module:name of a function, or a function"
    for option in alternatives(kind):
        if typing.get_origin(option) is Literal:
            return "one of " + ", ".join(map(str, typing.get_args(option)))
    return (
        "a value of type " + getattr(kind, "__name__", str(kind))
        if isinstance(kind, type)
        else f"a value of type {kind}"
    )
