"""All pairs of symbols of two texts, 32 at a time, for the dynamic programs of string matching.

Enter with `sweep`. A program's row over one text, the pattern, lies in the bits of integers, one
for every block of 32 symbols (Hyyrö, "Bit-parallel LCS-length computation revisited", AWOCA 2004).
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from rft_jax.strings.byte_string import CodePoints

BITS = 32

State = TypeVar("State")
Message = TypeVar("Message")


def sweep(
    step: Callable[[State, Message, jax.Array, jax.Array], tuple[State, Message]],
    state: State,
    message: Message,
    text: CodePoints,
    pattern: CodePoints,
) -> State:
    """Shows every symbol of a text, in order, to every block of a pattern.

    Block w of the W = ceil(R / 32) holds the symbols 32 w to 32 w + 31 of the pattern, the first
    in the lowest bit. What it makes of a symbol may depend on what block w - 1 made of the same
    one, such as the carry of an addition, which reaches it as a message. So that all blocks work
    at once, block w works on symbol t - w at time t, as in a systolic array.

    Args:
        step: Gets a block's state, the message from the block before (zeros for the first), the
            matches, uint32, and the symbol, int32; returns the state and the message to the next
            block. All blocks go through it at once: its arrays have the leading axis W. What lies
            beyond the pattern or the text matches nothing; beyond the text, the symbol is
            negative.
        state: The blocks' first states, a tree of [W, ...].
        message: The form of the messages, a tree of [W, ...] with zeros.
        text: [..., L]; in step its leading axes are the last ones.
        pattern: [..., R], with the same leading axes.

    Returns:
        The blocks' last states. There are L + W - 1 times; the comparisons take time L * R, every
        operation of the step L * R / 32. Memory L + R.
    """
    L, W = text.points.shape[-1], blocks_of(pattern)
    # Backwards, so that at any time the blocks' symbols lie side by side.
    symbols = _symbols(text, L, -1)
    margin = [(W - 1, W - 1)] + [(0, 0)] * (symbols.ndim - 1)
    backwards = jnp.pad(symbols, margin, constant_values=-1)[::-1]

    wanted = _symbols(pattern, W * BITS, -2)
    wanted = wanted.reshape(W, BITS, *wanted.shape[1:]).swapaxes(0, 1)
    bit = jnp.left_shift(jnp.uint32(1), jnp.arange(BITS, dtype=jnp.uint32))
    bit = bit.reshape(BITS, *[1] * (wanted.ndim - 1))

    def move(carry: tuple[State, Message], t: jax.Array) -> tuple[tuple[State, Message], None]:
        state, message = carry
        symbol = lax.dynamic_slice_in_dim(backwards, L + W - 2 - t, W)
        matches = jnp.where(wanted == symbol, bit, 0).sum(axis=0, dtype=jnp.uint32)
        return step(state, jax.tree.map(_to_next_block, message), matches, symbol), None

    (state, _), _ = lax.scan(move, (state, message), jnp.arange(L + W - 1, dtype=jnp.int32))
    return state


def by_width(a: CodePoints, b: CodePoints) -> tuple[CodePoints, CodePoints]:
    """The narrower one, which makes the shorter sweep as the text, and the wider one."""
    return (a, b) if a.points.shape[-1] <= b.points.shape[-1] else (b, a)


def blocks_of(pattern: CodePoints) -> int:
    """W, the number of blocks of a pattern of [..., R]."""
    return max(1, -(-pattern.points.shape[-1] // BITS))


def zeros_of(pattern: CodePoints, *axes: int) -> jax.Array:
    """uint32[W, *axes, ...], zeros for a pattern of [..., R]."""
    return jnp.zeros((blocks_of(pattern), *axes, *pattern.points.shape[:-1]), jnp.uint32)


def add_with_carry(x: jax.Array, y: jax.Array, carry: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x + y + carry, modulo 2^32, and the carry out of it; all of them uint32."""
    partial = x + y
    total = partial + carry
    return total, ((partial < x) | (total < partial)).astype(jnp.uint32)


def _to_next_block(message: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.zeros_like(message[:1]), message[:-1]])


def _symbols(text: CodePoints, width: int, beyond: int) -> jax.Array:
    """int32[width, ...]: the points, and a value of one's own beyond the last."""
    points = jnp.moveaxis(jnp.asarray(text.points, jnp.int32), -1, 0)
    points = jnp.pad(points, [(0, width - points.shape[0])] + [(0, 0)] * (points.ndim - 1))
    index = jnp.arange(width, dtype=jnp.int32).reshape(width, *[1] * (points.ndim - 1))
    return jnp.where(index < text.length, points, beyond)
