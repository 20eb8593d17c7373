"""Steps down a JSON document select what Python finds there, in all containers at once."""

import json

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import JsonToken, from_host, scan_json, unescape
from rft_jax.strings.json_tree import JsonTree

N, L = 32, 128
KEYS = ["a", "b", "é", ""] + [f"k{i}" for i in range(40)]  # more than a word of bits


@jax.jit
def look(text):
    """The values below the root: elements, members by key, who has a key, counts, lengths."""
    scan = scan_json(text)
    tree = JsonTree(scan, unescape(scan), KEYS, ["x", "\\"])
    token_NL = scan.token_NL

    def level(values_NL, depth):
        arrays_NL = values_NL & (token_NL == JsonToken.ARRAY)
        objects_NL = values_NL & (token_NL == JsonToken.OBJECT)
        elements_NL = tree.elements(arrays_NL, depth)
        members = {key: tree.members(objects_NL, depth, key) for key in ("a", "é", "", "k39")}
        has = {key: tree.has(objects_NL, depth, key) for key in members}
        below_NL = elements_NL
        for member_NL in members.values():
            below_NL |= member_NL
        found = {
            "values": values_NL,
            "elements": elements_NL,
            "members": members,
            "has": has,
            "count": where_or_minus_one(arrays_NL, tree.element_count(depth)),
        }
        return found, below_NL

    first, below_NL = level(tree.root_NL, 0)
    second, below_NL = level(below_NL, 1)
    third, _ = level(below_NL, 2)
    strings_NL = scan.valid_N[:, None] & (token_NL == JsonToken.STRING)
    length_NL = where_or_minus_one(strings_NL, tree.string_length_NL)
    spells = {text: tree.spells(text) & strings_NL for text in ("x", "\\", "a")}
    return (first, second, third), length_NL, strings_NL, spells


def where_or_minus_one(mask, values):
    return jax.numpy.where(mask, values, -1)


def below(value):
    """The values that `look` steps down to."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [value[key] for key in value if key in ("a", "é", "", "k39")]
    return []


def strings_of(value):
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [string for part in parts for string in strings_of(part)]


def assert_found(texts):
    texts = [text for text in texts if len(text.encode()) <= L][:N]
    rows = texts + ["0"] * (N - len(texts))
    levels, length_NL, strings_NL, spells = jax.device_get(look(from_host(rows, L)))
    for n, row in enumerate(rows):
        values = [json.loads(row)]
        for found in levels:
            arrays = [value for value in values if isinstance(value, list)]
            objects = [value for value in values if isinstance(value, dict)]
            assert found["values"][n].sum() == len(values), row
            assert found["elements"][n].sum() == sum(map(len, arrays)), row
            counts = found["count"][n]
            assert sorted(counts[counts >= 0]) == sorted(map(len, arrays)), row
            for key in found["members"]:
                having = [value for value in objects if key in value]
                assert found["members"][key][n].sum() == len(having), (row, key)
                assert found["has"][key][n].sum() == len(having), (row, key)
            values = [part for value in values for part in below(value)]


STRINGS = st.sampled_from(["x", "a", "", "é", '"', "\\", "😀e\u0301", "\x00", "k39"])
VALUES = st.recursive(
    st.one_of(st.integers(0, 9), st.booleans(), st.none(), STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "é", "", "k39", "k3", "z"]), inner, max_size=3),
    ),
    max_leaves=9,
)


@settings(max_examples=80)
@given(st.lists(VALUES, min_size=4, max_size=N), st.booleans())
def test_steps_find_what_python_finds(values, ascii_only):
    assert_found([json.dumps(value, ensure_ascii=ascii_only) for value in values])


@settings(max_examples=40)
@given(st.lists(VALUES, min_size=4, max_size=N), st.booleans())
def test_strings_have_the_length_and_spelling_that_python_finds(values, ascii_only):
    texts = [json.dumps(value, ensure_ascii=ascii_only) for value in values]
    texts = [text for text in texts if len(text.encode()) <= L]
    rows = texts + ["0"] * (N - len(texts))
    _, length_NL, strings_NL, spells = jax.device_get(look(from_host(rows, L)))
    for n, row in enumerate(rows):
        strings = strings_of(json.loads(row))
        assert length_NL[n][strings_NL[n]].tolist() == list(map(len, strings)), row
        for text, found_NL in spells.items():
            assert found_NL[n][strings_NL[n]].tolist() == [s == text for s in strings], row


def test_of_equal_keys_the_last_counts():
    assert_found(
        [
            '{"a":1,"a":[2,3]}',
            '{"a":[1,2,3],"a":{"a":1}}',
            '{"a":{"a":[1]},"b":{"a":2},"a":{"a":[1,2],"\\u0061":[]}}',
            '[{"a":1,"a":2},{"a":3},{"b":{"a":1},"a":{"a":1,"a":2}}]',
            '{"":{"":1},"":{"":[{}]}}',
            '{"k39":1,"k3":2,"k39":[1,2,3,4]}',
        ]
    )


def test_nothing_is_selected_in_documents_that_are_not_valid():
    levels, length_NL, _, spells = jax.device_get(look(from_host(['{"a":["x"]'] * N, L)))
    assert not any(
        np.any(leaf) for level in levels for leaf in (level["values"], level["elements"])
    )
    assert (length_NL == -1).all() and not any(found.any() for found in spells.values())
