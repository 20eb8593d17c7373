"""How similar two texts are, code point by code point: `indel_similarity`."""

import jax
import jax.numpy as jnp
from jax import lax

from rft_jax.strings.bit_parallel import add_with_carry, by_width, sweep, zeros_of
from rft_jax.strings.byte_string import CodePoints


def indel_similarity(a: CodePoints, b: CodePoints) -> jax.Array:
    """1 less the insertions and deletions that make one text the other, per code point of both.

    With C the longest common subsequence it is 2 C / (length of a + length of b); 1 for two empty
    texts. What rapidfuzz calls `fuzz.ratio`, divided by 100.

    Args:
        a: [..., L].
        b: [..., R].

    Returns:
        float32[...], from 0 to 1. Time L * R, memory L + R.
    """
    total = (a.length + b.length).astype(jnp.float32)
    return jnp.where(total > 0, 2 * lcs_length(a, b) / jnp.maximum(total, 1), 1)


def lcs_length(a: CodePoints, b: CodePoints) -> jax.Array:
    """int32[...]: length of the longest common subsequence; as `indel_similarity` otherwise."""
    text, pattern = by_width(a, b)

    def step(
        row: jax.Array, carry: jax.Array, matches: jax.Array, symbol: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del symbol
        return lcs_step(row, carry, matches)

    carry = zeros_of(pattern)
    return lcs_of(sweep(step, ~carry, carry, text, pattern))


def lcs_step(row: jax.Array, carry: jax.Array, matches: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One symbol of the text, in Hyyrö's algorithm for the longest common subsequence.

    Bit j of the row is 0 where the length for the text so far and the pattern up to and including
    j is one more than for the pattern before j; first all bits are 1.
    """
    total, carry = add_with_carry(row, row & matches, carry)
    return total | (row & ~matches), carry


def lcs_of(row: jax.Array) -> jax.Array:
    """int32[...]: the length that a last row of [W, ...] stands for."""
    return lax.population_count(~row).sum(axis=0, dtype=jnp.int32)
