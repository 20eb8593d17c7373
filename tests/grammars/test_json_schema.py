"""Schemas as automata: what jsonschema accepts, in the one spelling; errors name the place."""

import datetime
import functools
import ipaddress
import json
import random
import re
import uuid
from decimal import Decimal

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rft_jax.grammars import read_response_format
from rft_jax.grammars.json_schema import NESTING, schema_automaton
from rft_jax.utils.errors import InputError

from .tools import random_schema, random_value, strict


def automaton_of(schema):
    return schema_automaton(schema, "schema")


def dumps(value):
    return json.dumps(value, ensure_ascii=False).encode()


def validator(schema):
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


@settings(max_examples=60)
@given(st.integers(0, 2**32))
def test_it_accepts_what_jsonschema_accepts(seed):
    rng = random.Random(seed)
    schema = random_schema(rng)
    automaton, checker = automaton_of(schema), validator(schema)
    for _ in range(20):
        value = random_value(rng, schema)
        # Stricter than jsonschema's checkers, whose e-mail address is any text with an @.
        strict_format = {"email", "date-time"} & set(re.findall(r"email|date-time", str(schema)))
        accepted = automaton.accepts(dumps(value))
        if strict_format:
            assert checker.is_valid(value) or not accepted
        else:
            assert accepted == checker.is_valid(value), (schema, value)


numbers = st.decimals(-2000, 2000, places=2).map(lambda d: Decimal(f"{d.normalize():f}"))


@given(low=numbers, high=numbers, value=numbers, zeros=st.integers(0, 2), exclusive=st.booleans())
@example(Decimal(0), Decimal(0), Decimal(0), 0, False)
@example(Decimal("0.5"), Decimal(1), Decimal("0.5"), 2, True)
@example(Decimal(-1), Decimal("-0.5"), Decimal("-0.5"), 0, True)
def test_bounds_are_exact(low, high, value, zeros, exclusive):
    low, high = sorted((low, high))
    keys = ("exclusiveMinimum", "exclusiveMaximum") if exclusive else ("minimum", "maximum")
    schema = {"type": "number", keys[0]: float(low), keys[1]: float(high)}
    text = f"{value:f}" + ("." if zeros and "." not in f"{value:f}" else "") + "0" * zeros
    within = low < value < high if exclusive else low <= value <= high
    if low == high and exclusive:
        with pytest.raises(InputError, match="no number is within its bounds"):
            automaton_of(schema)
        return
    assert automaton_of(schema).accepts(text.encode()) == (within and text != "-0")


@given(st.integers(-300, 300), st.integers(-300, 300), st.integers(-400, 400))
def test_bounds_of_integers_are_exact(low, high, value):
    low, high = sorted((low, high))
    automaton = automaton_of({"type": "integer", "minimum": low - 0.5, "maximum": high})
    assert automaton.accepts(str(value).encode()) == (low <= value <= high)
    assert not automaton.accepts(f"{value}.0".encode())


@given(st.integers(-(10**40), 10**40), st.integers(0, 3), st.integers(-2, 5))
def test_bounds_of_many_digits_are_exact(low, more, beyond):
    automaton = automaton_of({"type": "integer", "minimum": low, "maximum": low + more})
    assert automaton.accepts(str(low + beyond).encode()) == (0 <= beyond <= more)


texts = st.text(st.sampled_from("abxy19é日😀\n\"\\\x01 -,_"), max_size=8)  # fmt: skip


@settings(max_examples=25)
@given(
    st.sampled_from([r"x+y", r"^a.b", r"é$", r"^\w*$", r"[^a-x]", r"^(ab|\\)*$", r"\d\s", ""]),
    texts,
    st.integers(0, 6),
    st.integers(0, 3),
)
def test_patterns_are_searched_for(pattern, text, low, more):
    schema = {"type": "string", "pattern": pattern, "minLength": low, "maxLength": low + more}
    found = re.search(pattern, text) and not (pattern.endswith("$") and text.endswith("\n"))
    fits = low <= len(text) <= low + more
    if pattern.endswith("$") and text.endswith("\n"):  # `$` is the text's end, as in JSON Schema
        found = re.search(pattern[:-1] + r"\Z", text)
    try:
        automaton = automaton_of(schema)
    except InputError as error:  # the pattern wants a longer text
        assert "no answer is possible" in str(error) and not (found and fits)
    else:
        assert automaton.accepts(dumps(text)) == bool(found and fits)


@given(st.text(max_size=6), st.integers(0, 4), st.integers(0, 4))
def test_lengths_count_code_points(text, low, more):
    text = text.replace("\x7f", "")
    schema = {"type": "string", "minLength": low, "maxLength": low + more}
    automaton = automaton_of(schema)
    assert automaton.accepts(dumps(text)) == (low <= len(text) <= low + more)


def test_dates_are_those_of_the_calendar():
    automaton = automaton_of({"type": "string", "format": "date"})
    for year in (0, 1, 1600, 1900, 2000, 2023, 2024, 9999):
        for month in range(14):
            for day in range(33):
                text = f"{year:04}-{month:02}-{day:02}"
                try:
                    datetime.date.fromisoformat(text)
                    real = True
                except ValueError:
                    real = False
                assert automaton.accepts(dumps(text)) == real, text


def test_uuids_and_times():
    automaton = automaton_of({"type": "string", "format": "uuid"})
    assert automaton.accepts(dumps(str(uuid.UUID(int=2**127 + 5))))
    assert not automaton.accepts(dumps("123"))
    automaton = automaton_of({"type": "string", "format": "date-time"})
    assert automaton.accepts(b'"2024-02-29T23:59:59.25+01:00"')
    assert not automaton.accepts(b'"2024-02-29T24:00:00Z"')
    assert not automaton.accepts(b'"2024-02-29 23:00:00Z"')


@functools.cache
def addresses(version):
    return automaton_of({"type": "string", "format": f"ipv{version}"})


def is_address(text, version):
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


@given(
    st.ip_addresses().map(str)
    | st.ip_addresses(v=6).map(lambda address: address.exploded)
    | st.from_regex(r"[0-9.]{6,9}|[0-9af:]{2,12}", fullmatch=True)
    | st.lists(st.sampled_from(["", "0", "1f"]), max_size=10).map(":".join)
)
def test_addresses_are_python_s(text):
    for version in (4, 6):
        assert addresses(version).accepts(dumps(text)) == is_address(text, version)


def test_times_and_durations():
    for kind, right, wrong in (
        ("time", ["00:00:00Z", "23:59:59.125-07:30"], ["24:00:00Z", "12:00:00", "1:00:00Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "P2W", "PT36H", "P1M", "PT5M", "P10D"],
         ["P", "PT", "P1D2M", "1D", "P1.5D", "P1YT", "PT1S1H"]),
    ):  # fmt: skip
        automaton = automaton_of({"type": "string", "format": kind})
        for text in right + wrong:
            assert automaton.accepts(dumps(text)) == (text in right), text


def test_only_one_white_space_and_order():
    schema = strict(a={"type": "integer"}, b={"type": "array", "items": {"type": "null"}})
    automaton = automaton_of(schema)
    assert automaton.accepts(b'{"a": 1, "b": [null, null]}')
    for other in (b'{"a":1, "b": []}', b'{"b": [], "a": 1}', b' {"a": 1, "b": []}', b'{"a": 1}'):
        assert not automaton.accepts(other)


def test_long_lengths_take_no_states():
    sizes = {
        automaton_of({"type": "string", "minLength": most // 2, "maxLength": most}).states
        for most in (10, 1000, 10**9)
    }
    assert len(sizes) == 1 and sizes.pop() < 20


def test_lengths_are_states_where_they_cannot_be_counted():
    automaton = automaton_of({"anyOf": [{"type": "string", "maxLength": 30}, {"const": "a" * 40}]})
    for length, accepted in {0: True, 30: True, 31: False, 39: False, 40: True}.items():
        assert automaton.accepts(dumps("a" * length)) == accepted
    assert not automaton.accepts(dumps("b" * 40))


def nested(depth):
    return {"value": 1, "next": nested(depth - 1) if depth else None}


def test_recursion_goes_to_the_stated_depth():
    node = strict(
        value={"type": "integer"}, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    )
    automaton = automaton_of({"$ref": "#/$defs/node", "$defs": {"node": node}})
    assert automaton.accepts(dumps(nested(NESTING - 1)))
    assert not automaton.accepts(dumps(nested(NESTING)))


def doubling(levels, leaf):
    """A schema of so many definitions, each of which has the next one twice."""
    named = {
        f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"} for _ in range(2)]} for n in range(levels)
    }
    return {"$ref": "#/$defs/d0", "$defs": named | {f"d{levels}": leaf}}


def nested_arrays(levels):
    schema = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED = {
    "schema.properties.x.items.maxItems: is not supported here": strict(
        x={"type": "array", "items": {"type": "string", "maxItems": 3}}
    ),
    "schema.oneOf: is not supported": {"type": "object", "oneOf": []},
    "schema: has no type": {"description": "anything"},
    "schema.type: unknown type 'text'": {"type": "text"},
    "schema.required: must list all properties": {
        "type": "object",
        "properties": {"a": {"type": "null"}},
        "additionalProperties": False,
    },
    "schema.additionalProperties: must be false": {"type": "object"},
    "schema.items: is missing": {"type": "array"},
    "schema.pattern: a lookahead": {"type": "string", "pattern": "(?=a)"},
    "schema.format: 'hostname' is not supported": {"type": "string", "format": "hostname"},
    r"schema.\$ref: there is no '#/\$defs/x'": {"$ref": "#/$defs/x"},
    r"schema.\$ref: no answer is possible": {"$ref": "#"},
    "schema: no answer is possible, since no number": {
        "type": "integer",
        "minimum": 3,
        "maximum": 2,
    },
    "schema: no answer is possible, since minItems": {
        "type": "array",
        "items": {"type": "null"},
        "minItems": 2,
        "maxItems": 1,
    },
    "schema.enum: no answer is possible": {"type": "null", "enum": ["a"]},
    "schema: no answer is possible": {"type": "string", "pattern": "^a$", "minLength": 2},
    "schema.items.properties.name: needs an automaton of more than 4096 states": {
        "type": "array",
        "items": strict(name={"const": "a" * 5000}),
    },
    "schema.anyOf.0: its characters cannot be counted": {
        "anyOf": [{"type": "string", "maxLength": 9999}, {"const": "a"}]
    },
    "schema.minLength: must be a whole number": {"type": "string", "minLength": -1},
    "schema.minimum: must be a finite number": {"type": "number", "minimum": float("inf")},
    "schema.enum: must be a list": {"enum": []},
    "schema: no answer is possible, since minLength is": {"type": "string", "minLength": 2**31},
    r"schema.type: unknown type \['string'\]": {"type": [["string"]]},
    "schema: is nested too deep": nested_arrays(2000),
    "schema: needs an automaton": doubling(40, {"enum": ["a"], "type": "null"}),
    r"schema.anyOf.0.*: needs an automaton": doubling(40, {"type": "null"}),
    "schema.const: .* is not JSON": {"const": "\ud800"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_done_is_a_sentence_that_names_the_place(message):
    with pytest.raises(InputError, match="^" + message):
        automaton_of(REFUSED[message])


def opened(value, separator=""):
    wanted = read_response_format(value)
    assert wanted is not None
    return wanted.automaton(separator)


def test_response_formats(tmp_path):
    schema = {"type": "boolean"}
    strict_format = {"name": "n", "schema": schema, "strict": True}
    for wanted in (
        schema,
        {"type": "json_schema", "json_schema": strict_format},
        {"type": "json_schema", **strict_format},
    ):
        file = tmp_path / "format.json"
        file.write_text(json.dumps(wanted))
        for given_as in (wanted, str(file)):
            automaton = opened(given_as)
            assert automaton.accepts(b"true") and not automaton.accepts(b"null")
    separated = opened(schema, "\n\n")
    assert separated.accepts(b"true") and separated.accepts(b"\n\ntrue")
    assert not separated.accepts(b"\ntrue") and not separated.accepts(b"true\n\n")
    assert read_response_format({"type": "text"}) is None
    pattern = opened({"type": "regex", "pattern": "(yes|no), .+"})
    assert pattern.accepts("no, größer".encode()) and not pattern.accepts(b"oh no, a")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("missing.json", "missing.json: there is no such file"),
        ({"type": "xml"}, "response_format.type: 'xml' cannot be enforced"),
        ({"type": "text", "schema": {}}, "response_format.schema: is unknown; remove it"),
        ({"type": "json_schema"}, "response_format.schema: is missing"),
        (
            {"type": "json_schema", "json_schema": {"name": "n"}},
            "response_format.json_schema.schema: is missing",
        ),
        (
            {"type": "json_schema", "json_schema": {"schema": strict(a={"type": "text"})}},
            "response_format.json_schema.schema.properties.a.type: unknown type 'text'",
        ),
        (strict(a={"type": "text"}), "response_format.properties.a.type: unknown type 'text'"),
        ({"type": "regex"}, "response_format.pattern: is missing"),
        ({"type": "regex", "pattern": "("}, "response_format.pattern: not a regular expression"),
        ({"type": "regex", "pattern": "a$b"}, "response_format.pattern: no text matches"),
        ([], "response_format: must be a JSON object"),
    ],
)
def test_response_formats_that_cannot_be_used(wanted, message):
    with pytest.raises(InputError, match=re.escape(message)):
        opened(wanted)
