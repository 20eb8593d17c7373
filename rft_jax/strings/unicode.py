"""UTF-8 and Unicode on the device: code points, simple case folding, white space.

Enter with `decode` or `case_fold` for texts, `scan_utf8` for what every byte is. Case folding is
Unicode's simple case folding (CaseFolding.txt, C and S) of version `UNICODE_VERSION`; white space
is what `str.isspace` holds for it.
"""

import functools
import re
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.strings.byte_string import (
    Array,
    ByteString,
    CodePoints,
    compress,
    shift_left,
    shift_right,
    slice_bytes,
)
from rft_jax.strings.case_folding_table import RANGES
from rft_jax.strings.case_folding_table import UNICODE_VERSION as UNICODE_VERSION

REPLACEMENT = 0xFFFD
_PAGE = 128  # code points per page of the folding table


class Utf8(NamedTuple):
    """What every byte of a text is.

    Attributes:
        point: int32[..., L], the code point at the first byte of a character; else undefined.
        first: bool[..., L], a character starts here. A byte that is part of no well-formed
            character stands alone, as U+FFFD.
        well_formed: bool[..., L], the byte is part of a well-formed character, or beyond the text.
    """

    point: jax.Array
    first: jax.Array
    well_formed: jax.Array


def scan_utf8(text: ByteString) -> Utf8:
    """Reads UTF-8 (well-formed sequences: Unicode 16, table 3-7), every byte on its own."""
    inside = jnp.arange(text.bytes.shape[-1]) < text.length[..., None]
    byte = jnp.where(inside, text.bytes, 0).astype(jnp.int32)
    second, third, fourth = (shift_left(byte, k) for k in (1, 2, 3))
    low = jnp.where(byte == 0xE0, 0xA0, jnp.where(byte == 0xF0, 0x90, 0x80))  # overlong below
    high = jnp.where(byte == 0xED, 0x9F, jnp.where(byte == 0xF4, 0x8F, 0xBF))  # surrogates, 11xxxx
    fits = (second >= low) & (second <= high)
    two = (byte >= 0xC2) & (byte <= 0xDF) & fits
    three = (byte >= 0xE0) & (byte <= 0xEF) & fits & _continues(third)
    four = (byte >= 0xF0) & (byte <= 0xF4) & fits & _continues(third) & _continues(fourth)
    tail = shift_right(two | three | four, 1) | shift_right(three | four, 2) | shift_right(four, 3)

    c1, c2, c3 = second & 0x3F, third & 0x3F, fourth & 0x3F
    point = jnp.where(byte < 0x80, byte, REPLACEMENT)
    point = jnp.where(two, (byte & 0x1F) << 6 | c1, point)
    point = jnp.where(three, (byte & 0x0F) << 12 | c1 << 6 | c2, point)
    point = jnp.where(four, (byte & 0x07) << 18 | c1 << 12 | c2 << 6 | c3, point)
    well_formed = (byte < 0x80) | two | three | four | tail
    return Utf8(point, inside & ~tail, well_formed)


def _continues(byte: jax.Array) -> jax.Array:
    return (byte & 0xC0) == 0x80


def decode(text: ByteString) -> CodePoints:
    """The code points of [..., L] bytes; a byte of no well-formed character becomes U+FFFD."""
    utf8 = scan_utf8(text)
    return CodePoints(*compress(utf8.point, utf8.first))


def case_fold(text: ByteString) -> CodePoints:
    """The code points of [..., L] bytes, folded: texts that differ only in case become equal."""
    utf8 = scan_utf8(text)
    return CodePoints(*compress(fold_points(utf8.point), utf8.first))


def fold_text(text: str) -> str:
    """The same folding of a text on the host."""
    return text.translate(_host_fold_table())


@functools.cache
def _host_fold_table() -> dict[int, int]:
    return {
        point: point + shift
        for first, last, step, shift in RANGES
        for point in range(first, last + 1, step)
    }


def fold_points(points: Array) -> jax.Array:
    """Simple case folding of every code point, int32 of any shape."""
    page_of, deltas = _fold_table()
    page = jnp.asarray(page_of).at[points // _PAGE].get(mode="clip").astype(jnp.int32)
    return jnp.add(points, jnp.asarray(deltas)[page * _PAGE + points % _PAGE])


@functools.cache
def _fold_table() -> tuple[np.ndarray, np.ndarray]:
    """The number of the page of every block of code points, and the pages, one after the other.

    The last block is one that folds to itself, so that indices beyond can be clipped to it.
    """
    last = max(entry[1] for entry in RANGES)
    blocks = last // _PAGE + 2
    delta = np.zeros(blocks * _PAGE, np.int32)
    for first, end, step, shift in RANGES:
        delta[first : end + 1 : step] = shift
    pages, page_of = np.unique(delta.reshape(blocks, _PAGE), axis=0, return_inverse=True)
    return page_of.reshape(-1).astype(np.uint8), pages.reshape(-1)


def is_space(points: Array) -> jax.Array:
    """White space, as `str.isspace` has it: bool of the points' shape."""
    ascii_space = (points == 0x20) | ((points >= 9) & (points <= 13))
    separators = (points >= 0x1C) & (points <= 0x1F)
    wide = (points >= 0x2000) & (points <= 0x200A)
    found = ascii_space | separators | wide
    for point in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000):
        found |= points == point
    return found


def is_word(points: Array) -> jax.Array:
    """What `\\w` of Python's `re` matches: bool of the points' shape."""
    page_of, pages = _word_table()
    page = jnp.asarray(page_of).at[points // _PAGE].get(mode="clip").astype(jnp.int32)
    return jnp.asarray(pages)[page * _PAGE + points % _PAGE]


@functools.cache
def _word_table() -> tuple[np.ndarray, np.ndarray]:
    """As `_fold_table`; the last block has no word characters."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    inside = np.zeros(sys.maxunicode + 1 + _PAGE, bool)
    for match in re.finditer(r"\w+", everything):
        inside[match.start() : match.end()] = True
    pages, page_of = np.unique(inside.reshape(-1, _PAGE), axis=0, return_inverse=True)
    return page_of.reshape(-1).astype(np.uint16), pages.reshape(-1)


def trim(text: ByteString) -> ByteString:
    """Without white space at both ends, as `str.strip` does: ByteString of [..., L]."""
    utf8 = scan_utf8(text)
    width = text.bytes.shape[-1]
    index = jnp.arange(width, dtype=jnp.int32)
    solid = utf8.first & ~is_space(utf8.point)
    start = jnp.where(solid, index, width).min(axis=-1, initial=width)
    last = jnp.where(solid, index, -1).max(axis=-1, initial=-1)
    # The text ends before the character that follows the last solid one.
    follows = utf8.first & (index > last[..., None])
    end = jnp.where(follows, index, text.length[..., None]).min(axis=-1, initial=width)
    return slice_bytes(text, start, jnp.where(last < 0, start, end))
