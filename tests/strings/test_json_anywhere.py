"""The JSON of an answer is found wherever it stands, on the device as on the host."""

import json

import hypothesis
import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.graders.host_json import canonical, parse_document
from rft_jax.strings import find, from_host, hash_of, scan_last_json, unescape, value_hash

ROWS, WIDTH = 16, 192


@jax.jit
def on_device(text):
    scan, whole_N = scan_last_json(text)
    unescaped = unescape(scan)
    return scan, whole_N, value_hash(scan, unescaped, find(scan, unescaped, ()))


def read(texts):
    """For each text its JSON, if there is any, whether it is the whole, and the value's hash."""
    padded = [*texts, *[""] * (ROWS - len(texts))]
    scan, whole, hashes = jax.device_get(on_device(from_host(padded, WIDTH)))
    rows = []
    for n in range(len(texts)):
        found = scan.text.bytes[n, : scan.text.length[n]].tobytes().decode()
        rows.append((found if scan.valid_N[n] else None, bool(whole[n]), hashes[:, n].tolist()))
    return rows


OBJECT = '{"a": ["wind", "}{\\""], "b": {"c": 1}}'


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (OBJECT, OBJECT),
        (f"```json\n{OBJECT}\n```", OBJECT),
        (
            f'<think>Is it {{"a": 1}}? "</think>\nThe answer is {OBJECT}. Done {{x}}, see [1].',
            OBJECT,
        ),
        (f'{{"a": 0}} or rather: {OBJECT}', OBJECT),
        (f"{OBJECT}\n$\\frac{{1}}{{2}}$ and \\boxed{{}}", OBJECT),
        ("It is [1, 2].", "[1, 2]"),
        ('```\n[{"a": 1}, {"b": 2}]\n```', '[{"a": 1}, {"b": 2}]'),
        ('so {"a": [1, 2], "b": {"c": 3}, "d": "x', None),
        ('[{"a": 1}, {"a": 2}', None),
        ("no JSON", None),
        ("{a}", None),
        ("", None),
        ('say "{" and then {"a": "{"}', '{"a": "{"}'),
    ],
)
def test_the_last_document_of_an_answer_is_found(text, found):
    document = parse_document(text)
    assert read([text])[0][:2] == (found, text == found and found is not None)
    assert (document.root is None) == (found is None)
    if found is not None:
        assert canonical(json.loads(found)) == document.root.canonical


PIECES = st.sampled_from(
    ['{"a": 1}', "{", "}", "[", "]", '"', "\\", ",", ":", " ", "\n", "1", "x", '"k":', "[]", "null"]
)


@settings(max_examples=200)
@given(st.lists(st.lists(PIECES, max_size=14).map("".join), min_size=1, max_size=ROWS))
def test_any_text_is_read_as_on_the_host(texts):
    for text, (found, whole, hashes) in zip(texts, read(texts), strict=True):
        document = parse_document(text)
        assert (document.root is None) == (found is None)
        if found is not None:
            assert document.whole == whole
            assert json.loads(found) == document.root.data
            if document.root.canonical == canonical(document.root.data):  # no key twice
                assert hashes == hash_of(document.root.data).tolist()


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6).map(lambda text: text.encode(errors="replace").decode()),
)
VALUES = st.recursive(
    SCALARS,
    lambda v: (
        st.lists(v, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "é", ""]), v, max_size=3)
    ),
    max_leaves=6,
)


def respelled(value, draw):
    """Other JSON for the same value."""
    if isinstance(value, dict):
        members = draw(st.permutations(list(value.items())))
        return "{ " + ", ".join(f"{json.dumps(k)} : {respelled(v, draw)}" for k, v in members) + "}"
    if isinstance(value, list):
        return "[" + ",\t".join(respelled(v, draw) for v in value) + " ]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    if isinstance(value, int) and not isinstance(value, bool):
        return draw(st.sampled_from([f"{value}", f"{value}.0", f"{10 * value}e-1", f"{value}E+0"]))
    return json.dumps(value)


@settings(max_examples=150)
@given(st.lists(VALUES, min_size=1, max_size=ROWS), st.data())
def test_equal_values_have_equal_hashes_and_others_not(values, data):
    texts = [respelled(value, data.draw) for value in values]
    hypothesis.assume(all(len(text.encode()) <= WIDTH for text in texts))
    hashes = [row[2] for row in read(texts)]
    assert hashes == [hash_of(value).tolist() for value in values]
    for value, text in zip(values, texts, strict=True):
        assert parse_document(text).root.canonical == canonical(value)
    for value, one in zip(values, hashes, strict=True):
        for other, two in zip(values, hashes, strict=True):
            assert (one == two) == (canonical(value) == canonical(other))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("0.10", "1e-1", True), ("100", "1e2", True), ("-0", "0.0", True), ("1", "true", False),
        ('"1"', "1", False), ("[1, 2]", "[2, 1]", False), ("{}", "[]", False),
        ("[]", "[[]]", False),
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1.0}', True), ('{"a": 1, "a": 1}', '{"a": 1}', False),
        ('["a"]', '{"0": "a"}', False), ("123456789012345678901", "123456789012345678902", False),
        ('"\\u00e9"', '"é"', True), ('"ab"', '"ba"', False), ("-5", "5", False),
        ("10", "100", False),
    ],
)  # fmt: skip
def test_what_is_equal(one, other, same):
    rows = read([one, other])
    assert (rows[0][2] == rows[1][2]) == same
    assert (parse_document(one).root.canonical == parse_document(other).root.canonical) == same
