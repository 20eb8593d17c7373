"""Lists of strings as arrays: the K strings of a row lie in one text, so that memory stays small.

names = list_from_host([["SCN1A", "NaV1.1"], ["ATP1A2"]])
entries = normalize(names)
same_NAB = equal_pairs(entries, others)
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import (
    Array,
    ByteString,
    compress,
    from_host,
    last_where,
    next_where,
    shift_right,
    to_host,
)
from rft_jax.strings.unicode import fold_points, fold_text, is_space, scan_utf8

_CHUNK = 16  # code points compared at a time; most names are shorter
_SPACE = ord(" ")
FORMS = ("names", "case", "none")
PUNCTUATION = ".,;:!?"


class StringList(NamedTuple):
    """Up to K strings in each of N rows, ascending, with at least one byte between two of them.

    Attributes:
        text: ByteString of [N, L], which holds the strings.
        start_NK: int32, the first byte of each.
        end_NK: int32, one past the last byte of each.
        count_N: int32, number of strings; entries beyond it are empty.
    """

    text: ByteString
    start_NK: Array
    end_NK: Array
    count_N: Array


class PointList(NamedTuple):
    """Likewise, of code points.

    Attributes:
        points_NL: int32.
        start_NK: int32.
        end_NK: int32.
        count_N: int32.
    """

    points_NL: jax.Array
    start_NK: jax.Array
    end_NK: jax.Array
    count_N: jax.Array


def list_from_host(rows: Sequence[Sequence[str | bytes]]) -> StringList:
    """Packs N lists, as NumPy arrays; L and K are the smallest that hold them (at least 1).

    Raises:
        InputError: A string holds a lone surrogate.
    """
    longest = max((4 * len(text) for row in rows for text in row), default=0)
    encoded = [to_host(from_host(row, longest)) for row in rows]
    text = [b"\0".join(row) for row in encoded]
    start_NK, end_NK = np.zeros((2, len(rows), max([1, *map(len, rows)])), np.int32)
    for n, row in enumerate(encoded):
        end = np.cumsum([len(string) + 1 for string in row], dtype=np.int32) - 1
        end_NK[n, : len(row)] = end
        start_NK[n, : len(row)] = end - [len(string) for string in row]
    count_N = np.array([len(row) for row in rows], np.int32)
    return StringList(from_host(text, max([1, *map(len, text)])), start_NK, end_NK, count_N)


def normalize(strings: StringList, form: str = "names") -> PointList:
    """Brings strings to one form, so that different spellings become equal.

    Args:
        strings: K strings in each of N rows.
        form: One of `FORMS`. "none" changes nothing; "case" does 1, 2 and 4, "names" 1 to 3:

    1. every code point is replaced by its simple case folding;
    2. white space at both ends is removed, inner white space becomes one space;
    3. brackets, ( ) and [ ] alike. Depth is the number of opened less closed brackets since the
       start of the string. If the string ends with a closing bracket in depth 0, and something
       that is neither bracket nor space stands in depth 0, what follows the last such character is
       removed: "SCN1A (NaV1.1) [x]" is "scn1a". If nothing stands in depth 0, all brackets and
       spaces at both ends are removed: "[SCN1A]" is "scn1a".
    4. `PUNCTUATION` at the end is removed, unless nothing else is there: "goodwill." is "goodwill".

    Returns:
        PointList with as many entries.
    """
    text, start_NK, end_NK, count_N = strings
    utf8 = scan_utf8(text)
    used_NK = jnp.arange(start_NK.shape[-1]) < jnp.asarray(count_N)[:, None]
    inside_NL = _spread(start_NK, end_NK, used_NK, text.bytes.shape[-1]) > 0
    first_space_NL = utf8.first & is_space(utf8.point)
    space_NL = first_space_NL
    for k in (1, 2):  # the characters of white space have three bytes at most
        space_NL |= shift_right(first_space_NL, k) & _tail(utf8.first, k)
    keep_NL = inside_NL & utf8.first
    points_NL = utf8.point
    if form != "none":
        keep_NL &= ~first_space_NL | (shift_right(inside_NL & ~space_NL, 1))
        points_NL = jnp.where(first_space_NL, _SPACE, fold_points(utf8.point))
    points_NL, _ = compress(points_NL, keep_NL)

    kept_NL = jnp.pad(jnp.cumsum(keep_NL, axis=-1, dtype=jnp.int32), ((0, 0), (1, 0)))
    start_NK = jnp.where(used_NK, _at(kept_NL, jnp.asarray(start_NK)), 0)
    end_NK = jnp.where(used_NK, _at(kept_NL, jnp.asarray(end_NK)), 0)
    if form == "none":
        return PointList(points_NL, start_NK, end_NK, jnp.asarray(count_N))
    trailing = (end_NK > start_NK) & (_at(points_NL, end_NK - 1) == _SPACE)
    plain = PointList(points_NL, start_NK, end_NK - trailing, jnp.asarray(count_N))
    return _without_punctuation(plain) if form == "case" else _without_brackets(plain, used_NK)


def normalize_text(name: str, form: str = "names") -> str:
    """The same form of one string on the host."""
    if form == "none":
        return name
    name = " ".join(fold_text(name).split())
    if form == "case":
        return name.rstrip(PUNCTUATION + " ") or name
    depth = outside = 0
    for end, character in enumerate(name, start=1):
        depth += (character in "([") - (character in ")]")
        if depth == 0 and character not in "()[] ":
            outside = end
    if not outside:
        return name.strip("()[] ")
    return name[:outside] if name[-1] in ")]" and depth == 0 else name


def _tail(first_NL: jax.Array, count: int) -> jax.Array:
    """The last `count` bytes up to each one continue a character."""
    tail_NL = ~first_NL
    for k in range(1, count):
        tail_NL &= ~shift_right(first_NL, k)
    return tail_NL


def _without_punctuation(strings: PointList) -> PointList:
    """Step 4 of `normalize`."""
    points_NL, start_NK, end_NK, count_N = strings
    dropped_NL = points_NL == _SPACE
    for mark in PUNCTUATION:
        dropped_NL |= points_NL == ord(mark)
    last_NK = _at(last_where(~dropped_NL), end_NK - 1)
    kept_NK = (end_NK > start_NK) & (last_NK >= start_NK)
    return PointList(points_NL, start_NK, jnp.where(kept_NK, last_NK + 1, end_NK), count_N)


def _without_brackets(strings: PointList, used_NK: jax.Array) -> PointList:
    """Step 3 of `normalize`."""
    points_NL, start_NK, end_NK, count_N = strings
    width = points_NL.shape[-1]
    opening_NL = (points_NL == ord("(")) | (points_NL == ord("["))
    closing_NL = (points_NL == ord(")")) | (points_NL == ord("]"))
    depth_NL = jnp.cumsum(opening_NL.astype(jnp.int32) - closing_NL, axis=-1, dtype=jnp.int32)
    before_NK = jnp.where(start_NK > 0, _at(depth_NL, start_NK - 1), 0)
    relative_NL = depth_NL - _spread(start_NK, end_NK, before_NK, width)

    edge_NL = opening_NL | closing_NL | (points_NL == _SPACE)
    last_NK = end_NK - 1
    outside_NK = _at(last_where(~edge_NL & (relative_NL == 0)), last_NK)
    has_outside_NK = (outside_NK >= start_NK) & (last_NK >= start_NK)
    grouped_NK = _at(closing_NL, last_NK) & (_at(relative_NL, last_NK) == 0)

    core_start_NK = jnp.minimum(_at(next_where(~edge_NL), start_NK), end_NK)
    core_end_NK = jnp.maximum(_at(last_where(~edge_NL), last_NK) + 1, core_start_NK)
    shortened_NK = jnp.where(grouped_NK, outside_NK + 1, end_NK)
    filled_NK = used_NK & (end_NK > start_NK)
    start = jnp.where(has_outside_NK, start_NK, core_start_NK)
    end = jnp.where(has_outside_NK, shortened_NK, core_end_NK)
    start_NK, end_NK = jnp.where(filled_NK, start, 0), jnp.where(filled_NK, end, 0)
    return PointList(points_NL, start_NK, end_NK, count_N)


def _spread(start_NK: Array, end_NK: Array, value_NK: Array, width: int) -> jax.Array:
    """int32[N, width]: each string's value at all of its positions, zero elsewhere.

    A sum over K that the compiler fuses: [N, width, K] never exists.
    """
    index = jnp.arange(width, dtype=jnp.int32)[:, None]
    inside = (index >= start_NK[:, None, :]) & (index < end_NK[:, None, :])
    return jnp.where(inside, value_NK[:, None, :], 0).sum(axis=-1, dtype=jnp.int32)


def _at(x_NL: jax.Array, index_NK: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_NL, jnp.maximum(index_NK, 0), axis=-1, mode="clip")


def equal_pairs(a: PointList, b: PointList) -> jax.Array:
    """Whether string i of a row of `a` equals string j of the same row of `b`.

    Args:
        a: K strings in each of N rows.
        b: M strings in each of N rows.

    Returns:
        bool[N, K, M], false where either does not exist. The strings are compared a chunk at a
        time up to the longest pair: time N * K * M * length, memory N * K * M.
    """
    length_a, length_b = a.end_NK - a.start_NK, b.end_NK - b.start_NK
    used_a = jnp.arange(length_a.shape[-1]) < a.count_N[:, None]
    used_b = jnp.arange(length_b.shape[-1]) < b.count_N[:, None]
    equal = (length_a[:, :, None] == length_b[:, None, :]) & used_a[:, :, None] & used_b[:, None, :]
    longest = jnp.where(equal, length_a[:, :, None], 0).max(initial=0)

    def step(chunk: jax.Array, equal: jax.Array) -> jax.Array:
        points_a, points_b = _chunk(a, chunk), _chunk(b, chunk)
        return equal & (points_a[:, :, None, :] == points_b[:, None, :, :]).all(axis=-1)

    return lax.fori_loop(0, (longest + _CHUNK - 1) // _CHUNK, step, equal)


def first_occurrences(strings: PointList) -> jax.Array:
    """bool[N, K]: the strings of each row that differ from all before them in it."""
    repeats_NKK = equal_pairs(strings, strings)
    K = repeats_NKK.shape[-1]
    earlier_KK = jnp.tri(K, k=-1, dtype=bool)
    used_NK = jnp.arange(K) < strings.count_N[:, None]
    return used_NK & ~(repeats_NKK & earlier_KK).any(axis=-1)


def _chunk(strings: PointList, chunk: jax.Array) -> jax.Array:
    """The code points of a chunk of every string, zero beyond its end: int32[N, K, C]."""
    N, K = strings.start_NK.shape
    offset = chunk * _CHUNK + jnp.arange(_CHUNK, dtype=jnp.int32)
    index = strings.start_NK[:, :, None] + offset
    points = _at(strings.points_NL, index.reshape(N, K * _CHUNK)).reshape(N, K, _CHUNK)
    return jnp.where(index < strings.end_NK[:, :, None], points, 0)
