"""Byte strings do what Python's `bytes` and `str` do."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.strings import (
    compress,
    concat,
    contains,
    drop_leading,
    equal,
    from_host,
    slice_bytes,
    to_host,
    trim,
)
from rft_jax.utils.errors import InputError

N, L, R = 32, 48, 12
# Few letters, so that parts occur; characters of one to four bytes, white space of all kinds.
ALPHABET = "ab aé日😀\u0301\u200f\t\r\n\x00\x1f\x85\u3000\u2003\u00a0"


def texts_of(width, alphabet=ALPHABET):
    """Up to N texts of at most `width` bytes."""
    text = st.text(st.sampled_from(alphabet), max_size=width)
    text = text.map(lambda s: s.encode()[:width].decode(errors="ignore"))
    return st.lists(text, min_size=1, max_size=N).map(lambda rows: rows + [""] * (N - len(rows)))


jit_contains, jit_equal, jit_trim = jax.jit(contains), jax.jit(equal), jax.jit(trim)
jit_concat, jit_compress = jax.jit(concat), jax.jit(compress)
jit_slice = jax.jit(slice_bytes, static_argnames="width")


@settings(max_examples=50)
@given(texts_of(L))
def test_host_round_trip_pads_with_zeros(texts):
    strings = from_host(texts, L)
    assert to_host(strings) == [text.encode() for text in texts]
    assert not strings.bytes[np.arange(L) >= strings.length[:, None]].any()


def test_a_text_that_does_not_fit_is_refused_and_one_that_just_does_is_not():
    assert to_host(from_host([b"\xff" * 4, "é" * 2, ""], 4)) == [b"\xff" * 4, "éé".encode(), b""]
    with pytest.raises(InputError, match=r"text 1 has 5 bytes.*max_bytes = 4"):
        from_host(["abcd", "abcde"], 4)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InputError, match="text 0 holds a lone surrogate at character 1"):
        from_host(["a\ud800"], 8)


@settings(max_examples=100)
@given(texts_of(L), texts_of(R))
def test_contains_is_in(texts, parts):
    # Half of the parts are taken from the texts themselves.
    parts = [
        text[1:4].encode()[:R].decode(errors="ignore") if n % 2 else part
        for n, (text, part) in enumerate(zip(texts, parts, strict=True))
    ]
    got = jit_contains(from_host(texts, L), from_host(parts, R))
    assert list(got) == [part in text for text, part in zip(texts, parts, strict=True)]


def test_contains_finds_a_part_at_either_end_and_one_that_fills_the_text():
    texts = ["abc" * 4, "abc" * 4, "abc" * 4, "abc", "", "aaab", "\x00", ""]
    parts = ["cabc", "abca", "abc" * 4, "abca", "", "aab", "\x00", "\x00"]
    expected = [True, True, True, False, True, True, True, False]
    assert list(jit_contains(from_host(texts, 12), from_host(parts, 12))) == expected


@settings(max_examples=50)
@given(texts_of(R, "ab"), texts_of(R + 3, "ab"))
def test_equal_compares_texts_of_different_widths(a, b):
    got = jit_equal(from_host(a, R), from_host(b, R + 3))
    assert list(got) == [x == y for x, y in zip(a, b, strict=True)]


def test_a_trailing_nul_is_not_padding():
    assert not jit_equal(from_host(["a"], 4), from_host(["a\x00"], 4))[0]


@settings(max_examples=50)
@given(texts_of(L), texts_of(R), texts_of(R))
def test_concat_joins_and_pads_with_zeros(a, b, c):
    joined = jax.device_get(jit_concat(from_host(a, L), from_host(b, R), from_host(c, R)))
    assert joined.bytes.shape == (N, L + 2 * R)
    assert to_host(joined) == [(x + y + z).encode() for x, y, z in zip(a, b, c, strict=True)]
    assert not joined.bytes[np.arange(L + 2 * R) >= joined.length[:, None]].any()


@settings(max_examples=50)
@given(texts_of(L), st.data())
def test_slice_is_a_slice_of_bytes(texts, data):
    strings = from_host(texts, L)
    ends = [data.draw(st.integers(0, int(length))) for length in strings.length]
    starts = [data.draw(st.integers(0, int(length))) for length in strings.length]
    for width in (L, R):
        got = jit_slice(strings, np.array(starts), np.array(ends), width=width)
        rows = zip(texts, starts, ends, strict=True)
        assert to_host(got) == [text.encode()[a:b][:width] for text, a, b in rows]
        assert not np.asarray(got.bytes)[np.arange(width) >= np.asarray(got.length)[:, None]].any()


@settings(max_examples=100)
@given(texts_of(L))
def test_trim_is_strip(texts):
    assert to_host(jit_trim(from_host(texts, L))) == [text.strip().encode() for text in texts]


@pytest.mark.parametrize("width", [1, 2, 7, 64, 65])
@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_compress_keeps_the_order(width, seed, share):
    rng = np.random.default_rng(seed)
    values, keep = rng.integers(1, 1 << 20, (N, width)), rng.random((N, width)) < share
    packed, count = jit_compress(values.astype(np.int32), keep)
    for row, kept, out, length in zip(values, keep, packed, count, strict=True):
        assert length == kept.sum()
        assert list(out) == list(row[kept]) + [0] * (width - int(length))


def test_functions_take_any_leading_axes():
    texts, parts = from_host(["abc", "bcd", " é ", ""], 8), from_host(["b", "é", "d", ""], 4)

    def split(x):
        return jax.tree.map(lambda leaf: leaf.reshape(2, 2, *leaf.shape[1:]), x)

    for function in (contains, equal, concat):
        flat, deep = function(texts, parts), function(split(texts), split(parts))
        jax.tree.map(np.testing.assert_array_equal, split(flat), deep)
    jax.tree.map(np.testing.assert_array_equal, split(trim(texts)), trim(split(texts)))


@given(st.lists(st.text("\nab é", max_size=6), min_size=4, max_size=4))
def test_drop_leading_is_lstrip(texts):
    text = from_host(texts, 16)
    found = [row.decode() for row in to_host(jax.jit(drop_leading, static_argnums=1)(text, 10))]
    assert found == [t.lstrip("\n") for t in texts]
