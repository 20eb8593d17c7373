"""Reading a grader's JSON: every complaint names the path inside of it and the remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rft_jax.graders.template import Template, TemplateError, parse_template
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:
    from rft_jax.graders.types import GraderType

# Part of OpenAI's format without a meaning in training; see `registry.load_pass_threshold`.
_IGNORED = ("pass_threshold",)


@dataclass(frozen=True)
class Fields:
    """One JSON object of a grader.

    Attributes:
        values: the object.
        source: the file, empty if there is none.
        path: of the object inside the JSON, empty for the whole.
        parse_grader: reads the grader in such an object, under a name for it.
    """

    values: Mapping[str, Any]
    source: str
    path: str
    parse_grader: Callable[[Fields, str], GraderType]

    def error(self, key: str, sentence: str) -> InputError:
        """An exception about one field, or the object itself if the key is empty."""
        path = ".".join(part for part in (self.path, key) if part)
        return InputError(": ".join(part for part in (self.source, path, sentence) if part))

    def inside(self, key: str, values: Mapping[str, Any]) -> Fields:
        """The fields of an object under this one."""
        path = ".".join(part for part in (self.path, key) if part)
        return Fields(values, self.source, path, self.parse_grader)

    def only(self, *keys: str) -> None:
        """Refuses any field but these."""
        known = ("type", "name", *keys)
        for key in self.values:
            if key not in (*known, *_IGNORED):
                raise self.error(key, f"unknown field; remove it (known: {', '.join(known)})")

    def string(self, key: str) -> str:
        """A required string."""
        if key not in self.values:
            raise self.error(key, "is missing; add it as a string")
        value = self.values[key]
        if not isinstance(value, str):
            raise self.error(key, f"must be a string, not {_kind(value)}; put it in quotes")
        return value

    def unicode(self, key: str, text: str) -> str:
        """The text, which must be encodable: no lone surrogates."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.error(
                key, "holds a lone surrogate, which is not Unicode text; remove it"
            ) from None
        return text

    def choice(self, key: str, options: Sequence[str]) -> str:
        """A required string out of a few."""
        value = self.string(key)
        if value not in options:
            raise self.error(key, f"unknown {key} {value!r}; use one of {', '.join(options)}")
        return value

    def template(self, key: str) -> Template:
        """A required string with `{{ ... }}` in it."""
        try:
            return parse_template(self.string(key), ".".join(filter(None, (self.path, key))))
        except TemplateError as error:
            raise self.error(key, str(error)) from None

    def variable(self, key: str, namespace: str, example: str) -> Template:
        """A required template that is one variable of a namespace and nothing else."""
        template = self.template(key)
        variable = template.variable
        if variable is None or variable.namespace != namespace:
            raise self.error(key, f"must be one variable such as {example} and nothing else")
        return template

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """An optional whole number from low to high."""
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self.error(key, f"must be a whole number from {low} to {high}, not {value!r}")
        return value

    def numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """An optional list of finite numbers, with at least one."""
        values = self.values.get(key, default)
        if not isinstance(values, list | tuple) or not values:
            raise self.error(key, "must be a list of numbers with at least one, such as [1, 0.5]")
        for n, value in enumerate(values):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise self.error(f"{key}[{n}]", f"must be a finite number, not {value!r}")
        return tuple(float(value) for value in values)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
