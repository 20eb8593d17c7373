"""Which of many literals start at each place of a text, all at once.

    starts = literal_starts(points_NL, [(ord("n"), ord("o")), ...])
    starts.of(0)     # bool[N, L]: literal 0 starts here

Shift-And (Baeza-Yates and Gonnet 1992), from all places at once: a table says for every offset and
symbol which literals have that symbol there. Time is L times the longest literal, whatever their
number up to 32, and memory L.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rft_jax.strings.byte_string import Array

_WORD = 32  # literals per word of bits


class LiteralStarts(NamedTuple):
    """Where literals start: uint32[words, N, L], a bit for each literal."""

    bits: jax.Array

    def until(self, width: int) -> "LiteralStarts":
        """Those in the first places."""
        return LiteralStarts(self.bits[:, :, :width])

    def of(self, literal: int) -> jax.Array:
        """bool[N, L]: one of them does."""
        word, bit = divmod(literal, _WORD)
        return (self.bits[word] >> np.uint32(bit)) & 1 == 1

    def any_of(self, literals: Iterable[int]) -> jax.Array:
        """bool[N, L]: any of several does."""
        masks = np.zeros(self.bits.shape[0], np.uint32)
        for literal in literals:
            masks[literal // _WORD] |= np.uint32(1 << literal % _WORD)
        return ((self.bits & masks[:, None, None]) != 0).any(axis=0)


def literal_starts(points: Array, literals: Sequence[Sequence[int]]) -> LiteralStarts:
    """Finds literals, each of one code point or more.

    Args:
        points: int32[N, L].
        literals: Static.
    """
    alphabet = np.array(sorted({point for literal in literals for point in literal}), np.int32)
    symbol = jnp.searchsorted(jnp.asarray(alphabet), points)
    known = jnp.asarray(alphabet)[jnp.minimum(symbol, len(alphabet) - 1)] == points
    symbol = jnp.where(known, symbol + 1, 0)
    table = jnp.asarray(_table(literals, alphabet))
    width = points.shape[-1]
    padded = jnp.pad(symbol, ((0, 0), (0, len(table))))

    def step(j: jax.Array, bits: jax.Array) -> jax.Array:
        ahead = lax.dynamic_slice_in_dim(padded, j, width, axis=1)
        return bits & table[j][:, ahead]

    full = jnp.full((table.shape[1], *symbol.shape), ~np.uint32(0))
    return LiteralStarts(lax.fori_loop(0, len(table), step, full))


def _table(literals: Sequence[Sequence[int]], alphabet: np.ndarray) -> np.ndarray:
    """uint32[offsets, words, symbols]: the literals that have the symbol there, or have ended."""
    number = {int(point): k for k, point in enumerate(alphabet, start=1)}
    shape = max(map(len, literals)), -(-len(literals) // _WORD), len(alphabet) + 1
    table = np.zeros(shape, np.uint32)
    for n, literal in enumerate(literals):
        word, bit = divmod(n, _WORD)
        for offset in range(len(table)):
            symbols = number[literal[offset]] if offset < len(literal) else slice(None)
            table[offset, word, symbols] |= np.uint32(1 << bit)
    return table
