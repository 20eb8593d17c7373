"""`json_schema` accepts what jsonschema accepts, and refuses schemas that it cannot judge."""

import json
import random

import pytest

from rft_jax.graders import load_grader
from rft_jax.graders.types import HostSample
from rft_jax.strings import MAX_DEPTH
from rft_jax.utils.errors import InputError

RECORD = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A record",
    "type": "object",
    "required": ["id", "tags"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "integer", "minimum": 0, "exclusiveMaximum": 100},
        "tags": {
            "type": "array",
            "items": {"type": "string", "minLength": 1, "maxLength": 3},
            "minItems": 1,
            "maxItems": 3,
        },
        "kind": {"enum": ["a", "é\n", "\\", 1, 2.5, None, True]},
        "score": {"type": ["number", "null"], "exclusiveMinimum": -0.5, "maximum": 1e2},
    },
}
SCHEMAS = {
    "record": RECORD,
    "records": {
        "type": "array",
        "maxItems": 3,
        "items": {
            "type": "object",
            "properties": {
                "id": {"const": "x"},
                "tags": {"type": "array", "items": {"type": "array", "items": {"type": "boolean"}}},
                "kind": {"properties": {"id": {"type": "null"}, "kind": False}, "required": ["id"]},
            },
            "required": ["kind"],
        },
    },
    "anything": True,
    "nothing": {"items": False, "properties": {"id": False}},
    "values": {
        "items": {"enum": [0, 1.5, "id", False, 1e20, ""], "minLength": 1, "maximum": 1.5},
        "properties": {"id": {"type": "number"}, "tags": {"minItems": 2}, "kind": {"const": 0}},
        "additionalProperties": False,
        "description": "no type",
    },
}
RECORDS = [
    ('{"id": 1, "tags": ["a"]}', 1),
    ('{"id": 1.0, "tags": ["a"]}', 1),
    ('{"id": 990e-1, "tags": ["\\ud83d\\ude00\\u0301e"]}', 1),
    ('{"id": 1.5, "tags": ["a"]}', 0),
    ('{"id": 100, "tags": ["a"]}', 0),
    ('{"id": -0, "tags": ["a"]}', 1),
    ('{"id": -1, "tags": ["a"]}', 0),
    ('{"id": true, "tags": ["a"]}', 0),
    ('{"id": "1", "tags": ["a"]}', 0),
    ('{"id": 1, "tags": []}', 0),
    ('{"id": 1, "tags": ["a", "b", "c", "d"]}', 0),
    ('{"id": 1, "tags": ["a", ""]}', 0),
    ('{"id": 1, "tags": ["a", "abcd"]}', 0),
    ('{"id": 1, "tags": ["a", ["a"]]}', 0),
    ('{"id": 1, "tags": "a"}', 0),
    ('{"id": 1}', 0),
    ('{"tags": ["a"]}', 0),
    ('{"id": 1, "tags": ["a"], "more": 1}', 0),
    ('{"id": 1, "tags": ["a"], "kind": "\\u00e9\\n"}', 1),
    ('{"id": 1, "tags": ["a"], "kind": "A"}', 0),
    ('{"id": 1, "tags": ["a"], "kind": 25e-1}', 1),
    ('{"id": 1, "tags": ["a"], "kind": true}', 1),
    ('{"id": 1, "tags": ["a"], "kind": false}', 0),
    ('{"id": 1, "tags": ["a"], "kind": null}', 1),
    ('{"id": 1, "tags": ["a"], "kind": "null"}', 0),
    ('{"id": 1, "tags": ["a"], "kind": ["a"]}', 0),
    ('{"id": 1, "tags": ["a"], "score": -0.5}', 0),
    ('{"id": 1, "tags": ["a"], "score": -0.4999999999999999999999}', 1),
    ('{"id": 1, "tags": ["a"], "score": 100.0000000000000000001}', 0),
    ('{"id": -5, "id": 1, "tags": [7], "tags": ["a"]}', 1),
    ('{"id": 1, "id": -5, "tags": ["a"]}', 0),
    ('{"\\u0069d": 1, "tags": ["a"]}', 1),
    ('[{"id": 1, "tags": ["a"]}]', 0),
    ('{"x": {"id": 1, "tags": ["a"]}}', 0),
    ("null", 0),
]


def spec(schema):
    return {"type": "json_schema", "name": "shape", "schema": schema}


@pytest.fixture(scope="module")
def record(parity):
    return parity(spec(RECORD))


def test_records_are_accepted_or_not(record):
    texts = [text for text, _ in RECORDS]
    scores = record.on_device([HostSample(text) for text in texts], [0] * len(texts)).score
    wrong = [case for case, score in zip(RECORDS, scores, strict=False) if score != case[1]]
    assert wrong == []


def test_what_is_not_json_is_an_error(record):
    deep = '{"id":1,"tags":["a"],"x":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}"
    texts = ["", '{"id": 1, "tags": ["a"]', "NaN", '{"id": 1, "tags": ["a"]} x', deep, "{}"]
    score = record.on_device([HostSample(text) for text in texts], [0] * len(texts))
    count = len(texts)
    assert score.score[:count].tolist() == [0] * count
    assert score.errors["sample_parse_error"][:count].tolist() == [1, 1, 1, 1, 0, 0]
    assert score.errors["other_error"][:count].tolist() == [0, 0, 0, 0, 1, 0]


def documents(rng, count):
    """JSON texts that use the schemas' keys and values, and come near to their limits."""
    words = ["a", "é\n", "\\", "x", "", "abc", "abcd", "😀e\u0301", "id", '"', "\x00"]
    numbers = ["0", "-0.0", "1", "1.0", "10e-1", "1.5", "99", "99.5", "100", "1e2", "-0.5", "2.5"]
    numbers += ["-0.49999999999999999", "100.00000000000000001", "1e20", "100000000000000000000"]

    def string(text):
        return json.dumps(text, ensure_ascii=rng.random() < 0.5)

    def value(depth):
        kind = rng.choice("ssnnnlaaoo" if depth < 3 else "sssnnnl")
        if kind == "s":
            return string(rng.choice(words))
        if kind == "n":
            return rng.choice(numbers)
        if kind == "l":
            return rng.choice(["true", "false", "null"])
        if kind == "a":
            return listed(lambda: value(depth + 1), rng.choice([0, 1, 1, 2, 3, 4]))
        return record({}, depth)

    def listed(draw, size):
        return "[" + rng.choice([",", " ,\r\n"]).join(draw() for _ in range(size)) + "]"

    def record(usual, depth):
        """An object with most of the usual members, and some others."""
        pairs = [(key, draw()) for key, draw in usual.items() if rng.random() < 0.85]
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            pairs.append((rng.choice(["id", "tags", "kind", "score", "more"]), value(depth + 1)))
        rng.shuffle(pairs)
        return "{" + ",".join(f"{string(key)}: {drawn}" for key, drawn in pairs) + "}"

    usual = {
        "id": lambda: rng.choice(["5", "0", "99", "99.5", "100", "1.0", '"x"', "null", "-1"]),
        "tags": lambda: listed(
            lambda: string(rng.choice(["a", "abc", "😀e\u0301", "x"] * 3 + ["", "abcd"])),
            rng.choice([0, 1, 1, 2, 2, 3, 3, 4]),
        ),
        "kind": lambda: rng.choice(
            [string("a"), string("é\n"), "2.50", "null", '{"id":null}', "0"]
        ),
        "score": lambda: rng.choice([*numbers, "null", '"1"']),
    }
    nested = {"kind": lambda: '{"id":null}', "id": lambda: '"x"', "tags": lambda: "[[true],[]]"}
    made = 0
    while made < count:
        text = rng.choice(
            [
                lambda: value(0),
                lambda: record(usual, 0),
                lambda: record(usual, 0),
                lambda: listed(lambda: record(nested, 1), rng.randint(0, 4)),
                lambda: listed(lambda: rng.choice(["0", "1.5", '"id"', "false", "-0"]), 3),
            ]
        )()
        text = text[: rng.randint(0, len(text))] if rng.random() < 0.03 else text
        if len(text.encode()) <= 256:
            made += 1
            yield text


def compare(parity, name, texts):
    """Differences, and how many documents are accepted."""
    pytest.importorskip("jsonschema")
    both = parity(spec(SCHEMAS[name]), rows=128)
    differences = both.differences([(text, 0) for text in texts])
    accepted = 0
    for first in range(0, len(texts), 128):
        samples = [HostSample(text) for text in texts[first : first + 128]]
        accepted += both.on_device(samples, [0] * len(samples)).score[: len(samples)].sum()
    return differences, accepted


@pytest.mark.oracle
@pytest.mark.parametrize("name", SCHEMAS)
def test_documents_are_judged_as_by_jsonschema(parity, name):
    differences, accepted = compare(parity, name, list(documents(random.Random(0), 1024)))
    assert differences == []
    assert 20 <= accepted <= 1010


@pytest.mark.oracle
@pytest.mark.slow
def test_twenty_thousand_documents_are_judged_as_by_jsonschema(parity):
    texts = list(documents(random.Random(1), 4096))
    found = {name: compare(parity, name, texts) for name in SCHEMAS}
    differences = sum((differences for differences, _ in found.values()), [])
    print(f"{len(texts) * len(SCHEMAS)} documents: {len(differences)} differences")
    assert differences == []


@pytest.mark.oracle
def test_the_records_are_judged_so_by_jsonschema(record):
    pytest.importorskip("jsonschema")
    assert record.scores(*[text for text, _ in RECORDS]) == [wanted for _, wanted in RECORDS]


def test_a_missing_library_is_named(record, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jsonschema", None)
    with pytest.raises(InputError, match="shape: .* pip install jsonschema"):
        record.scores("{}")


@pytest.mark.parametrize(
    "schema, message",
    [
        ({"pattern": "a"}, "schema.pattern: is not supported; remove it"),
        ({"properties": {"x": {"anyOf": []}}}, "schema.properties.x.anyOf: is not supported"),
        ({"items": {"$ref": "#"}}, r"schema.items.\$ref: is not supported"),
        ({"type": "str"}, "schema.type: unknown type 'str'"),
        ({"type": ["string", 1]}, "schema.type: unknown type 1"),
        ({"enum": "a"}, "schema.enum: must be a list"),
        ({"enum": [[1]]}, "schema.enum: may hold strings, numbers"),
        ({"const": {}}, "schema.const: may hold strings, numbers"),
        ({"const": "\ud800"}, "schema.const: holds a lone surrogate"),
        ({"minimum": "1"}, "schema.minimum: must be a finite number"),
        ({"maximum": True}, "schema.maximum: must be a finite number"),
        ({"exclusiveMinimum": float("nan")}, "schema.exclusiveMinimum: must be a finite number"),
        ({"minLength": -1}, "schema.minLength: must be a whole number"),
        ({"maxItems": 1.5}, "schema.maxItems: must be a whole number"),
        ({"items": [{}]}, "schema.items: must be an object or a boolean"),
        ({"properties": []}, "schema.properties: must be an object"),
        ({"required": "a"}, "schema.required: must be a list of keys"),
        ({"required": [1]}, "schema.required: must be a list of keys"),
        ({"additionalProperties": {}}, "schema.additionalProperties: must be true or false"),
        ("object", "schema: must be an object or a boolean"),
    ],
)
def test_what_is_wrong_with_a_schema_is_said(schema, message):
    with pytest.raises(InputError, match=message):
        load_grader(spec(schema))


def test_a_schema_is_required():
    with pytest.raises(InputError, match="schema: is missing"):
        load_grader({"type": "json_schema"})
