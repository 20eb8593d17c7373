"""The longest common subsequence, 32 symbols at a time, is that of the textbook's table."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from rft_jax.strings import CodePoints, decode, from_host, indel_similarity, lcs_length

N, L, R = 8, 100, 70
jit_length = jax.jit(lcs_length)
jit_similarity = jax.jit(lambda a, b: indel_similarity(decode(a), decode(b)))


def table(a, b):
    """The length by the textbook's recurrence."""
    row = [0] * (len(b) + 1)
    for x in a:
        above = row
        row = [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[j]))
    return row[-1]


def points(rows, width, count=N, filler=0):
    """CodePoints of [count, width], with a filler beyond the lengths."""
    rows = [list(map(ord, row)) for row in rows] + [[]] * (count - len(rows))
    points = np.full((count, width), filler, np.int32)
    for n, row in enumerate(rows):
        points[n, : len(row)] = row
    return CodePoints(points, np.array([len(row) for row in rows], np.int32))


TEXTS = st.lists(
    st.tuples(
        st.text(st.sampled_from("aab\x00é😀"), max_size=L),
        st.text(st.sampled_from("abb\x00é\ufffd"), max_size=R),
    ),
    min_size=1,
    max_size=N,
)


@settings(max_examples=100)
@given(TEXTS, st.sampled_from([0, ord("a")]))
def test_length_is_that_of_the_table(pairs, filler):
    a, b = zip(*pairs, strict=True)
    lengths = jit_length(points(a, L, filler=filler), points(b, R, filler=filler))
    assert lengths[: len(pairs)].tolist() == [table(*pair) for pair in pairs]


EDGES = [0, 1, 31, 32, 33, 63, 64, 65, 70]


@pytest.mark.parametrize("longer_first", [True, False])
def test_additions_carry_across_words(longer_first):
    pairs = [("a" * L, "a" * edge) for edge in EDGES]
    pairs += [("b" + "a" * 99, "a" * edge + "b" * (R - edge)) for edge in EDGES]
    pairs += [("ab" * 50, "b" * edge) for edge in EDGES]
    # A carry that passes words in which nothing matches.
    pairs += [("b" + "x" * gap + "a", "ab") for gap in (0, 30, 31, 62, 63, 64, 94, 95, 98)]
    a, b = zip(*pairs, strict=True)
    a, b = points(a, L, len(pairs)), points(b, R, len(pairs))
    a, b = (a, b) if longer_first else (b, a)
    assert jit_length(a, b).tolist() == [table(*pair) for pair in pairs]


@pytest.mark.parametrize(
    "a, b, similarity",
    [
        ("", "", 1),
        ("a", "", 0),
        ("abc", "abc", 1),
        ("abc", "xyz", 0),
        ("this is a test", "this is a test!", 28 / 29),
        ("é", "e\u0301", 0),  # one code point and two
        ("😀", "😁", 0),  # four bytes, of which three are the same
        ("kitten", "sitting", 8 / 13),
    ],
)
def test_similarity_is_of_code_points(a, b, similarity):
    found = jit_similarity(from_host([a], 16), from_host([b], 16))
    assert found.tolist() == pytest.approx([similarity])


def test_leading_axes_may_be_any_number():
    pairs = [("abcab", "bca"), ("aaa", "aa"), ("x", "ab"), ("", "a")]
    a, b = zip(*pairs, strict=True)
    expected = np.array([table(*pair) for pair in pairs])
    a, b = points(a, L, 4), points(b, R, 4)
    for shape in [(4,), (2, 2), (1, 4, 1)]:
        shaped = [CodePoints(x.points.reshape(*shape, -1), x.length.reshape(shape)) for x in (a, b)]
        np.testing.assert_array_equal(jit_length(*shaped), expected.reshape(shape))
    one = [CodePoints(x.points[0], x.length[0]) for x in (a, b)]
    assert jit_length(*one) == expected[0]


def test_the_smallest_widths():
    assert jit_length(points(["a", "a"], 1, 2), points(["a", "b"], 1, 2)).tolist() == [1, 0]


def test_memory_is_of_the_lengths_not_of_their_product():
    a, b = (from_host(["x"] * 4, width) for width in (2048, 1024))
    used = jit_similarity.lower(a, b).compile().memory_analysis().temp_size_in_bytes
    assert used < 32 * 4 * (2048 + 1024)


def test_shards_of_a_batch_do_not_communicate():
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    texts = jax.device_put((from_host(["ab"] * 8, 64), from_host(["b"] * 8, 32)), rows)
    program = jit_similarity.lower(*texts).compile()
    found = [word for word in ("all-", "permute", "reduce-scatter") if word in program.as_text()]
    assert found == []
    assert program(*texts).tolist() == pytest.approx([2 / 3] * 8)


@pytest.mark.oracle
@settings(max_examples=100)
@given(TEXTS)
def test_similarity_is_that_of_rapidfuzz(pairs):
    fuzz = pytest.importorskip("rapidfuzz.fuzz")
    a, b = (
        [text.encode()[:width].decode("utf-8", "replace") for text in texts]
        for texts, width in zip(zip(*pairs, strict=True), (L, R), strict=True)
    )
    padding = [""] * (N - len(pairs))
    found = jit_similarity(from_host([*a, *padding], 3 * L), from_host([*b, *padding], 3 * R))
    expected = [fuzz.ratio(x, y) / 100 for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found[: len(a)], expected, atol=1e-6)
