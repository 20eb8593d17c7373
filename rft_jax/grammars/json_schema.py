"""A JSON Schema as an automaton over the bytes of its documents: OpenAI's strict subset.

    automaton = schema_automaton({"type": "object", ...}, "schema.json: schema")

Documents are written as `json.dumps(value, ensure_ascii=False)` writes them: one space after a
comma and a colon, none elsewhere; characters as they are, but for those that JSON wants escaped;
objects have all their properties, in the schema's order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeGuard

from rft_jax.grammars import characters
from rft_jax.grammars.byte_automaton import (
    MOST_STATES,
    UNBOUNDED,
    Ambiguous,
    ByteAutomaton,
    Graph,
    Stretch,
    TooManyStates,
    build,
)
from rft_jax.grammars.errors import ResponseFormatError, shortened
from rft_jax.grammars.json_strings import FORMATS, write_content
from rft_jax.grammars.numbers import Bound, Range, write_number
from rft_jax.strings.regex_syntax import RegexError

NESTING = 5  # how often a schema may stand within itself
LONGEST_WRITTEN = 256  # characters of a string that are states where they cannot be counted
_MOST_NODES = 1 << 18  # of the graph
_MOST_PARTS = 1 << 14  # of the schema, with references followed

_DESCRIPTIVE = ("title", "description", "$schema", "$id", "$comment", "default", "examples")
_DEFINITIONS = ("$defs", "definitions")
_KEYWORDS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "integer": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    "boolean": (),
    "null": (),
}
_PYTHON_TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


class _Impossible(Exception):
    """No document is described; `place` says by what part of the schema, `why` for what reason."""

    def __init__(self, place: str, why: str):
        super().__init__(place, why)
        self.place, self.why = place, why


def schema_automaton(schema: Mapping[str, Any], place: str, separator: str = "") -> ByteAutomaton:
    """The documents that a schema describes.

    Args:
        place: Where the schema is, for messages; keys are put behind it with a dot.
        separator: What may stand in front of a document.

    Raises:
        ResponseFormatError: Naming what is wrong, not supported, unsatisfiable or too large.
    """
    written_out: set[Stretch] = set()
    while True:
        writer = _Writer(schema, place, written_out)
        try:
            entry = writer.write(schema, place, writer.graph.accept)
            entry = writer.graph.optionally(separator.encode(), entry)
            automaton = build(writer.graph, entry)
        except Ambiguous as found:
            written_out |= found.stretches
        except _Impossible as impossible:
            raise ResponseFormatError(
                impossible.place, f"no answer is possible, since {impossible.why}; correct it"
            ) from None
        except TooManyStates:
            raise ResponseFormatError(
                writer.largest(),
                f"needs an automaton of more than {MOST_STATES} states; lower "
                "its maxItems, minItems or lengths, nest less, or write a simpler pattern",
            ) from None
        except RecursionError:
            raise ResponseFormatError(place, "is nested too deep; write it flatter") from None
        else:
            if automaton is None:
                raise ResponseFormatError(
                    place, "no answer is possible; correct the schema's bounds"
                )
            return automaton


@dataclass
class _Writer:
    """Writes each part of a schema in front of the node that follows it."""

    schema: Mapping[str, Any]
    place: str
    written_out: set[Stretch]
    graph: Graph = field(default_factory=Graph)
    sizes: dict[str, int] = field(default_factory=dict)  # nodes, by place
    nesting: tuple[str, ...] = ()  # references that lead to where it is
    parts: int = 0  # that were written

    def write(self, schema: Any, place: str, follow: int) -> int:
        """Writes the documents of a schema, then `follow`."""
        # Parts without an answer add nothing to the graph, and can be as many as they like.
        self.parts += 1
        if self.parts > _MOST_PARTS:
            raise TooManyStates
        before = len(self.graph)
        entry = self._write(schema, place, follow)
        self.sizes[place] = self.sizes.get(place, 0) + len(self.graph) - before
        if len(self.graph) > _MOST_NODES:
            raise TooManyStates
        return entry

    def largest(self) -> str:
        """The smallest part of the schema that takes more than half of the graph."""
        large = [place for place, size in self.sizes.items() if 2 * size > len(self.graph)]
        return max(large, key=len, default=self.place)

    def _write(self, schema: Any, place: str, follow: int) -> int:
        if not isinstance(schema, Mapping):
            raise ResponseFormatError(
                place, f"must be an object with a type, not {shortened(schema)}; correct it"
            )
        if "$ref" in schema:
            _only(schema, place, "$ref")
            return self._write_reference(schema["$ref"], place, follow)
        if "oneOf" in schema:
            raise ResponseFormatError(f"{place}.oneOf", "is not supported here; use anyOf")
        if "anyOf" in schema:
            _only(schema, place, "anyOf")
            options = _list(schema, "anyOf", place)
            writes = [
                lambda option=option, index=index: self.write(
                    option, f"{place}.anyOf.{index}", follow
                )
                for index, option in enumerate(options)
            ]
            return self._write_possible(writes, place)
        if "const" in schema or "enum" in schema:
            keyword = "const" if "const" in schema else "enum"
            _only(schema, place, keyword, "type")
            values = [schema["const"]] if keyword == "const" else _list(schema, "enum", place)
            return self._write_values(values, _types(schema, place), f"{place}.{keyword}", follow)
        types = _types(schema, place)
        if not types:
            raise ResponseFormatError(
                place,
                f"has no type; add one of {', '.join(_KEYWORDS)}, or anyOf, enum, const or $ref",
            )
        _only(schema, place, "type", *(keyword for kind in types for keyword in _KEYWORDS[kind]))
        if "number" in types:
            types = [kind for kind in types if kind != "integer"]
        writes = [
            lambda kind=kind: getattr(self, f"_write_{kind}")(schema, place, follow)
            for kind in types
        ]
        return self._write_possible(writes, place)

    def _write_possible(self, writes: Iterable[Callable[[], int]], place: str) -> int:
        """One of several, of which some may be impossible."""
        entries, reason = [], None
        for write in writes:
            try:
                entries.append(write())
            except _Impossible as impossible:
                reason = reason or _Impossible(impossible.place, impossible.why)
        if not entries:
            raise reason or _Impossible(place, "there is nothing to choose from")
        return entries[0] if len(entries) == 1 else self.graph.node(*entries)

    def _write_reference(self, reference: Any, place: str, follow: int) -> int:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise ResponseFormatError(
                f"{place}.$ref",
                f"must begin with '#', as #/$defs/NAME does, not be {shortened(reference)}; "
                "put what it refers to into the schema's $defs",
            )
        target: Any = self.schema
        for key in reference[1:].split("/")[1:]:
            key = key.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key in map(str, range(len(target))):
                target = target[int(key)]
            elif isinstance(target, Mapping) and key in target:
                target = target[key]
            else:
                raise ResponseFormatError(
                    f"{place}.$ref", f"there is no {shortened(reference)} in the schema; add it"
                )
        if self.nesting.count(reference) >= NESTING:
            raise _Impossible(
                f"{place}.$ref", f"{reference} would stand within itself more than {NESTING} times"
            )
        outer, self.nesting = self.nesting, (*self.nesting, reference)
        try:
            return self.write(target, place, follow)
        finally:
            self.nesting = outer

    def _write_values(self, values: list[Any], types: list[str], place: str, follow: int) -> int:
        texts = []
        for value in values:
            if types and not any(_is_of(value, kind) for kind in types):
                continue
            try:
                texts.append(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
            except ValueError as error:  # with half of a surrogate pair, or no number
                raise ResponseFormatError(
                    place, f"{shortened(value)} is not JSON ({error}); correct it"
                ) from None
        if not texts:
            raise _Impossible(place, "it has no value of the type")
        return self.graph.node(*(self.graph.literal(text, follow) for text in texts))

    def _write_object(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        properties = schema.get("properties", {})
        if not isinstance(properties, Mapping):
            raise ResponseFormatError(
                f"{place}.properties", "must be an object of key -> schema; correct it"
            )
        required = schema.get("required", [])
        if not isinstance(required, list) or set(map(str, required)) != set(properties):
            raise ResponseFormatError(
                f"{place}.required",
                f"must list all properties ({', '.join(properties)}), as in "
                'OpenAI\'s strict mode; make what may be missing of type ["...", "null"]',
            )
        if schema.get("additionalProperties") is not False:
            raise ResponseFormatError(
                f"{place}.additionalProperties",
                "must be false, as in OpenAI's strict mode; add it",
            )
        node = self.graph.literal(b"}", follow)
        for index, key in reversed(list(enumerate(properties))):
            try:
                name = json.dumps(key, ensure_ascii=False).encode()
            except ValueError:
                raise ResponseFormatError(
                    f"{place}.properties", f"the key {shortened(key)} is no Unicode"
                ) from None
            node = self.write(properties[key], f"{place}.properties.{key}", node)
            node = self.graph.literal((b", " if index else b"") + name + b": ", node)
        return self.graph.literal(b"{", node)

    def _write_array(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        if "items" not in schema:
            raise ResponseFormatError(
                f"{place}.items", "is missing; add the schema of the array's elements"
            )
        low, high = _bounds(schema, place, "minItems", "maxItems")
        close = self.graph.literal(b"]", follow)

        def item(follow: int) -> int:
            return self.write(schema["items"], f"{place}.items", follow)

        entries = [close] if low == 0 else []
        try:
            if high is None:
                after = self.graph.node(close)
                more = item(after)
                self.graph.free[after] += (self.graph.literal(b", ", more),)
                for _ in range(low - 1):
                    more = item(self.graph.literal(b", ", more))
                entries.append(more)
            elif high:
                more = item(close)
                for count in reversed(range(1, high)):
                    another = self.graph.literal(b", ", more)
                    more = item(self.graph.node(another, *([close] if count >= low else [])))
                entries.append(more)
        except _Impossible:
            if low:
                raise
        return self.graph.literal(b"[", self.graph.node(*entries))

    def _write_string(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        low, high = _bounds(schema, place, "minLength", "maxLength")
        close = self.graph.literal(b'"', follow)
        patterns = []
        if "format" in schema:
            if not isinstance(schema["format"], str) or schema["format"] not in FORMATS:
                raise ResponseFormatError(
                    f"{place}.format",
                    f"{shortened(schema['format'])} is not supported; use one of "
                    f"{', '.join(FORMATS)}, or a pattern",
                )
            patterns.append((f"{place}.format", FORMATS[schema["format"]], "fullmatch"))
        if "pattern" in schema:
            patterns.append((f"{place}.pattern", schema["pattern"], "search"))
        if patterns:
            content = self._write_patterns(patterns, low, high, close)
        else:
            stretch = None if (low, high) == (0, None) else Stretch(low, high)
            as_states = stretch in self.written_out
            if as_states and max(low, high or 0) > LONGEST_WRITTEN:
                raise ResponseFormatError(
                    place,
                    "its characters cannot be counted, since another alternative of an "
                    "anyOf or of types begins with a string as well; set maxLength to at most "
                    f"{LONGEST_WRITTEN}, or leave the length open",
                )
            content = write_content(self.graph, stretch, follow, written_out=as_states)
        return self.graph.literal(b'"', content)

    def _write_patterns(
        self, patterns: list[tuple[str, Any, str]], low: int, high: int | None, close: int
    ) -> int:
        found = None
        for place, pattern, mode in patterns:
            if not isinstance(pattern, str):
                raise ResponseFormatError(
                    place, f"must be a string, not {shortened(pattern)}; correct it"
                )
            try:
                one = characters.of_regex(pattern, mode)
                found = one if found is None else characters.both(found, one)
                if place == patterns[-1][0] and (low, high) != (0, None):
                    found = characters.both(found, characters.of_length(low, high))
            except RegexError as error:
                raise ResponseFormatError(place, str(error)) from None
        assert found is not None, "there is a pattern"
        return characters.write(self.graph, found, close, escaped=True)

    def _write_number(
        self, schema: Mapping[str, Any], place: str, follow: int, integer: bool = False
    ) -> int:
        low = _tightest(schema, place, ("minimum", "exclusiveMinimum"), max)
        high = _tightest(schema, place, ("maximum", "exclusiveMaximum"), min)
        wanted = Range(low, high)
        if integer:
            wanted = Range(*(_whole(bound, sign) for bound, sign in ((low, 1), (high, -1))))
        if wanted.empty:
            raise _Impossible(place, "no number is within its bounds")
        return write_number(self.graph, wanted, integer, follow)

    def _write_integer(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        return self._write_number(schema, place, follow, integer=True)

    def _write_boolean(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        del schema, place
        return self.graph.node(*(self.graph.literal(text, follow) for text in (b"true", b"false")))

    def _write_null(self, schema: Mapping[str, Any], place: str, follow: int) -> int:
        del schema, place
        return self.graph.literal(b"null", follow)


def _only(schema: Mapping[str, Any], place: str, *known: str) -> None:
    for key in schema:
        if key not in (*known, *_DESCRIPTIVE, *_DEFINITIONS):
            raise ResponseFormatError(
                f"{place}.{key}",
                "is not supported here; remove it (supported beside "
                f"{known[0]}: {', '.join(known[1:]) or 'nothing'})",
            )


def _list(schema: Mapping[str, Any], key: str, place: str) -> list[Any]:
    if not isinstance(schema[key], list) or not schema[key]:
        raise ResponseFormatError(
            f"{place}.{key}", "must be a list with one member at least; correct it"
        )
    return schema[key]


def _types(schema: Mapping[str, Any], place: str) -> list[str]:
    types = schema.get("type", [])
    types = types if isinstance(types, list) else [types]
    for kind in types:
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            known = ", ".join(_KEYWORDS)
            raise ResponseFormatError(
                f"{place}.type", f"unknown type {shortened(kind)}; use one or a list of {known}"
            )
    return types


def _is_of(value: Any, kind: str) -> bool:
    if kind in _PYTHON_TYPES:
        return isinstance(value, _PYTHON_TYPES[kind])
    return _is_number(value) and (kind == "number" or value == int(value))


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a finite number; integers may be beyond all floats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _bounds(schema: Mapping[str, Any], place: str, least: str, most: str) -> tuple[int, int | None]:
    for key in (least, most):
        value = schema.get(key, 0)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ResponseFormatError(
                f"{place}.{key}",
                f"must be a whole number from 0 on, not {shortened(value)}; correct it",
            )
    low, high = schema.get(least, 0), schema.get(most)
    if low > UNBOUNDED:
        raise _Impossible(place, f"{least} is {shortened(low)}")
    if high is not None and low > high:
        raise _Impossible(place, f"{least} is {low} and {most} {high}")
    return low, high


def _tightest(
    schema: Mapping[str, Any], place: str, keys: tuple[str, str], pick: Callable
) -> Bound | None:
    bounds = []
    for key in keys:
        if key not in schema:
            continue
        value = schema[key]
        if not _is_number(value):
            raise ResponseFormatError(
                f"{place}.{key}", f"must be a finite number, not {shortened(value)}; correct it"
            )
        bounds.append(Bound(Decimal(repr(value)), key.startswith("exclusive")))
    if not bounds:
        return None
    value = pick(bound.value for bound in bounds)
    return Bound(value, any(bound.exclusive for bound in bounds if bound.value == value))


def _whole(bound: Bound | None, sign: int) -> Bound | None:
    """The same bound on integers, as one of them that is included.

    Args:
        sign: 1 for the least, -1 for the greatest.
    """
    if bound is None:
        return None
    # Not by arithmetic of decimals, which rounds to 28 digits.
    value = math.ceil(bound.value) if sign > 0 else math.floor(bound.value)
    return Bound(
        Decimal(value + sign if bound.exclusive and value == bound.value else value), False
    )
