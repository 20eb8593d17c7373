"""Schemas made for a value: whatever the value, it is accepted as `json.dumps` writes it."""

import json

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rft_jax.grammars import build_tables, read_response_format
from rft_jax.grammars.json_schema import NESTING, schema_automaton
from rft_jax.utils.errors import InputError

from .test_token_tables import samples
from .tools import STOP, decode, strict, vocabulary

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=6)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}


def dumps(value):
    return json.dumps(value, ensure_ascii=False).encode()


def schema_for(value):
    """A schema that has the value, with an anyOf for the elements of each array."""
    if isinstance(value, dict):
        return strict(**{key: schema_for(member) for key, member in value.items()})
    if isinstance(value, list):
        items = [schema_for(element) for element in value] or [{"type": "null"}]
        return {
            "type": "array",
            "items": {"anyOf": [{"anyOf": items}, {"const": "another"}]},
            "maxItems": len(value),
        }
    return {"type": TYPES[type(value)]}


@settings(max_examples=60)
@given(values)
@example({})
@example([])
@example({"": {"a": []}})
@example(1e22)
@example(-5e-324)
@example("\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))
def test_a_value_s_own_schema_has_it(value):
    schema = schema_for(value)
    automaton = schema_automaton(schema, "schema")
    assert automaton.accepts(dumps(value))
    assert jsonschema.Draft202012Validator(schema).is_valid(value)
    assert not automaton.accepts(dumps(value) + b" ") and not automaton.accepts(dumps([value, 0]))


@settings(max_examples=60)
@given(st.lists(values, min_size=1, max_size=6), values)
@example([1, 1.0, True, "1", "true", None, "null"], False)
@example(['q"\\\n\x01', "\u2028\U0001f600", "e\u0301"], "\u00e9")
@example([1e300, -0.0, 10**40], 0)
def test_an_enum_has_its_values_and_no_others(members, other):
    automaton = schema_automaton({"enum": members}, "schema")
    spelled = set(map(dumps, members))
    assert all(map(automaton.accepts, spelled))
    assert automaton.accepts(dumps(other)) == (dumps(other) in spelled)
    assert schema_automaton({"const": other}, "schema").accepts(dumps(other))


@given(texts, st.booleans())
def test_a_string_has_one_spelling(text, ascii_only):
    automaton = schema_automaton({"type": "string"}, "schema")
    spelled = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert automaton.accepts(spelled) == (spelled == dumps(text))


@given(numbers, st.sampled_from([(-1, 1), (-1e9, 1e-3), (0, 2**70)]), st.booleans())
def test_exclusive_bounds(value, bounds, exclusive):
    names = ("exclusiveMinimum", "exclusiveMaximum") if exclusive else ("minimum", "maximum")
    schema = {"type": "number"} | dict(zip(names, bounds, strict=True))
    accepted = schema_automaton(schema, "schema").accepts(dumps(value))
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    # A bounded number has no exponent, and zero no sign.
    assert accepted == (is_valid and b"e" not in dumps(value) and dumps(value) != b"-0.0")


def nested(depth, wide):
    return {"children": [nested(depth - 1, wide)] * wide if depth else []}


@pytest.mark.parametrize("wide", [1, 2])
def test_recursion_through_arrays(wide):
    node = strict(children={"type": "array", "items": {"$ref": "#/$defs/node"}})
    automaton = schema_automaton({"$ref": "#/$defs/node", "$defs": {"node": node}}, "schema")
    for depth in (0, 1, NESTING - 1, NESTING):
        assert automaton.accepts(dumps(nested(depth, wide))) == (depth < NESTING)


def test_a_very_long_enum():
    names = [f"code {n * 7919 % 100_000:05}" for n in range(3000)]
    automaton = schema_automaton(strict(code={"enum": names}), "schema")
    assert automaton.accepts(dumps({"code": names[1234]}))
    assert not automaton.accepts(dumps({"code": "code 7"}))
    words = vocabulary()
    tables = build_tables(automaton, words, "schema")
    assert tables.bytes < 2**20


@pytest.mark.parametrize("keyword", ["multipleOf", "uniqueItems", "not", "allOf", "minProperties"])
def test_what_is_outside_of_the_subset_is_refused_by_its_path(keyword):
    schema = strict(x={"anyOf": [{"type": "null"}, {"type": "integer", keyword: 2}]})
    wanted = read_response_format(schema)
    assert wanted is not None
    with pytest.raises(InputError) as error:
        wanted.automaton()
    sentence = str(error.value)
    assert sentence.startswith(f"response_format.properties.x.anyOf.1.{keyword}: is not supported")
    assert "\n" not in sentence


@pytest.mark.parametrize("style", ["byte_level", "sentencepiece"])
def test_tokens_across_structure(style):
    """`"}, {"` and such are tokens; they are taken where they fit, and nothing is lost by them."""
    schema = {
        "type": "array",
        "items": strict(name={"enum": ["red", "green"]}, tags={"type": "array", "items": strict()}),
        "minItems": 2,
        "maxItems": 2,
    }
    words = vocabulary(style)
    tables = build_tables(schema_automaton(schema, "schema"), words, "schema")
    texts = {decode(words, row[: list(row).index(STOP)]) for row in samples(tables, scale=6.0)}
    assert len(texts) > 1
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
