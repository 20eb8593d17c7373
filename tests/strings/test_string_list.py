"""Names are normalized as documented and compared exactly, whatever their length."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import (
    StringList,
    equal_pairs,
    first_occurrences,
    from_host,
    list_from_host,
    normalize,
)
from rft_jax.strings.case_folding_generator import simple_case_fold
from rft_jax.utils.errors import InputError

N, K, L = 16, 5, 128
jit_normalize, jit_pairs = jax.jit(normalize), jax.jit(equal_pairs)
jit_first = jax.jit(first_occurrences)


def normalized(name):
    """The documented rule, in plain Python."""
    name = " ".join("".join(map(simple_case_fold, name)).split())
    depth, outside = 0, 0
    for n, character in enumerate(name):
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        elif depth == 0 and character != " ":
            outside = n + 1
    if not outside:
        return name.strip("()[] ")
    return name[:outside] if name[-1] in ")]" and depth == 0 else name


def packed(rows):
    """Lists with fixed widths, so that they compile once."""
    tight = list_from_host(rows + [[]] * (N - len(rows)))
    pad_K, pad_L = K - tight.start_NK.shape[1], L - tight.text.bytes.shape[1]
    places = [np.pad(x, ((0, 0), (0, pad_K))) for x in (tight.start_NK, tight.end_NK)]
    text = tight.text._replace(bytes=np.pad(tight.text.bytes, ((0, 0), (0, pad_L))))
    return StringList(text, *places, tight.count_N)


def unpacked(points):
    """The strings of a PointList."""
    points = jax.device_get(points)
    return [
        ["".join(map(chr, row[start[k] : end[k]])) for k in range(count)]
        for row, start, end, count in zip(*points, strict=True)
    ]


NAMES = st.text(st.sampled_from("aA1-İßΣς()[] \t\u2003\u3000\x85é😀"), max_size=7)
LISTS = st.lists(st.lists(NAMES, max_size=K), min_size=1, max_size=N)


@settings(max_examples=300)
@given(LISTS)
def test_normalize_follows_the_rule(rows):
    expected = [[normalized(name) for name in row] for row in rows]
    assert unpacked(jit_normalize(packed(rows)))[: len(rows)] == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("SCN1A", "scn1a"),
        (" scn1a\n", "scn1a"),
        ("SCN1A (NaV1.1)", "scn1a"),
        ("SCN1A (NaV1.1 (alpha)) [HGNC:10585]", "scn1a"),
        ("SCN1A()", "scn1a"),
        ("[SCN1A]", "scn1a"),
        ("((SCN1A))", "scn1a"),
        ("[ SCN1A ]", "scn1a"),
        ("a (b) c", "a (b) c"),
        ("a (b) c (d)", "a (b) c"),
        ("(a) b", "(a) b"),
        ("a (b", "a (b"),
        ("a) b)", "a) b)"),
        ("Dravet\u00a0 \tSyndrome", "dravet syndrome"),
        ("()", ""),
        ("", ""),
        (" ", ""),
        ("(A) (B)", "a) (b"),
        ("ΣΑΣ", "σασ"),
        ("Straße", "straße"),
        ("NKX2‑1", "nkx2‑1"),
    ],
)
def test_normalize_of_names_as_models_write_them(name, expected):
    assert normalized(name) == expected
    assert unpacked(jit_normalize(packed([[name]])))[0] == [expected]


@settings(max_examples=150)
@given(LISTS, st.data())
def test_pairs_are_equal_when_the_normalized_names_are(rows, data):
    others = [data.draw(st.permutations(row)) + ["aa"] for row in rows]
    others = [other[:K] for other in others]
    a, b = jit_normalize(packed(rows)), jit_normalize(packed(others))
    expected = np.zeros((N, K, K), bool)
    for n, (row, other) in enumerate(zip(rows, others, strict=True)):
        for i, x in enumerate(row):
            for j, y in enumerate(other):
                expected[n, i, j] = normalized(x) == normalized(y)
    np.testing.assert_array_equal(jit_pairs(a, b), expected)


@settings(max_examples=30)
@given(LISTS)
def test_of_equal_names_the_first_is_told(rows):
    expected = np.zeros((N, K), bool)
    for n, row in enumerate(rows):
        names = [normalized(name) for name in row]
        expected[n, : len(row)] = [name not in names[:k] for k, name in enumerate(names)]
    np.testing.assert_array_equal(jit_first(jit_normalize(packed(rows))), expected)


@pytest.mark.parametrize("length", [15, 16, 17, 31, 32, 33, 60])
def test_long_names_that_differ_in_one_place_are_not_equal(length):
    name = "x" * length
    for place in (0, length // 2, length - 1):
        other = name[:place] + "y" + name[place + 1 :]
        pairs = jit_pairs(*[jit_normalize(packed([[name, other]]))] * 2)
        np.testing.assert_array_equal(pairs[0, :2, :2], np.eye(2, dtype=bool))


def test_places_beyond_the_count_do_not_matter():
    full = packed([["a", "b", "c", "d", "e"]])
    two = full._replace(count_N=np.where(np.arange(N) == 0, 2, 0))
    assert unpacked(jit_normalize(two))[0] == ["a", "b"]
    pairs = np.asarray(jit_pairs(jit_normalize(two), jit_normalize(two)))
    assert pairs.sum() == 2


def test_the_smallest_width_holds_the_longest_row():
    strings = list_from_host([["abc", "é"], [], ["x"]])
    assert strings.text.bytes.shape == (3, 6) and strings.start_NK.shape == (3, 2)
    assert list(strings.count_N) == [2, 0, 1]
    assert from_host(["a"], 1).bytes.shape == (1, 1)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InputError, match="lone surrogate"):
        list_from_host([["a", "b\udc00"]])
