"""The JSON scanner agrees with `json.loads`, and its values with what that returns."""

import json
import re

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import (
    MAX_DEPTH,
    JsonToken,
    find,
    from_host,
    render,
    scan_json,
    strings_of,
    to_host,
    unescape,
)

N, L, K = 64, 256, 6
PATHS = ((), ("a",), ("a", "b"), ("a", 0), (0,), (1, "a"), ("é\n",), ("",), ('"',), ("a", 2, 1))
TOKENS = {
    dict: JsonToken.OBJECT,
    list: JsonToken.ARRAY,
    str: JsonToken.STRING,
    int: JsonToken.NUMBER,
    float: JsonToken.NUMBER,
    bool: JsonToken.LITERAL,
    type(None): JsonToken.LITERAL,
}
jit_scan = jax.jit(scan_json)


@jax.jit
def look_up(text):
    """Flags, and of every path the token and the rendered text."""
    scan = scan_json(text)
    unescaped = unescape(scan)
    values = [find(scan, unescaped, path) for path in PATHS]
    return scan.valid_N, [(value.token_N, render(scan, unescaped, value)) for value in values]


@jax.jit
def lists(text):
    """The strings of the array that the document is."""
    scan = scan_json(text)
    unescaped = unescape(scan)
    strings, uniform_N = strings_of(scan, unescaped, find(scan, unescaped, ()), K)
    return scan.valid_N, strings, uniform_N


def refuse(name):
    raise ValueError(name)


def loads(document):
    """`json.loads` of bytes in UTF-8, by the scanner's rule for NaN and Infinity.

    Returns:
        Whether it is JSON, and the value.
    """
    try:
        return True, json.loads(document.decode(), parse_constant=refuse)
    except (ValueError, RecursionError):  # bad UTF-8 and bad JSON are ValueErrors
        return False, None


def rows_of(documents):
    """N documents of at most L bytes, as bytes."""
    return [d if isinstance(d, bytes) else d.encode() for d in documents] + [b""] * (
        N - len(documents)
    )


def batches(documents):
    """Every document in some batch of N rows."""
    for first in range(0, len(documents), N):
        yield rows_of(documents[first : first + N])


def assert_validity(documents, width=L):
    for rows in batches(documents):
        scan = jit_scan(from_host(rows, width))
        expected = [loads(row)[0] for row in rows]
        wrong = [r for r, a, b in zip(rows, scan.valid_N, expected, strict=True) if a != b]
        assert not wrong
        assert not np.asarray(scan.too_deep_N).any()


def fits(document):
    return len(document.encode("utf-8", "surrogatepass")) <= L


STRINGS = st.one_of(
    st.sampled_from(["a", "b", "", '"', "é\n", "\\", "/", "\x7f", "\u2028", "😀", "🧬א\u0301"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
NUMBERS = st.one_of(
    st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.just(0), st.just(-0.0)
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, STRINGS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(STRINGS, inner, max_size=4)
    ),
    max_leaves=12,
)
SPACES = st.text(st.sampled_from(" \t\r\n"), max_size=2)


@st.composite
def spelled(draw, value):
    """A value as JSON with any white space, any escapes, and keys that occur more than once."""
    space = draw(SPACES)
    if isinstance(value, str):
        return space + '"' + "".join(draw(escaped(c)) for c in value) + '"'
    if isinstance(value, dict):
        pairs = list(value.items())
        if pairs and draw(st.booleans()):
            pairs.insert(0, (pairs[-1][0], draw(NUMBERS)))
        inner = [f"{draw(spelled(k))}{draw(SPACES)}:{draw(spelled(v))}{space}" for k, v in pairs]
        return space + "{" + ",".join(inner) + space + "}"
    if isinstance(value, list):
        return space + "[" + ",".join(draw(spelled(v)) + space for v in value) + space + "]"
    return space + json.dumps(value) + space


def escaped(character):
    """The ways to write a character in a JSON string."""
    units = character.encode("utf-16-be").hex()
    forms = ["".join(rf"\u{units[i : i + 4]}" for i in range(0, len(units), 4))]
    forms.append(forms[0].upper().replace("U", "u"))
    forms += [
        f"\\{n}" for n, c in zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True) if c == character
    ]
    if character >= " " and character not in '"\\':
        forms += [character] * 3
    return st.sampled_from(forms)


DOCUMENTS = VALUES.flatmap(spelled).filter(fits)


@settings(max_examples=80)
@given(st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_well_formed_documents_are_valid(documents):
    assert all(loads(d.encode())[0] for d in documents)
    assert_validity(documents)


@settings(max_examples=80)
@given(st.lists(DOCUMENTS, min_size=1, max_size=8), st.data())
def test_documents_with_an_error_are_judged_as_json_loads_does(documents, data):
    broken = []
    for document in documents:
        for _ in range(6):
            edit = data.draw(st.sampled_from(["delete", "insert", "replace", "swap"]))
            at = data.draw(st.integers(0, max(0, len(document) - 1)))
            new = data.draw(st.sampled_from('{}[]:,"\\ue-+.019 \ttnfNI\x00\x1f\x85é\ufeff'))
            if edit == "swap":
                text = document[:at] + document[at : at + 2][::-1] + document[at + 2 :]
            else:
                skip = 0 if edit == "insert" else 1
                text = document[:at] + ("" if edit == "delete" else new) + document[at + skip :]
            broken.append(text)
    assert_validity([text for text in broken if fits(text)])


@settings(max_examples=100)
@given(
    st.lists(
        st.lists(
            st.sampled_from(
                ["{", "}", "[", "]", ":", ",", '"', '"a"', '"a":', "1", "-", "0", ".", "e", "E+"]
                + ["true", "false", "null", "nul", "\\", '\\"', "\\u0041", " ", "\n", "\x00", "NaN"]
            ),
            max_size=9,
        ).map("".join),
        min_size=1,
        max_size=N,
    )
)
def test_any_sequence_of_tokens_is_judged_as_json_loads_does(documents):
    assert_validity(documents)


def test_every_sequence_of_up_to_four_structural_tokens_is_judged_as_json_loads_does():
    tokens = ["{", "}", "[", "]", ":", ",", '"k"', "1"]
    sequences = [""]
    for _ in range(4):
        sequences += [s + t for s in sequences for t in tokens if len(s) < 9]
    assert_validity(sorted(set(sequences)), 16)


def test_every_number_of_up_to_six_characters_of_its_alphabet_is_judged_as_json_loads_does():
    numbers = [""]
    for _ in range(5):
        numbers += {n + c for n in numbers for c in "-+0190.eE"} - set(numbers)
    sample = np.random.default_rng(0).permutation(len(numbers))[:6000]
    pattern = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
    packed = [numbers[i] for i in sample] + [n for n in numbers if pattern.fullmatch(n)][:3000]
    for first in range(0, len(packed), 1024):
        rows = packed[first : first + 1024]
        rows += [""] * (1024 - len(rows))
        valid_N = np.asarray(jit_scan(from_host(rows, 8)).valid_N)
        np.testing.assert_array_equal(valid_N, [bool(pattern.fullmatch(row)) for row in rows])


DOCUMENT = json.dumps(
    {"a": [1, -0.5e-3, True, None, {"é\n": '"\\ \U0001f600'}], "genes": ["SCN1A", "B"], "": {}}
)


@pytest.mark.parametrize(
    "document", [DOCUMENT, json.dumps(json.loads(DOCUMENT), ensure_ascii=False)]
)
def test_a_document_cut_at_any_byte_is_not_valid(document):
    whole = document.encode()
    assert_validity([whole[:n] for n in range(len(whole) + 1)])
    assert_validity([whole[n:] for n in range(len(whole) + 1)])
    assert_validity([whole[:n] + b"\xff" + whole[n:] for n in range(len(whole) + 1)])


AWKWARD = [
    *(
        "",
        " ",
        "\n",
        "null",
        " null ",
        "nulL",
        "truefalse",
        "true false",
        "true,",
        "[true]1",
        '1"a"',
    ),
    *(
        '"a"1',
        '"a""b"',
        '"a" "b"',
        "[1 2]",
        '["a""b"]',
        "[]]",
        "[[]",
        "{}{}",
        "{},",
        ",",
        ":",
        "[,]",
    ),
    *("[1,]", "[,1]", "{,}", '{"a"}', '{"a":}', '{"a":1,}', '{"a"::1}', '{"a":1:2}', '{"a" 1}'),
    *('{"a":"b":"c"}', '{"a","b"}', "{1:2}", "{null:1}", "{[]:1}", "{{}:1}", '["a":1]', "{]", "[}"),
    *('{"a":[}]', '[{"a":1]}', '{"a":{"b":[1,{"c":2}]}}', '[{},{},[[]],""]', '{"":""}', '"', '"""'),
    *('"\\"', '"\\\\"', '"\\\\\\"', '"\\a"', '"\\u"', '"\\u123"', '"\\u12345"', '"\\uD83D\\uDE00"'),
    *(
        '"\\u00e"9',
        '"\\u00G0"',
        '"\\',
        '\\"a"',
        "\\n",
        '"\n"',
        '"\t"',
        '"\x00"',
        '"\x1f"',
        '"\x7f"',
    ),
    *(
        '{"a\\',
        '"\\u0000"',
        "\ufeff1",
        "\xa01",
        "1\x0c",
        "\x001",
        "1\x00",
        "\u20281",
        "-",
        "+1",
        "1.",
    ),
    *(".1", "1.e1", "1e", "1e+", "01", "-01", "00", "-0", "0e0", "0E-0", "1e1e1", "1.1.1", "1-1"),
    *("--1", "0x1", "1_0", "Infinity", "-Infinity", "NaN", "1" * 200, "-" + "9" * 100 + "e-999"),
    *("'a'", "[1]//", "/**/1", "undefined", "True", "None", '"a\\\n"', '"\\/\\b\\f"', "e1", "1 .5"),
    *("tru\\u0065", "[" * 9 + "]" * 9, '{"a":' * 9 + "1" + "}" * 9, "\r\n[\r\n]\r\n", "[1\r\n,2]"),
    *('"é日😀"', '{"é":"\u202e"}', "é", '["\u0130ß"]', " " * 250 + "1", '"' + "a" * 254 + '"'),
]


def test_awkward_documents_are_judged_as_json_loads_does():
    assert_validity(AWKWARD)


@pytest.mark.parametrize(
    "tail", [b"\xe2", b"\xe2\x82", b"\xf0\x9f\x98", b"\xed\xa0\x80", b"\xc0\x80"]
)
def test_bytes_that_are_not_utf8_are_refused_wherever_they_are(tail):
    assert_validity([tail, b'"' + tail, b'"' + tail + b'"', b"1" + tail, b'{"' + tail + b'":1}'])


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_nesting_to_the_limit_is_valid_and_beyond_it_is_flagged(opening, closing):
    levels = sum(opening.count(bracket) for bracket in "[{")
    documents, expected = [], []
    for n in range(1, 30):
        if n * levels * 4 > L:
            break
        documents.append(opening * n + "1" + closing * n)
        expected.append(n * levels <= MAX_DEPTH)
    scan = jit_scan(from_host(rows_of(documents), L))
    assert list(scan.valid_N[: len(documents)]) == expected
    assert list(scan.too_deep_N[: len(documents)]) == [not valid for valid in expected]
    assert True in expected and False in expected


def test_a_deep_document_that_is_not_well_formed_is_only_not_valid():
    deep = ["[" * 40, "[" * 40 + "]" * 39, "[" * 40 + "]" * 40 + "x", "[" * 30 + "01" + "]" * 30]
    deep += ["{]" + "[" * 40 + "]" * 40]
    scan = jit_scan(from_host(rows_of(deep), L))
    assert not np.asarray(scan.valid_N).any() and not np.asarray(scan.too_deep_N).any()


def test_a_document_may_fill_its_row():
    assert_validity(['["' + "a" * 11 + '"]', '["' + "a" * 12 + '"', '"' + "é" * 7 + '"'] * 3, 16)
    assert_validity(
        ["1" * 16, "[" * 8 + "]" * 8, "[" * 16, "true" + " " * 12, '"\\u00e9\\u00e9"'], 16
    )


def value_at(value, path):
    """What Python finds at a path; a missing one is an empty tuple."""
    for step in path:
        try:
            ok = isinstance(value, dict if isinstance(step, str) else list)
            value = value[step] if ok else ()
        except (KeyError, IndexError):
            return ()
    return value


def source_text(document, value):
    """The text of a value by Python, if its spelling does not matter."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def assert_values(documents):
    for rows in batches(documents):
        valid_N, found = look_up(from_host(rows, L))
        values = [loads(row) for row in rows]
        np.testing.assert_array_equal(valid_N, [ok for ok, _ in values])
        for path, (token_N, text) in zip(PATHS, found, strict=True):
            for (ok, value), token, got in zip(values, token_N, to_host(text), strict=True):
                expected = value_at(value, path) if ok else ()
                assert token == TOKENS.get(type(expected), JsonToken.NONE)
                if expected == ():
                    assert got == b""
                elif isinstance(expected, str):
                    assert (
                        got
                        == expected.encode("utf-16", "surrogatepass")
                        .decode("utf-16", "replace")
                        .encode()
                    )
                else:
                    assert loads(got) == (True, expected)
                    assert not re.search(rb"[ \t\r\n]", re.sub(rb'"(\\.|[^"\\])*"', b"", got))


@settings(max_examples=100)
@given(st.lists(DOCUMENTS, min_size=1, max_size=8))
def test_values_are_those_of_json_loads(documents):
    assert_values(documents)


@settings(max_examples=100)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "é\n", "", '"']), VALUES, min_size=1, max_size=3
        ).flatmap(spelled),
        min_size=1,
        max_size=4,
    )
)
def test_members_are_found_whatever_the_spelling_of_their_keys(documents):
    assert_values([d for d in documents if fits(d)])


def test_awkward_documents_have_the_values_of_json_loads():
    assert_values(
        [
            '{"a":1,"a":2}',
            '{"a":{"b":1},"a":{"c":1}}',
            '{"a":{"b":1,"b":{"b":2}},"b":3}',
            '{"b":{"a":5}}',
            '{"x":"a","a":"x"}',
            '{"\\"":1,"a":[["a"],"b",[0,{"a":[]}]]}',
            '{"a\\u0000":1,"\\u0061":2}',
            '{"a":[]}',
            '{"a":"[0,{\\"b\\":1}]"}',
            '[{"a":1},{"a":"z"}]',
            '["\\ud83d","\\ude00\\ud83d","\\ud83d\\ud83d\\ude00\\ude00"]',
            '["\\u007f\\u0080\\u07ff\\u0800\\uffff\\ud800\\udc00\\udbff\\udfff"]',
            '{"\\u00e9\\n":" \\u0020\\" , : { "}',
            '{"":{"":1}}',
            '"a"',
            "[[[[1],[2]]]]",
            " 12 ",
            '{"a" : [ 1 , { "b" : "c d" } , [ 3 , 4 ] ] }',
        ]
        + AWKWARD
    )


def test_numbers_render_as_they_are_spelled():
    rows = rows_of([' { "a" : 1.50e+02 } ', '{"a":-0}', '{"a":123456789012345678901234567890}'])
    token_N, text = look_up(from_host(rows, L))[1][PATHS.index(("a",))]
    assert to_host(text)[:3] == [b"1.50e+02", b"-0", b"123456789012345678901234567890"]


@settings(max_examples=100)
@given(st.lists(st.one_of(st.lists(STRINGS, max_size=9), VALUES).flatmap(spelled), max_size=8))
def test_the_strings_of_an_array_are_those_of_json_loads(documents):
    rows = rows_of([d for d in documents if fits(d)])
    valid_N, strings, uniform_N = lists(from_host(rows, L))
    text = to_host(strings.text)
    for n, row in enumerate(rows):
        ok, value = loads(row)
        if not ok:
            continue
        is_list = isinstance(value, list)
        assert bool(uniform_N[n]) == (is_list and all(isinstance(v, str) for v in value))
        expected = [v for v in value if isinstance(v, str)] if is_list else []
        assert strings.count_N[n] == len(expected)
        for k, string in enumerate(expected[:K]):
            assert text[n][strings.start_NK[n, k] : strings.end_NK[n, k]].decode() == string


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7])
def test_rows_may_be_shorter_than_an_escape_or_a_literal(width):
    documents = [d for d in AWKWARD if len(d.encode()) <= width] + [
        "true"[:width],
        '"\\u00e9'[:width],
    ]
    assert_validity(documents, width)
    text = from_host(rows_of(documents[:N]), width)
    for row, got in zip(documents, to_host(look_up(text)[1][0][1]), strict=False):
        ok, value = loads(row.encode())
        assert got == ((value if isinstance(value, str) else row.strip()).encode() if ok else b"")
