"""Tokens to text on the device, byte for byte what SentencePiece's `decode` returns.

Enter with `detokenize(table, tokens_NT, start_N, end_N, max_bytes)`; the table comes from a
tokenizer's `piece_table()`. Gathers, one scatter, cumulative sums and elementwise operations: it
can be jitted, batched, and sharded over N.

The library's rules (`SentencePieceProcessor::Decode`, src/sentencepiece_processor.cc):

- control tokens have no text; `<unk>` has a fixed surface; U+2581 in a piece is a space;
- with `add_dummy_prefix`, one leading space is dropped from the first piece with text; with
  `remove_extra_whitespaces`, one from each piece until there is text;
- a maximal run of byte tokens is read as UTF-8: a byte that belongs to no valid character becomes
  U+FFFD. Valid characters cannot overlap (a lead byte is never a continuation byte), so that the
  left-to-right parse is decided at every position at once from the three bytes on either side.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.strings import ByteString

Array = jax.Array | np.ndarray


class Kind(enum.IntEnum):
    """How a token's bytes enter the text."""

    PLAIN = 0  # as they are: pieces, user-defined symbols, the surface of <unk>
    SPACED = 1  # a piece that starts with U+2581: its space can be dropped at the start of the text
    BYTE = 2  # one raw byte, which takes part in UTF-8 repair
    SILENT = 3  # control tokens: no bytes


class DropSpace(enum.IntEnum):
    """Which leading spaces are dropped."""

    NEVER = 0
    FIRST = 1  # add_dummy_prefix
    LEADING = 2  # remove_extra_whitespaces


class DetokenizeTable(NamedTuple):
    """Text of every token; the last row is U+FFFD, the text of a byte token that is not UTF-8.

    Attributes:
        bytes_VW: uint8[V + 1, W], zero right of the length.
        length_V: int32[V + 1].
        kind_V: int8[V + 1], values of `Kind`.
        drop_space: int32[], a value of `DropSpace`.
    """

    bytes_VW: Array
    length_V: Array
    kind_V: Array
    drop_space: Array


REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


def make_table(
    surfaces: Sequence[bytes], kinds: Sequence[Kind], drop_space: DropSpace
) -> DetokenizeTable:
    """Builds the table from each token's bytes and kind, V of them, on the host."""
    rows = [*surfaces, REPLACEMENT]
    length_V = np.array([len(row) for row in rows], np.int32)
    bytes_VW = np.zeros((len(rows), length_V.max()), np.uint8)
    for row, surface in zip(bytes_VW, rows, strict=True):
        row[: len(surface)] = np.frombuffer(surface, np.uint8)
    kind_V = np.array([*kinds, Kind.PLAIN], np.int8)
    return DetokenizeTable(bytes_VW, length_V, kind_V, np.int32(drop_space))


def detokenize(
    table: DetokenizeTable, tokens_NT: Array, start_N: Array, end_N: Array, max_bytes: int
) -> tuple[ByteString, jax.Array]:
    """Decodes tokens[start:end] of every row.

    Args:
        table: the tokenizer's `piece_table()`.
        tokens_NT: int32[N, T], token ids in [0, V); outside of [start, end) they are not looked at.
        start_N: int32[N], first token.
        end_N: int32[N], one past the last token; a row with end <= start is empty.
        max_bytes: L, static, at least 4.

    Returns:
        text: ByteString of [N, L], UTF-8. A text longer than L is cut after its last character that
            fits as a whole.
        overflow_N: bool[N], true where the text was cut.
    """
    row_NT, skip_NT, length_NT = _token_surfaces(table, tokens_NT, start_N, end_N)
    end_NT = jnp.cumsum(length_NT, axis=1)
    total_N = end_NT[:, -1]
    # One byte more than returned shows whether the last one ends a character.
    bytes_NL = _place(table, row_NT, skip_NT, end_NT - length_NT, max_bytes + 1)
    overflow_N = total_N > max_bytes
    length_N = jnp.where(overflow_N, max_bytes - _partial_bytes(bytes_NL), total_N)
    inside_NL = jnp.arange(max_bytes) < length_N[:, None]
    text_NL = jnp.where(inside_NL, bytes_NL[:, :max_bytes], 0)
    return ByteString(text_NL, length_N.astype(jnp.int32)), overflow_N


def _token_surfaces(
    table: DetokenizeTable, tokens_NT: Array, start_N: Array, end_N: Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Each token's row in the table, the bytes of it to skip (0 or 1), and how many follow."""
    position_T = jnp.arange(tokens_NT.shape[1])
    inside_NT = (position_T >= start_N[:, None]) & (position_T < end_N[:, None])
    length_NT = jnp.where(inside_NT, jnp.asarray(table.length_V)[tokens_NT], 0)
    kind_NT = jnp.where(inside_NT, jnp.asarray(table.kind_V)[tokens_NT], Kind.SILENT)

    is_byte_NT = kind_NT == Kind.BYTE
    byte_NT = jnp.asarray(table.bytes_VW)[:, 0][tokens_NT]
    invalid_NT = is_byte_NT & ~_valid_utf8(byte_NT, is_byte_NT)
    replacement = table.length_V.shape[0] - 1
    row_NT = jnp.where(invalid_NT, replacement, tokens_NT)
    length_NT = jnp.where(invalid_NT, len(REPLACEMENT), length_NT)

    spaced_NT = kind_NT == Kind.SPACED
    # A lone space that is itself dropped leaves no text, so LEADING goes on after it.
    passed_NT = spaced_NT & (length_NT == 1) & (table.drop_space == DropSpace.LEADING)
    stops_NT = ((length_NT > 0) & ~passed_NT).astype(jnp.int32)
    at_start_NT = jnp.cumsum(stops_NT, axis=1) == stops_NT
    drop_NT = spaced_NT & at_start_NT & (table.drop_space != DropSpace.NEVER)
    skip_NT = drop_NT.astype(jnp.int32)
    return row_NT, skip_NT, length_NT - skip_NT


def _valid_utf8(byte_NT: jax.Array, is_byte_NT: jax.Array) -> jax.Array:
    """True where a byte token is part of a valid UTF-8 character within its run of byte tokens.

    Well-formed sequences: Unicode 16, table 3-7.
    """
    T = byte_NT.shape[1]
    # Where a run ends a 0 follows, which continues nothing.
    padded = jnp.pad(jnp.where(is_byte_NT, byte_NT, 0), ((0, 0), (0, 3)))
    lead, second, third, fourth = (padded[:, k : k + T] for k in range(4))
    low = jnp.select([lead == 0xE0, lead == 0xF0], [0xA0, 0x90], 0x80)  # overlong below
    high = jnp.select([lead == 0xED, lead == 0xF4], [0x9F, 0x8F], 0xBF)  # surrogates, > U+10FFFF
    second_fits = (second >= low) & (second <= high)
    two = (lead >= 0xC2) & (lead <= 0xDF) & second_fits
    three = (lead >= 0xE0) & (lead <= 0xEF) & second_fits & _continues(third)
    four = (lead >= 0xF0) & (lead <= 0xF4) & second_fits & _continues(third) & _continues(fourth)

    def behind(starts_NT: jax.Array, k: int) -> jax.Array:
        return jnp.pad(starts_NT, ((0, 0), (k, 0)))[:, :T]

    valid = (lead < 0x80) | two | three | four
    valid |= behind(two | three | four, 1) | behind(three | four, 2) | behind(four, 3)
    return valid & is_byte_NT


def _continues(byte: jax.Array) -> jax.Array:
    return (byte & 0xC0) == 0x80


def _place(
    table: DetokenizeTable,
    row_NT: jax.Array,
    skip_NT: jax.Array,
    offset_NT: jax.Array,
    width: int,
) -> jax.Array:
    """Writes every token's bytes at its offset: uint8[N, width], undefined beyond the text."""
    T = row_NT.shape[1]
    # Marks every token's offset with its index; the running maximum is then, for every byte, the
    # token that it belongs to. Tokens without text share the offset of the next one that has some,
    # whose index is larger.
    zeros_L, index_T = jnp.zeros(width, jnp.int32), jnp.arange(T, dtype=jnp.int32)
    # vmap keeps the rows apart for the partitioner; indexing with an arange of rows does not.
    marks_NL = jax.vmap(lambda offset_T: zeros_L.at[offset_T].max(index_T, mode="drop"))(offset_NT)
    token_NL = jax.lax.cummax(marks_NL, axis=1)
    # From the position in the text to the position in the flattened table, in one gather.
    base_NT = row_NT * table.bytes_VW.shape[1] + skip_NT - offset_NT
    index_NL = jnp.take_along_axis(base_NT, token_NL, axis=1) + jnp.arange(width)
    return jnp.asarray(table.bytes_VW).reshape(-1).at[index_NL].get(mode="clip")


def _partial_bytes(bytes_NL: jax.Array) -> jax.Array:
    """How many bytes before the last one belong to the character that the last continues."""
    partial_N = jnp.zeros(bytes_NL.shape[0], jnp.int32)
    cut_N = jnp.ones(bytes_NL.shape[0], bool)
    for k in range(1, 4):
        cut_N &= _continues(bytes_NL[:, -k])
        partial_N += cut_N
    return partial_N
