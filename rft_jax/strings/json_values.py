"""Values of scanned JSON documents: lookup by path, text of a value, the strings of an array.

Enter with `find` on a `JsonScan`; the rest takes the `JsonValue` that it returns. Everything is
pure jnp over N rows; a lookup is a few passes over L bytes per step of the path.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rft_jax.strings.byte_string import (
    ByteString,
    compress,
    last_where,
    shift_left,
    shift_right,
    slice_bytes,
)
from rft_jax.strings.json_scan import VALUES, JsonScan, JsonToken, hex_digit
from rft_jax.strings.string_list import StringList
from rft_jax.strings.unicode import REPLACEMENT

Path = tuple[str | int, ...]

QUOTE_MARK = 256  # added to a quote that delimits a string, so that no escaped one equals it
_LONG, _SECOND = 1 << 21, 1 << 22  # above the code point: of six bytes, second half of a pair


class JsonValue(NamedTuple):
    """A value in each of N documents.

    Attributes:
        start_N: int32, its first byte.
        end_N: int32, one past its last byte.
        token_N: int32, one of `VALUES`; NONE where there is no such value.
    """

    start_N: jax.Array
    end_N: jax.Array
    token_N: jax.Array


class Unescaped(NamedTuple):
    """Texts with the escapes in their strings replaced and all else as it is.

    Attributes:
        marked_NL: int32, the bytes; quotes that delimit strings have `QUOTE_MARK` added.
        length_N: int32.
        place_NL: int32, where the byte of the source has gone.
    """

    marked_NL: jax.Array
    length_N: jax.Array
    place_NL: jax.Array


def find(scan: JsonScan, unescaped: Unescaped, path: Path) -> JsonValue:
    """The value at a path: keys (compared unescaped; of equal keys the last) and indices.

    Args:
        scan: of N documents.
        unescaped: of the same scan.
        path: keys and indices from 0, static; empty for the whole document.

    Returns:
        JsonValue; NONE where the document is not valid or has no such value.
    """
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    start_N = _first(scan.token_NL != JsonToken.NONE, index)
    value = _value_at(scan, start_N, scan.valid_N)
    for step in path:
        if isinstance(step, str):
            value = _member(scan, unescaped, value, step.encode())
        else:
            value = _element(scan, value, step)
    return value


def _first(mask_NL: jax.Array, index: jax.Array) -> jax.Array:
    """int32[N]: the first index where the mask holds, L without one."""
    width = mask_NL.shape[-1]
    return jnp.where(mask_NL, index, width).min(axis=-1, initial=width)


def _value_at(scan: JsonScan, start_N: jax.Array, exists_N: jax.Array) -> JsonValue:
    """The value that starts at a token."""
    width = scan.token_NL.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    token_N = _at(scan.token_NL, start_N)[:, None]
    depth_N = _at(scan.depth_NL, start_N)[:, None]
    ends_container = (scan.token_NL == JsonToken.OBJECT_END) | (
        scan.token_NL == JsonToken.ARRAY_END
    )
    ends_container &= scan.depth_NL == depth_N + 1
    is_container = (token_N == JsonToken.OBJECT) | (token_N == JsonToken.ARRAY)
    ends_NL = jnp.where(token_N == JsonToken.STRING, scan.closing_NL, ~scan.scalar_NL)
    ends_NL = jnp.where(is_container, ends_container, ends_NL)
    last_N = _first(ends_NL & (index > start_N[:, None]), index)
    scalar_N = (token_N[:, 0] == JsonToken.NUMBER) | (token_N[:, 0] == JsonToken.LITERAL)
    end_N = jnp.where(scalar_N, last_N, last_N + 1)
    return JsonValue(
        jnp.where(exists_N, start_N, 0),
        jnp.where(exists_N, end_N, 0),
        jnp.where(exists_N, token_N[:, 0], JsonToken.NONE),
    )


def _at(x_NL: jax.Array, index_N: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_NL, index_N[:, None], axis=-1, mode="clip")[:, 0]


def _inside(scan: JsonScan, value: JsonValue) -> jax.Array:
    """bool[N, L]: tokens that stand in the container itself, not in one within it."""
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    inside = (index > value.start_N[:, None]) & (index < value.end_N[:, None])
    return inside & (scan.depth_NL == _at(scan.depth_NL, value.start_N)[:, None] + 1)


def _member(scan: JsonScan, unescaped: Unescaped, value: JsonValue, key: bytes) -> JsonValue:
    quote = QUOTE_MARK + ord('"')
    matches_NL = jnp.ones(scan.token_NL.shape, bool)
    for k, byte in enumerate((quote, *key, quote)):
        matches_NL &= shift_left(unescaped.marked_NL, k) == byte
    matches_NL = jnp.take_along_axis(matches_NL, unescaped.place_NL, axis=-1, mode="clip")
    matches_NL &= _inside(scan, value) & (scan.token_NL == JsonToken.KEY)
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    key_N = jnp.where(matches_NL, index, -1).max(axis=-1, initial=-1)
    token = scan.token_NL != JsonToken.NONE
    colon_N = _first(token & (index > key_N[:, None]), index)
    start_N = _first(token & (index > colon_N[:, None]), index)
    return _value_at(scan, start_N, (value.token_N == JsonToken.OBJECT) & (key_N >= 0))


def _element(scan: JsonScan, value: JsonValue, number: int) -> JsonValue:
    elements_NL = _inside(scan, value) & is_value(scan.token_NL)
    count_NL = jnp.cumsum(elements_NL, axis=-1, dtype=jnp.int32)
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    start_N = _first(elements_NL & (count_NL == number + 1), index)
    exists_N = (value.token_N == JsonToken.ARRAY) & (count_NL[:, -1] > number)
    return _value_at(scan, start_N, exists_N)


def is_value(token: jax.Array) -> jax.Array:
    """bool of the tokens' shape: the token starts a value."""
    found = jnp.zeros(token.shape, bool)
    for kind in VALUES:
        found |= token == kind
    return found


def unescape(scan: JsonScan) -> Unescaped:
    """Replaces the escapes in all strings of N documents; see `Unescaped`."""
    byte_NL, keep_NL = _replace_escapes(scan)
    byte_NL += jnp.where(_delimits(scan), QUOTE_MARK, 0)
    place_NL = jnp.cumsum(keep_NL, axis=-1, dtype=jnp.int32) - keep_NL
    return Unescaped(*compress(byte_NL, keep_NL), place_NL)


def _delimits(scan: JsonScan) -> jax.Array:
    token = scan.token_NL
    return scan.closing_NL | (token == JsonToken.KEY) | (token == JsonToken.STRING)


def render(scan: JsonScan, unescaped: Unescaped, value: JsonValue) -> ByteString:
    """The text of a value, as a template shows it.

    A string is unescaped, without quotes; of anything else it is the source text without
    insignificant white space; nothing where there is no value.

    Args:
        scan: of N documents.
        unescaped: of the same scan.
        value: from `find`.

    Returns:
        ByteString of [N, L].
    """
    start_N = _at(unescaped.place_NL, value.start_N) + 1
    string = slice_bytes(
        ByteString(_bytes(unescaped), unescaped.length_N),
        start_N,
        _at(unescaped.place_NL, value.end_N - 1),
    )
    index = jnp.arange(scan.token_NL.shape[-1], dtype=jnp.int32)
    inside_NL = (index >= value.start_N[:, None]) & (index < value.end_N[:, None])
    source = ByteString(*compress(scan.text.bytes, scan.solid_NL & inside_NL))
    is_string_N = value.token_N == JsonToken.STRING
    return ByteString(
        jnp.where(is_string_N[:, None], string.bytes, source.bytes),
        jnp.where(is_string_N, string.length, source.length),
    )


def _bytes(unescaped: Unescaped) -> jax.Array:
    return (unescaped.marked_NL & 0xFF).astype(jnp.uint8)


def _replace_escapes(scan: JsonScan) -> tuple[jax.Array, jax.Array]:
    """Writes the UTF-8 of every escape over its first bytes.

    Returns:
        byte_NL: int32.
        keep_NL: bool, false for what is left of the escapes.
    """
    source_NL = jnp.asarray(scan.text.bytes).astype(jnp.int32)
    name_NL = shift_left(source_NL, 1)
    long_NL = scan.escape_NL & (name_NL == ord("u"))
    digit_NL, unit_NL = hex_digit(source_NL), jnp.zeros_like(source_NL)
    for k in range(2, 6):
        unit_NL = unit_NL << 4 | shift_left(digit_NL, k)
    high_NL = long_NL & (unit_NL >= 0xD800) & (unit_NL < 0xDC00)
    low_NL = long_NL & (unit_NL >= 0xDC00) & (unit_NL < 0xE000)
    pair_NL = high_NL & shift_left(low_NL, 6)
    second_NL = shift_right(pair_NL, 6)  # the second half of a pair writes nothing
    joined_NL = 0x10000 + ((unit_NL - 0xD800) << 10) + shift_left(unit_NL, 6) - 0xDC00
    point_NL = jnp.where(high_NL | low_NL, REPLACEMENT, unit_NL)
    point_NL = jnp.where(pair_NL, joined_NL, point_NL)
    short_NL = name_NL
    for name, control in zip(b"bfnrt", b"\b\f\n\r\t", strict=True):
        short_NL = jnp.where(name_NL == name, control, short_NL)
    point_NL = jnp.where(long_NL, point_NL, short_NL)

    # Every byte looks at the last escape that starts at it or before.
    index = jnp.arange(source_NL.shape[-1], dtype=jnp.int32)
    start_NL = last_where(scan.escape_NL)
    packed_NL = point_NL | long_NL * _LONG | second_NL * _SECOND
    packed_NL = jnp.take_along_axis(packed_NL, jnp.maximum(start_NL, 0), axis=-1)
    offset_NL = index - start_NL
    covered_NL = (start_NL >= 0) & (offset_NL < jnp.where(packed_NL & _LONG != 0, 6, 2))
    encoded_NL = jnp.full_like(source_NL, -1)
    for k, part_NL in enumerate(_utf8(packed_NL & (_LONG - 1))):
        encoded_NL = jnp.where(offset_NL == k, part_NL, encoded_NL)
    written_NL = (encoded_NL >= 0) & (packed_NL & _SECOND == 0)
    return jnp.where(covered_NL, encoded_NL, source_NL), ~covered_NL | written_NL


def _utf8(point: jax.Array) -> tuple[jax.Array, ...]:
    """The four bytes of a code point, -1 for those that it does not have."""
    tail = [0x80 | (point >> shift) & 0x3F for shift in (0, 6, 12)]
    two, three, four = point >= 0x80, point >= 0x800, point >= 0x10000
    first = jnp.where(two, 0xC0 | point >> 6, point)
    first = jnp.where(three, 0xE0 | point >> 12, first)
    first = jnp.where(four, 0xF0 | point >> 18, first)
    second = jnp.where(two, tail[0], -1)
    second = jnp.where(three, tail[1], second)
    second = jnp.where(four, tail[2], second)
    third = jnp.where(three, tail[0], -1)
    third = jnp.where(four, tail[1], third)
    return first, second, third, jnp.where(four, tail[0], -1)


def strings_of(
    scan: JsonScan, unescaped: Unescaped, value: JsonValue, max_items: int
) -> tuple[StringList, jax.Array]:
    """The first strings of an array.

    Args:
        scan: of N documents.
        unescaped: of the same scan.
        value: the array.
        max_items: K, static.

    Returns:
        strings: StringList of [N, L] bytes and K places; its count is that of all strings in the
            array itself and may be larger than K. Empty where the value is no array.
        uniform_N: bool, the value is an array of strings and nothing else (or of nothing).
    """
    inside_NL = _inside(scan, value)
    is_array_N = value.token_N == JsonToken.ARRAY
    opening_NL = inside_NL & (scan.token_NL == JsonToken.STRING)
    others_NL = inside_NL & is_value(scan.token_NL) & ~opening_NL
    # Opening and closing quotes of the strings alternate.
    quotes_NL = (opening_NL | (inside_NL & scan.closing_NL)) & is_array_N[:, None]
    place_NL, quotes_N = compress(unescaped.place_NL, quotes_NL)
    missing = max(0, 2 * max_items - place_NL.shape[-1])
    place_NK2 = jnp.pad(place_NL, ((0, 0), (0, missing)))[:, : 2 * max_items]
    place_NK2 = place_NK2.reshape(-1, max_items, 2)
    text = ByteString(_bytes(unescaped), unescaped.length_N)
    strings = StringList(text, place_NK2[:, :, 0] + 1, place_NK2[:, :, 1], quotes_N // 2)
    return strings, is_array_N & ~others_NL.any(axis=-1)
