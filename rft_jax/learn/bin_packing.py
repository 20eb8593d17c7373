"""Completions of unequal lengths laid out side by side in rows of one length, on the device."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

PROMPTS_PER_ROW = 2  # whose keys a row attends to; on skewed lengths 2 leave about 4 % padding


class Packing(NamedTuple):
    """Where N completions lie; a row belongs to at most Z prompts."""

    row_N: Array  # int32
    start_N: Array  # int32, the completion's first place in its row
    prompts_RZ: Array  # int32, the prompts of each row; -1 where it has fewer
    rows: Array  # int32, how many are in use: the first ones


def pack(length_BG: Array, width: int, rows: int) -> Packing:
    """First fit, prompt by prompt and the longest completion first.

    Args:
        length_BG: int32, at most `width`. A completion of no token takes no place.
        width: Tokens of a row.
        rows: R, at least N.
    """
    B, G = length_BG.shape
    length_N = length_BG.reshape(-1)
    order_BG = jnp.argsort(-length_BG, axis=-1) + G * jnp.arange(B)[:, None]

    def place(carry, n):
        free_R, prompts_RZ = carry
        prompt, length = n // G, length_N[n]
        own_RZ, empty_RZ = prompts_RZ == prompt, prompts_RZ < 0
        fits_R = (free_R >= length) & (own_RZ | empty_RZ).any(axis=-1)
        row = jnp.argmax(fits_R)
        slot = jnp.where(own_RZ[row].any(), jnp.argmax(own_RZ[row]), jnp.argmax(empty_RZ[row]))
        start = width - free_R[row]
        free_R = free_R.at[row].add(-length)
        taken = jnp.where(length > 0, prompt, prompts_RZ[row, slot])
        return (free_R, prompts_RZ.at[row, slot].set(taken)), (row, start)

    empty = jnp.full((rows,), width, jnp.int32), jnp.full((rows, PROMPTS_PER_ROW), -1, jnp.int32)
    order_N = order_BG.reshape(-1)
    (free_R, prompts_RZ), (row_N, start_N) = jax.lax.scan(place, empty, order_N)
    back_N = jnp.argsort(order_N)
    return Packing(
        row_N[back_N].astype(jnp.int32),
        start_N[back_N],
        prompts_RZ,
        (free_R < width).sum(dtype=jnp.int32),
    )


def token_at(packing: Packing, length_BG: Array, width: int) -> tuple[Array, Array]:
    """The completion n and its token t at each place of the rows, [R, W]; n = -1 at padding."""
    length_N, R = length_BG.reshape(-1), len(packing.prompts_RZ)
    N = len(length_N)
    t_NW = jnp.broadcast_to(jnp.arange(width), (N, width))
    place_NW = packing.start_N[:, None] + t_NW
    row_NW = jnp.where(t_NW < length_N[:, None], packing.row_N[:, None], R)
    n_NW = jnp.broadcast_to(jnp.arange(N)[:, None], (N, width))
    n_RW = jnp.full((R, width), -1, jnp.int32).at[row_NW, place_NW].set(n_NW, mode="drop")
    t_RW = jnp.zeros((R, width), jnp.int32).at[row_NW, place_NW].set(t_NW, mode="drop")
    return n_RW, t_RW
