"""A grammar on the device: its automaton's state from token to token, and what that allows.

The tables are `grammars.GrammarTables`; each function here is a few look-ups in them. State `FREE`
is that of everything that is no answer: a thought, and what follows the stop token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.grammars import FREE, WORD, CounterTables, GrammarTables


class GrammarState(NamedTuple):
    """The state before a token; leaves have the shape of the batch."""

    state: Array  # int32
    count: Array  # int32, characters of the counted stretch that it is in
    written: Array  # int32, tokens of the completion so far


def start(tables: GrammarTables, answering: Array) -> GrammarState:
    """The state before the first token.

    Args:
        answering: Whether the completion begins with the answer, bool.
    """
    zero = jnp.zeros(answering.shape, jnp.int32)
    return GrammarState(jnp.where(answering, tables.start, FREE), zero, zero)


def advance(
    tables: GrammarTables, before: GrammarState, tokens: Array, begins: Array
) -> GrammarState:
    """The state after tokens.

    Args:
        begins: Whether the token is the marker, behind which the answer begins, bool.
    """
    token_class = jnp.asarray(tables.class_V)[tokens]
    state = _of_pair(tables.next_KS, token_class, before.state).astype(jnp.int32)
    count = before.count
    if tables.counters is not None:
        fresh = _of_pair(tables.counters.count_KS, token_class, before.state).astype(jnp.int32)
        added = _of_pair(tables.counters.added_KS, token_class, before.state)
        count = jnp.where(fresh >= 0, fresh, count + added)
    return GrammarState(jnp.where(begins, tables.start, state), count, before.written + 1)


def replay(tables: GrammarTables, tokens_xT: Array, answering_xT: Array) -> GrammarState:
    """The states before each token of finished completions; leaves are [..., T].

    Args:
        answering_xT: Whether the token belongs to the answer, bool.
    """
    # The marker is the last token that does not: of the next one this is known.
    after_xT = jnp.concatenate([answering_xT[..., 1:], answering_xT[..., -1:]], axis=-1)
    begins_xT = after_xT & ~answering_xT

    def step(
        state: GrammarState, token_and_begins: tuple[Array, Array]
    ) -> tuple[GrammarState, GrammarState]:
        return advance(tables, state, *token_and_begins), state

    inputs = jax.tree.map(lambda x_xT: jnp.moveaxis(x_xT, -1, 0), (tokens_xT, begins_xT))
    _, states = jax.lax.scan(step, start(tables, answering_xT[..., 0]), inputs)
    return jax.tree.map(lambda x_Tx: jnp.moveaxis(x_Tx, 0, -1), states)


def allowed(tables: GrammarTables, at: GrammarState, vocab_size: int) -> Array:
    """bool [..., V]: the tokens that may come next."""
    bits_RW = jnp.asarray(tables.bits_RW)
    bits_xW = bits_RW[at.state]
    if (counters := tables.counters) is not None:
        room = _of(counters.high_S, at.state) - at.count
        lack = _lack(counters, at)
        last = counters.room_SX.shape[1] - 1
        bits_xW &= bits_RW[_of_pair(counters.room_SX, at.state, jnp.clip(room, 0, last))]
        bits_xW &= bits_RW[_of_pair(counters.lack_SX, at.state, jnp.minimum(lack, last + 1))]
    shift_1 = jnp.arange(WORD, dtype=jnp.uint32)[:, None]
    flag_xBW = (bits_xW[..., None, :] >> shift_1) & 1
    return flag_xBW.reshape(*bits_xW.shape[:-1], -1)[..., :vocab_size] == 1


def must_end(tables: GrammarTables, at: GrammarState, tokens: int | Array) -> Array:
    """bool [...]: after some allowed token those that are left might not suffice for the end.

    Args:
        tokens: The tokens of a completion, T; one for all, or int32 [...].
    """
    most = _of(tables.most_S, at.state) + _filling_tokens(tables, at)
    return tokens - at.written < most + 2  # this token, and the stop


def next_on_way(tables: GrammarTables, at: GrammarState) -> Array:
    """int32 [...]: the token with which the shortest way to the end goes on."""
    way = _of(tables.way_S, at.state)
    if (counters := tables.counters) is None:
        return way
    lack, most = _lack(counters, at), len(counters.adding_G) - 1
    filling = _of(counters.adding_G, jnp.minimum(lack, most))
    return jnp.where((lack > 0) & _of(counters.at_base_S, at.state), filling, way)


def _filling_tokens(tables: GrammarTables, at: GrammarState) -> Array | int:
    """How many tokens it takes to add what the stretch lacks."""
    if (counters := tables.counters) is None:
        return 0
    most = max(1, len(counters.adding_G) - 1)
    return -(-_lack(counters, at) // most)


def _lack(counters: CounterTables, at: GrammarState) -> Array:
    return jnp.maximum(_of(counters.low_S, at.state) - at.count, 0)


def _of(table: Array | np.ndarray, index: Array) -> Array:
    return jnp.asarray(table)[index]


def _of_pair(table: Array | np.ndarray, row: Array, column: Array) -> Array:
    """table[row, column], by one index: a gather of several is slower."""
    return jnp.asarray(table).reshape(-1)[row * table.shape[1] + column]
