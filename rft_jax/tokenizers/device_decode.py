"""Tokens to text on the device, byte for byte what the tokenizer's own library returns.

Enter with `detokenize(table, tokens_NT, start_N, end_N, max_bytes)`; the table comes from a
tokenizer's `piece_table()`. Gathers, scatters, cumulative sums and elementwise operations on arrays
of [N, T] and [N, L + T]: it can be jitted, batched, and sharded over N.

The bytes of all tokens are laid one after the other, then what is not UTF-8 among them becomes
U+FFFD. Valid characters cannot overlap (a lead byte is never a continuation byte), so that the
left-to-right parse is decided at every position at once from the three bytes on either side. What
the libraries do differently is in the table:

- SentencePiece (`SentencePieceProcessor::Decode`, src/sentencepiece_processor.cc): pieces are
  text, control tokens have none, `<unk>` has a fixed surface; with `add_dummy_prefix`, one leading
  space is dropped from the first piece with text; with `remove_extra_whitespaces`, one from each
  piece until there is text. A run of byte tokens is read as UTF-8, and each byte that belongs to no
  valid character becomes U+FFFD.
- Hugging Face's byte fallback (`decoders::byte_fallback`, `decoders::strip`): the same, but the run
  goes on over skipped tokens, all of its bytes become U+FFFD if one is invalid, and the space is
  dropped from the finished text.
- Hugging Face's byte-level BPE (`decoders::byte_level`): every token is bytes, and the whole is
  read as `String::from_utf8_lossy` does.
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
    RAW = 2  # bytes that may be part of a character; together with their neighbors they are a run
    SILENT = 3  # no bytes, but a run ends here
    SKIPPED = 4  # as if it were not there


class DropSpace(enum.IntEnum):
    """Which leading spaces are dropped."""

    NEVER = 0
    FIRST = 1  # that of the first piece with text, if it is SPACED (add_dummy_prefix)
    LEADING = 2  # those of SPACED pieces up to the first text (remove_extra_whitespaces)
    TEXT = 3  # the first character of the text (the decoder Strip)


class Repair(enum.IntEnum):
    """What a run that is not UTF-8 becomes: what there is one U+FFFD for."""

    BYTE = 0  # each byte that belongs to no valid character
    RUN = 1  # each byte of the run, if any is invalid
    SUBPART = 2  # each maximal subpart of a character (Unicode 16, section 3.9)


class DetokenizeTable(NamedTuple):
    """Text of every token, and the library's rules.

    Attributes:
        bytes_S: uint8[S], the bytes of all tokens.
        offset_V: int32[V], where a token's bytes begin.
        length_V: int32[V].
        kind_V: int8[V], values of `Kind`.
        drop_space: int32[], a value of `DropSpace`.
        repair: int32[], a value of `Repair`.
    """

    bytes_S: Array
    offset_V: Array
    length_V: Array
    kind_V: Array
    drop_space: Array
    repair: Array


REPLACEMENT = np.frombuffer("\N{REPLACEMENT CHARACTER}".encode(), np.uint8)


def make_table(
    surfaces: Sequence[bytes], kinds: Sequence[Kind], drop_space: DropSpace, repair: Repair
) -> DetokenizeTable:
    """Builds the table from each token's bytes and kind, V of them, on the host."""
    length_V = np.fromiter(map(len, surfaces), np.int32, len(surfaces))
    return DetokenizeTable(
        # Never empty: there is nothing to gather from an empty array.
        bytes_S=np.frombuffer(b"".join(surfaces) + b"\0", np.uint8),
        offset_V=np.cumsum(length_V, dtype=np.int32) - length_V,
        length_V=length_V,
        kind_V=np.array(kinds, np.int8),
        drop_space=np.int32(drop_space),
        repair=np.int32(repair),
    )


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
    # Repair drops bytes only for U+FFFD, which is as long as they are, and the leading space. So
    # the text needs no more than L + 2 of the unrepaired bytes, and to judge these the rest of
    # their run: three bytes to complete a character; for Repair.RUN, where tokens are single bytes,
    # at most T.
    raw = _raw_bytes(table, tokens_NT, start_N, end_N, max_bytes + tokens_NT.shape[1] + 4)
    length_NR = _repaired_lengths(table, raw)
    end_NR = jnp.cumsum(length_NR, axis=1)
    total_N = end_NR[:, -1]
    # One byte more than returned shows whether the last one ends a character.
    bytes_NL = _repaired_bytes(raw, length_NR, end_NR - length_NR, max_bytes + 1)
    overflow_N = total_N > max_bytes
    length_N = jnp.where(overflow_N, max_bytes - _partial_bytes(bytes_NL), total_N)
    inside_NL = jnp.arange(max_bytes) < length_N[:, None]
    text_NL = jnp.where(inside_NL, bytes_NL[:, :max_bytes], 0)
    return ByteString(text_NL, length_N.astype(jnp.int32)), overflow_N


class _RawBytes(NamedTuple):
    """The first R bytes of all tokens, one after the other, before repair."""

    bytes_NR: jax.Array  # uint8
    inside_NR: jax.Array  # bool, false to the right of the last byte
    run_NR: jax.Array  # int32, equal for the bytes of a run; -1 outside of runs


def _raw_bytes(
    table: DetokenizeTable, tokens_NT: Array, start_N: Array, end_N: Array, width: int
) -> _RawBytes:
    position_T = jnp.arange(tokens_NT.shape[1])
    inside_NT = (position_T >= start_N[:, None]) & (position_T < end_N[:, None])
    kind_NT = jnp.where(inside_NT, jnp.asarray(table.kind_V)[tokens_NT], Kind.SKIPPED)
    length_NT = jnp.where(inside_NT, jnp.asarray(table.length_V)[tokens_NT], 0)
    skip_NT = _dropped_spaces(table, kind_NT, length_NT).astype(jnp.int32)
    length_NT -= skip_NT

    end_NT = jnp.cumsum(length_NT, axis=1)
    offset_NT = end_NT - length_NT
    token_NR = _owners(offset_NT, width)
    # From the position in the text to the position in the table, in one gather.
    base_NT = jnp.asarray(table.offset_V)[tokens_NT] + skip_NT - offset_NT
    source_NR = jnp.take_along_axis(base_NT, token_NR, axis=1) + jnp.arange(width)
    bytes_NR = jnp.asarray(table.bytes_S).at[source_NR].get(mode="clip")

    inside_NR = jnp.arange(width) < end_NT[:, -1:]
    is_raw_NT = kind_NT == Kind.RAW
    ends_run_NT = ~is_raw_NT & (kind_NT != Kind.SKIPPED)
    run_NT = jnp.where(is_raw_NT, jnp.cumsum(ends_run_NT, axis=1), -1)
    run_NR = jnp.where(inside_NR, jnp.take_along_axis(run_NT, token_NR, axis=1), -1)
    return _RawBytes(bytes_NR, inside_NR, run_NR)


def _dropped_spaces(table: DetokenizeTable, kind_NT: jax.Array, length_NT: jax.Array) -> jax.Array:
    """True for the pieces that lose the space with which they start."""
    spaced_NT = kind_NT == Kind.SPACED
    # A lone space that is itself dropped leaves no text, so LEADING goes on after it.
    passed_NT = spaced_NT & (length_NT == 1) & (table.drop_space == DropSpace.LEADING)
    stops_NT = ((length_NT > 0) & ~passed_NT).astype(jnp.int32)
    at_start_NT = jnp.cumsum(stops_NT, axis=1) == stops_NT
    drops = (table.drop_space == DropSpace.FIRST) | (table.drop_space == DropSpace.LEADING)
    return spaced_NT & at_start_NT & drops


def _repaired_lengths(table: DetokenizeTable, raw: _RawBytes) -> jax.Array:
    """How many bytes of text come of each: one, or three for U+FFFD, or none."""
    valid_NR, follows_NR = _parse_utf8(raw)
    length_NR = jax.lax.switch(table.repair, _REPAIRS, raw.run_NR, valid_NR, follows_NR)
    length_NR = jnp.where(raw.run_NR >= 0, length_NR, 1)
    first_R = jnp.arange(length_NR.shape[1]) == 0
    space_NR = first_R & (raw.bytes_NR == ord(" ")) & (length_NR == 1)
    drop_NR = space_NR & (table.drop_space == DropSpace.TEXT)
    return jnp.where(raw.inside_NR & ~drop_NR, length_NR, 0)


def _repair_bytes(run_NR: jax.Array, valid_NR: jax.Array, follows_NR: jax.Array) -> jax.Array:
    del run_NR, follows_NR
    return jnp.where(valid_NR, 1, 3)


def _repair_runs(run_NR: jax.Array, valid_NR: jax.Array, follows_NR: jax.Array) -> jax.Array:
    del follows_NR
    good_NR = valid_NR | (run_NR < 0)
    # Runs are numbered 0 to T < R - 1, so that R places hold what is known of each; -1 is the last.
    all_R = jnp.ones(run_NR.shape[1], bool)
    good_run_NR = jax.vmap(lambda run_R, good_R: all_R.at[run_R].min(good_R)[run_R])(
        run_NR, good_NR
    )
    return jnp.where(good_run_NR, 1, 3)


def _repair_subparts(run_NR: jax.Array, valid_NR: jax.Array, follows_NR: jax.Array) -> jax.Array:
    del run_NR
    return jnp.where(valid_NR, 1, jnp.where(follows_NR, 0, 3))


_REPAIRS = (_repair_bytes, _repair_runs, _repair_subparts)  # in the order of Repair


def _parse_utf8(raw: _RawBytes) -> tuple[jax.Array, jax.Array]:
    """Reads every run as UTF-8; well-formed sequences: Unicode 16, table 3-7.

    Returns:
        valid_NR: true for the bytes of a complete character.
        follows_NR: true for the bytes after the first of an incomplete one.
    """
    R = raw.bytes_NR.shape[1]

    def ahead(x_NR: jax.Array, k: int, fill: int) -> jax.Array:
        return jnp.pad(x_NR, ((0, 0), (0, k)), constant_values=fill)[:, k:]

    def behind(x_NR: jax.Array, k: int) -> jax.Array:
        return jnp.pad(x_NR, ((0, 0), (k, 0)))[:, :R]

    # Where a run ends a 0 follows, which continues nothing.
    lead = raw.bytes_NR
    second, third, fourth = (
        jnp.where(ahead(raw.run_NR, k, -1) == raw.run_NR, ahead(lead, k, 0), 0) for k in (1, 2, 3)
    )
    low = jnp.select([lead == 0xE0, lead == 0xF0], [0xA0, 0x90], 0x80)  # overlong below
    high = jnp.select([lead == 0xED, lead == 0xF4], [0x9F, 0x8F], 0xBF)  # surrogates, > U+10FFFF
    bounds = [lead < 0x80, lead < 0xC2, lead < 0xE0, lead < 0xF0, lead < 0xF5]
    size_NR = jnp.select(bounds, [1, 0, 2, 3, 4], 0)  # 0: starts no character
    two_NR = (size_NR >= 2) & (second >= low) & (second <= high)
    three_NR = two_NR & (size_NR >= 3) & _continues(third)
    four_NR = three_NR & (size_NR >= 4) & _continues(fourth)
    found_NR = (size_NR > 0).astype(jnp.int32) + two_NR + three_NR + four_NR
    complete_NR = (size_NR > 0) & (found_NR == size_NR)
    valid_NR, follows_NR = complete_NR, jnp.zeros_like(complete_NR)
    for k in (1, 2, 3):
        valid_NR |= behind(complete_NR & (found_NR > k), k)
        follows_NR |= behind(~complete_NR & (found_NR > k), k)
    return valid_NR & (raw.run_NR >= 0), follows_NR


def _continues(byte: jax.Array) -> jax.Array:
    return (byte & 0xC0) == 0x80


def _repaired_bytes(
    raw: _RawBytes, length_NR: jax.Array, offset_NR: jax.Array, width: int
) -> jax.Array:
    """Writes every byte, or U+FFFD, at its offset: uint8[N, width], undefined beyond the text."""
    owner_NL = _owners(offset_NR, width)
    within_NL = jnp.arange(width) - jnp.take_along_axis(offset_NR, owner_NL, axis=1)
    replaced = 256  # no byte
    value_NR = jnp.where(length_NR == len(REPLACEMENT), replaced, raw.bytes_NR.astype(jnp.int32))
    value_NL = jnp.take_along_axis(value_NR, owner_NL, axis=1)
    replacement_NL = jnp.asarray(REPLACEMENT).at[within_NL].get(mode="clip")
    return jnp.where(value_NL == replaced, replacement_NL, value_NL.astype(jnp.uint8))


def _owners(offset_NT: jax.Array, width: int) -> jax.Array:
    """For each of `width` positions, the index of the item that lies there: int32[N, width].

    Args:
        offset_NT: int32[N, T], where each item begins, ascending from 0.
        width: the number of positions.
    """
    # Marks every item's offset with its index; the running maximum is then the item that a position
    # belongs to. Items of length 0 share the offset of the next longer one, whose index is larger.
    zeros_L, index_T = jnp.zeros(width, jnp.int32), jnp.arange(offset_NT.shape[1], dtype=jnp.int32)
    # vmap keeps the rows apart for the partitioner; indexing with an arange of rows does not.
    marks_NL = jax.vmap(lambda offset_T: zeros_L.at[offset_T].max(index_T, mode="drop"))(offset_NT)
    return jax.lax.cummax(marks_NL, axis=1)


def _partial_bytes(bytes_NL: jax.Array) -> jax.Array:
    """How many bytes before the last one belong to the character that the last continues."""
    partial_N = jnp.zeros(bytes_NL.shape[0], jnp.int32)
    cut_N = jnp.ones(bytes_NL.shape[0], bool)
    for k in range(1, 4):
        cut_N &= _continues(bytes_NL[:, -k])
        partial_N += cut_N
    return partial_N
