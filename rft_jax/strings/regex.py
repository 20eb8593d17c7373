"""Regular expressions on the device: whether texts match, and where a group of the match is.

    tables = compile_match(r"(?i)\\bgene:\\s*\\w+")
    matched = matches(tables, text)
    tables = compile_capture(r"answer is (\\d+)", group=1)
    gene = slice_bytes(text, *find_group(tables, text)[:2])

Patterns are Python's for `str`, with the results of `re.search` and `re.fullmatch` and the Unicode
version of the Python that compiles them; a group is what Python's backtracking finds. Refused by
name: backreferences, lookaround, conditional and atomic groups, possessive repetitions, the flags a
and u for a part of a pattern, and, when a group is captured, repetitions of what can be empty.
Tables have at most `regex_automaton.MOST_STATES` states. Each is used in one pass over the bytes,
from left to right or back: time L, and memory of a few small integers per byte.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import ByteString
from rft_jax.strings.regex_automaton import (
    FINAL_NEWLINE,
    PAGE,
    SAME,
    Alphabet,
    CaptureTables,
    MatchTables,
    capture_tables,
    match_tables,
)
from rft_jax.strings.regex_syntax import CLOSES, OPENS, parse_regex
from rft_jax.strings.regex_syntax import MODES as MODES
from rft_jax.strings.regex_syntax import RegexError as RegexError
from rft_jax.strings.regex_syntax import python_flags as python_flags
from rft_jax.strings.unicode import scan_utf8


class Span(NamedTuple):
    """A part of each text, in bytes.

    Attributes:
        start: int32[...]; 0 where there is none.
        end: int32[...]; 0 where there is none.
        found: bool[...].
    """

    start: jax.Array
    end: jax.Array
    found: jax.Array


@functools.lru_cache(maxsize=256)
def compile_match(pattern: str, flags: str = "", mode: str = "search") -> MatchTables:
    """Tables for `matches`, as NumPy arrays.

    Args:
        pattern: As for `re.compile`; flags may stand in it.
        flags: Letters of "aimsx", what `re` calls re.A, re.I, re.M, re.S, re.X.
        mode: "search" or "fullmatch", what `re` calls so.

    Raises:
        RegexError: The pattern is wrong, not supported, or needs tables that are too large.
    """
    return match_tables(parse_regex(pattern, flags, mode))


@functools.lru_cache(maxsize=256)
def compile_capture(
    pattern: str, flags: str = "", mode: str = "search", group: int | str | tuple[str, ...] = 1
) -> CaptureTables:
    """Tables for `find_group` and `find_groups`; arguments and errors as of `compile_match`.

    Args:
        pattern: With the group.
        flags: Letters.
        mode: "search" or "fullmatch".
        group: Its number or name, 0 for the whole match; for `find_groups` also several names.
    """
    return capture_tables(parse_regex(pattern, flags, mode, group))


def matches(tables: MatchTables, text: ByteString) -> jax.Array:
    """Whether texts match: bool[...] for [..., L]; bytes of no character are as U+FFFD."""

    def step(state: jax.Array, symbol: jax.Array) -> tuple[jax.Array, None]:
        return _look_up(tables.next_state, state, symbol), None

    symbols = _symbols(tables.alphabet, text)
    first = jnp.zeros(symbols.shape[1:], tables.next_state.dtype)
    state, _ = lax.scan(step, first, symbols)
    return jnp.asarray(tables.accepts)[state]


def find_group(tables: CaptureTables, text: ByteString) -> Span:
    """Where the group is in the match of each text, as `re.Match.span` says, but in bytes.

    Args:
        tables: From `compile_capture`.
        text: [..., L].

    Returns:
        Span of [...]; not found where the text does not match or the group has no part in it.
    """

    def back(state: jax.Array, symbol: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = _look_up(tables.state_before, state, symbol)
        return state, jnp.where(symbol == SAME, 0, column_of[state])

    def walk(
        carry: tuple[jax.Array, Span], index_and_column: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, Span], None]:
        state, span = carry
        index, column = index_and_column
        step = _step(tables, state, column)
        return (step >> 2, _mark(span, step, index)), None

    column_of = jnp.asarray(tables.column)
    symbols = _symbols(tables.alphabet, text)
    zero = jnp.zeros(symbols.shape[1:], jnp.int32)
    _, columns = lax.scan(back, zero.astype(tables.state_before.dtype), symbols, reverse=True)
    index = jnp.arange(symbols.shape[0], dtype=jnp.int32)
    nothing = Span(zero, zero, zero.astype(bool))
    (state, span), _ = lax.scan(walk, (zero, nothing), (index, columns))
    at_end = _step(tables, state, column_of[zero])
    start, end, found = _mark(span, at_end, jnp.asarray(text.length))
    return Span(jnp.where(found, start, 0), end, found)


class Groups(NamedTuple):
    """The named groups of a match, which may match several times within it.

    Attributes:
        number: int32[..., L], at every byte of a character the number of the innermost group that
            it is in, the place in `CaptureTables.names` plus 1; 0 outside of groups, and everywhere
            in texts that do not match.
        starts: bool[..., L], at the first byte of a character: a group that the tables were made
            for starts with it.
    """

    number: jax.Array
    starts: jax.Array


def find_groups(tables: CaptureTables, text: ByteString) -> Groups:
    """What Python's match of each text has in its named groups, in every repetition of them.

    Args:
        tables: From `compile_capture`.
        text: [..., L].
    """

    def back(state: jax.Array, symbol: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = _look_up(tables.state_before, state, symbol)
        return state, jnp.where(symbol == SAME, 0, column_of[state])

    def walk(place: jax.Array, column: jax.Array) -> tuple[jax.Array, jax.Array]:
        step = _step(tables, place, column)
        return step >> 2, step

    column_of = jnp.asarray(tables.column)
    symbols = _symbols(tables.alphabet, text)
    zero = jnp.zeros(symbols.shape[1:], jnp.int32)
    _, columns = lax.scan(back, zero.astype(tables.state_before.dtype), symbols, reverse=True)
    _, steps = lax.scan(walk, zero, columns)
    steps = jnp.moveaxis(steps, 0, -1)
    inside = jnp.arange(text.bytes.shape[-1]) < jnp.asarray(text.length)[..., None]
    number = jnp.asarray(tables.group)[steps >> 2].astype(jnp.int32)
    first = jnp.moveaxis(symbols, 0, -1) != SAME
    return Groups(jnp.where(inside, number, 0), inside & first & ((steps & OPENS) != 0))


def _mark(span: Span, step: jax.Array, index: jax.Array) -> Span:
    """The span after a step of the walk at an index."""
    opens, closes = (step & OPENS) != 0, (step & CLOSES) != 0
    return Span(
        jnp.where(opens, index, span.start),
        jnp.where(closes, index, span.end),
        span.found | closes,
    )


def _step(tables: CaptureTables, place: jax.Array, column: jax.Array) -> jax.Array:
    """4 * the place after the next symbol + the marks on the way to it."""
    step = _look_up(tables.step, jnp.asarray(tables.row)[place], column)
    return jnp.where(column == 0, 4 * place, step)


def _look_up(table: np.ndarray, row: jax.Array, column: jax.Array) -> jax.Array:
    flat = jnp.asarray(table).reshape(-1)
    index = row.astype(jnp.int32) * table.shape[1] + column.astype(jnp.int32)
    return flat.at[index].get(mode="promise_in_bounds")


def _symbols(alphabet: Alphabet, text: ByteString) -> jax.Array:
    """uint8[L, ...]: the symbol of every byte, the bytes' axis first."""
    utf8 = scan_utf8(text)
    page = jnp.asarray(alphabet.page_of)[utf8.point // PAGE].astype(jnp.int32)
    symbol = jnp.asarray(alphabet.pages)[page * PAGE + utf8.point % PAGE]
    index = jnp.arange(text.bytes.shape[-1], dtype=jnp.int32)
    final = (index == text.length[..., None] - 1) & (text.bytes == ord("\n"))
    symbol = jnp.where(final, jnp.uint8(FINAL_NEWLINE), symbol)
    return jnp.moveaxis(jnp.where(utf8.first, symbol, jnp.uint8(SAME)), -1, 0)
