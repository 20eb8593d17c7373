"""`json_schema`: 1 if the answer is JSON that a schema describes, else 0.

    {"type": "json_schema", "name": "shape", "schema": {
        "type": "object", "required": ["genes"], "additionalProperties": false,
        "properties": {"genes": {"type": "array", "items": {"type": "string"}, "maxItems": 10}}}}

The schema is JSON Schema, draft 2020-12, of which it may use `type`, `enum` and `const` (of
strings, numbers, booleans and null), `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
`minLength`, `maxLength`, `items`, `minItems`, `maxItems`, `properties`, `required` and
`additionalProperties` (true or false); any other keyword is refused, but those that only describe.
Numbers are compared exactly, lengths are code points, of equal keys the last counts. An answer that
is not JSON is a `sample_parse_error`.

Such a schema is a conjunction, and it is not recursive: each of its parts applies to values of one
depth. So it is walked from the root, all values that a part applies to at once.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

from rft_jax.graders.host_json import Value
from rft_jax.graders.protocols import DeviceNode
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import json_errors
from rft_jax.graders.types import HostScore, HostView, Items, SampleView, Score
from rft_jax.strings import JsonToken
from rft_jax.strings.json_numbers import compare_with, is_integer
from rft_jax.strings.json_tree import JsonTree
from rft_jax.strings.json_values import is_value
from rft_jax.strings.numbers import decimal_fraction
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, PyTree

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
DESCRIPTIVE = ("title", "description", "$schema", "$id", "$comment", "default", "examples")
BOUNDS: dict[str, Callable[[Any], Any]] = {
    "minimum": lambda order: order >= 0,
    "maximum": lambda order: order <= 0,
    "exclusiveMinimum": lambda order: order > 0,
    "exclusiveMaximum": lambda order: order < 0,
}
SIZES = ("minLength", "maxLength", "minItems", "maxItems")


@dataclass(frozen=True)
class AnyOf:
    """The values of an `enum` or `const`, by kind; literals as JSON writes them."""

    strings: tuple[str, ...]
    numbers: tuple[Decimal, ...]
    literals: tuple[str, ...]


@dataclass(frozen=True)
class Schema:
    """One schema of the tree.

    Attributes:
        types: Those that are allowed.
        choices: One for `enum`, one for `const`.
        bounds: Keywords of `BOUNDS` with their numbers.
        sizes: Keywords of `SIZES` with their numbers.
        items: Schema of an array's elements.
        properties: Schemas of an object's members.
        required: Keys that an object must have.
        additional: An object may have other keys than its properties.
    """

    types: tuple[str, ...] = TYPES
    choices: tuple[AnyOf, ...] = ()
    bounds: tuple[tuple[str, Decimal], ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    items: "Schema | None" = None
    properties: tuple[tuple[str, "Schema"], ...] = ()
    required: tuple[str, ...] = ()
    additional: bool = True

    def walk(self) -> "Iterator[Schema]":
        """This schema and all below."""
        yield self
        for schema in (self.items, *(schema for _, schema in self.properties)):
            if schema:
                yield from schema.walk()


@dataclass(frozen=True)
class JsonSchema(DeviceNode):
    """A validated `json_schema`; `source` is the schema as JSON."""

    type_name = "json_schema"
    name: str
    schema: Schema
    source: str = field(repr=False)

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "JsonSchema":
        """See `GraderType.parse`."""
        fields.only("schema")
        if "schema" not in fields.values:
            raise fields.error("schema", "is missing; add a JSON Schema as an object")
        schema = fields.values["schema"]
        return cls(name, _parse_schema(fields, "schema", schema), json.dumps(schema))

    def encode(self, items: Items) -> tuple[()]:
        """Nothing of the items is needed."""
        del items
        return ()

    @property
    def errors(self) -> tuple[str, ...]:
        """See `GraderType.errors`."""
        return "sample_parse_error", "other_error"

    def score(self, view: SampleView, encoded: PyTree) -> Score:
        """See `GraderType.score`."""
        del encoded
        scan = view.scan
        nodes = list(self.schema.walk())
        keys = [key for node in nodes for key in (*dict(node.properties), *node.required)]
        strings = [text for node in nodes for choice in node.choices for text in choice.strings]
        tree = JsonTree(scan, view.unescaped, keys, strings)
        wrong_NL = _violations(self.schema, tree, tree.root_NL, 0)
        holds_N = scan.valid_N & ~wrong_NL.any(axis=-1)
        errors = {
            "sample_parse_error": ~scan.valid_N & ~scan.too_deep_N,
            "other_error": scan.too_deep_N,
        }
        return Score(holds_N.astype(jnp.float32), errors, {}, {})

    def score_on_host(self, view: HostView, items: Items, n: int) -> HostScore:
        """See `GraderType.score_on_host`; through the library jsonschema."""
        try:
            import jsonschema
            import jsonschema.validators
        except ImportError:
            raise InputError(
                f"{self.name}: json_schema on the host needs jsonschema; pip install jsonschema"
            ) from None
        root = view.document.root
        if root is None:
            return HostScore(0.0, json_errors(view, root))
        checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
            "integer", lambda _, value: isinstance(value, Fraction) and value.denominator == 1
        )
        validator = jsonschema.validators.extend(
            jsonschema.Draft202012Validator, type_checker=checker
        )
        schema = json.loads(self.source, parse_float=Fraction)
        return HostScore(float(validator(schema).is_valid(_exact(root))))


def _parse_schema(fields: Fields, path: str, values: Any) -> Schema:
    """Reads a schema; errors name the path inside of the grader's JSON."""
    if isinstance(values, bool):
        return Schema() if values else Schema(types=())
    if not isinstance(values, Mapping):
        raise fields.error(path, f"must be an object or a boolean, not {values!r}; correct it")
    known = ("type", "enum", "const", *BOUNDS, *SIZES)
    known += ("items", "properties", "required", "additionalProperties")
    for key in values:
        if key not in (*known, *DESCRIPTIVE):
            raise fields.error(
                f"{path}.{key}", f"is not supported; remove it (supported: {', '.join(known)})"
            )
    properties = values.get("properties", {})
    if not isinstance(properties, Mapping):
        raise fields.error(f"{path}.properties", "must be an object of key -> schema; correct it")
    for key in properties:
        fields.unicode(f"{path}.properties", key)
    additional = values.get("additionalProperties", True)
    if not isinstance(additional, bool):
        raise fields.error(f"{path}.additionalProperties", "must be true or false; correct it")
    items = values.get("items")
    return Schema(
        types=_parse_types(fields, path, values),
        choices=_parse_choices(fields, path, values),
        bounds=tuple(
            (key, _number(fields, f"{path}.{key}", values[key])) for key in BOUNDS if key in values
        ),
        sizes=tuple(
            (key, _size(fields, f"{path}.{key}", values[key])) for key in SIZES if key in values
        ),
        items=_parse_schema(fields, f"{path}.items", items) if "items" in values else None,
        properties=tuple(
            (key, _parse_schema(fields, f"{path}.properties.{key}", value))
            for key, value in properties.items()
        ),
        required=_parse_required(fields, path, values),
        additional=additional,
    )


def _parse_types(fields: Fields, path: str, values: JsonMapping) -> tuple[str, ...]:
    types = values.get("type", list(TYPES))
    types = types if isinstance(types, list) else [types]
    for kind in types:
        if kind not in TYPES:
            raise fields.error(
                f"{path}.type", f"unknown type {kind!r}; use one or a list of {', '.join(TYPES)}"
            )
    return tuple(types)


def _parse_choices(fields: Fields, path: str, values: JsonMapping) -> tuple[AnyOf, ...]:
    choices = []
    if "enum" in values:
        if not isinstance(values["enum"], list):
            raise fields.error(f"{path}.enum", "must be a list of values; correct it")
        choices.append(_choice(fields, f"{path}.enum", values["enum"]))
    if "const" in values:
        choices.append(_choice(fields, f"{path}.const", [values["const"]]))
    return tuple(choices)


def _choice(fields: Fields, path: str, values: list[Any]) -> AnyOf:
    strings, numbers, literals = [], [], []
    for value in values:
        if isinstance(value, str):
            strings.append(fields.unicode(path, value))
        elif value is None or isinstance(value, bool):
            literals.append(json.dumps(value))
        elif isinstance(value, int | float):
            numbers.append(_number(fields, path, value))
        else:
            raise fields.error(
                path,
                "may hold strings, numbers, booleans and null only; describe arrays and objects "
                "with items and properties",
            )
    return AnyOf(tuple(strings), tuple(numbers), tuple(literals))


def _parse_required(fields: Fields, path: str, values: JsonMapping) -> tuple[str, ...]:
    required = values.get("required", [])
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        raise fields.error(f"{path}.required", "must be a list of keys; correct it")
    return tuple(fields.unicode(f"{path}.required", key) for key in required)


def _number(fields: Fields, path: str, value: Any) -> Decimal:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        raise fields.error(path, f"must be a finite number, not {value!r}; correct it")
    return Decimal(repr(value))


def _size(fields: Fields, path: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise fields.error(path, f"must be a whole number from 0 on, not {value!r}; correct it")
    return value


def _violations(schema: Schema, tree: JsonTree, values_NL: jax.Array, depth: int) -> jax.Array:
    """bool[N, L]: characters at which the documents break a schema.

    Args:
        schema: The schema of the selected values.
        tree: The documents.
        values_NL: bool, the values that the schema applies to.
        depth: The depth of those values.
    """
    token_NL = tree.scan.token_NL
    wrong_NL = values_NL & ~_has_type(schema.types, tree)
    for choice in schema.choices:
        wrong_NL |= values_NL & ~_is_among(choice, tree)
    numbers_NL = values_NL & (token_NL == JsonToken.NUMBER)
    for keyword, bound in schema.bounds:
        holds_NL = BOUNDS[keyword](compare_with(tree.numbers, bound))
        wrong_NL |= numbers_NL & ~holds_NL
    for keyword, size in schema.sizes:
        of_strings = keyword.endswith("Length")
        sized_NL = values_NL & (token_NL == (JsonToken.STRING if of_strings else JsonToken.ARRAY))
        size_NL = tree.string_length_NL if of_strings else tree.element_count(depth)
        wrong_NL |= sized_NL & (size_NL < size if keyword.startswith("min") else size_NL > size)
    if schema.items is not None:
        arrays_NL = values_NL & (token_NL == JsonToken.ARRAY)
        elements_NL = tree.elements(arrays_NL, depth)
        wrong_NL |= _violations(schema.items, tree, elements_NL, depth + 1)
    objects_NL = values_NL & (token_NL == JsonToken.OBJECT)
    for key in schema.required:
        wrong_NL |= objects_NL & ~tree.has(objects_NL, depth, key)
    for key, member in schema.properties:
        members_NL = tree.members(objects_NL, depth, key)
        wrong_NL |= _violations(member, tree, members_NL, depth + 1)
    if not schema.additional:
        other_NL = tree.keys(objects_NL, depth)
        for key, _ in schema.properties:
            other_NL &= ~tree.spells(key)
        wrong_NL |= other_NL
    return wrong_NL


def _has_type(types: tuple[str, ...], tree: JsonTree) -> jax.Array:
    """bool[N, L]: the value that starts here is of one of the types."""
    token_NL = tree.scan.token_NL
    kinds = set(types) - ({"integer"} if "number" in types else set())
    if len(kinds) == len(TYPES) - 1:
        return is_value(token_NL)
    found_NL = jnp.zeros(token_NL.shape, bool)
    for kind in sorted(kinds):
        if kind == "integer":
            found_NL |= (token_NL == JsonToken.NUMBER) & is_integer(tree.numbers)
        elif kind in ("boolean", "null"):
            found_NL |= _is_literal(tree, "null" if kind == "null" else "tf")
        else:
            found_NL |= token_NL == JsonToken[kind.upper()]
    return found_NL


def _is_literal(tree: JsonTree, initials: str) -> jax.Array:
    """bool[N, L]: a literal with one of the first letters."""
    byte_NL = jnp.asarray(tree.scan.text.bytes)
    found_NL = jnp.zeros(byte_NL.shape, bool)
    for initial in initials:
        found_NL |= byte_NL == ord(initial)
    return found_NL & (tree.scan.token_NL == JsonToken.LITERAL)


def _is_among(choice: AnyOf, tree: JsonTree) -> jax.Array:
    """bool[N, L]: the value that starts here is one of those."""
    token_NL = tree.scan.token_NL
    found_NL = jnp.zeros(token_NL.shape, bool)
    for text in choice.strings:
        found_NL |= (token_NL == JsonToken.STRING) & tree.spells(text)
    for number in choice.numbers:
        found_NL |= (token_NL == JsonToken.NUMBER) & (compare_with(tree.numbers, number) == 0)
    for literal in choice.literals:
        found_NL |= _is_literal(tree, literal[0])
    return found_NL


def _exact(value: Value) -> Any:
    """The value with its numbers as fractions."""
    if isinstance(value.data, dict):
        return {key: _exact(member) for key, member in value.members.items()}
    if isinstance(value.data, list):
        return [_exact(value.members[k]) for k in range(len(value.data))]
    if isinstance(value.data, int | float) and not isinstance(value.data, bool):
        mantissa, _, exponent = value.source.lower().partition("e")
        return decimal_fraction(mantissa, exponent or "0")
    return value.data
