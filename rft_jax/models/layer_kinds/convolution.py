"""Short causal convolutions over the tokens of rows, each channel by itself.

A token reaches the few before it in its own run; the first of a completion reach the last of its
prompt. Segment 0 stands for places where nothing is.

Letters: C channels, W the convolution's width, Z prompts of a row.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.layer_kinds.base import Rows


class Places(NamedTuple):
    """What layers that go on from token to token have to know of rows."""

    filled_BST: Array  # bool
    run_BST: Array  # int32: stretches of one segment
    since_BST: Array  # int32, places since the run began
    own_BSTZ: Array  # bool, the prompt that the run follows


def places_of(rows: Rows) -> Places:
    """The runs of rows."""
    segments_BST, prefix = rows.segments_BST, rows.prefix
    filled_BST = segments_BST != 0
    before_BST = jnp.pad(segments_BST[..., :-1], [(0, 0), (0, 0), (1, 0)])
    begins_BST = filled_BST & (segments_BST != before_BST)
    place_T = jnp.arange(segments_BST.shape[2])
    began_BST = jax.lax.cummax(jnp.where(begins_BST, place_T, 0), axis=2)
    own_BSTZ = jnp.zeros((*segments_BST.shape, 1), bool)
    if prefix is not None:
        shape = *segments_BST.shape, prefix.own_BXYZ.shape[-1]
        own_BSTZ = jnp.broadcast_to(prefix.own_BXYZ, shape)
    run_BST = jnp.cumsum(begins_BST, axis=2, dtype=jnp.int32)
    return Places(filled_BST, run_BST, place_T - began_BST, own_BSTZ)


def convolve(inputs_BSTC: Array, weight_WC: Array, places: Places, before_BZWC: Array) -> Array:
    """The causal convolution of each channel within runs, float32 [B, S, T, C].

    Args:
        before_BZWC: The last W - 1 inputs of the prompts that runs follow.
    """
    W, T = weight_WC.shape[0], inputs_BSTC.shape[2]
    weight_WC, inputs = weight_WC.astype(jnp.float32), inputs_BSTC.astype(jnp.float32)
    out_BSTC = inputs * weight_WC[-1]
    for back in range(1, min(W, T)):
        earlier = jnp.pad(inputs[:, :, :-back], [(0, 0), (0, 0), (back, 0), (0, 0)])
        inside_BST1 = (places.since_BST >= back)[..., None]
        out_BSTC += jnp.where(inside_BST1, earlier, 0) * weight_WC[-1 - back]
    # Of the prompt's inputs, the first W - 1 places of a run reach fewer and fewer.
    before = before_BZWC.astype(jnp.float32)
    for since in range(W - 1):
        reached_BZC = (before[:, :, since:] * weight_WC[: W - 1 - since]).sum(axis=2)
        at_BSTZ = places.own_BSTZ & (places.since_BST == since)[..., None]
        out_BSTC += jnp.einsum("BSTZ,BZC->BSTC", at_BSTZ.astype(jnp.float32), reached_BZC)
    return out_BSTC


def last_inputs(inputs_BSTC: Array, places: Places, width: int) -> Array:
    """The convolution's inputs of a row's last W - 1 filled places, zeros before the first."""
    T, back = inputs_BSTC.shape[2], width - 1
    end_BS = jnp.where(places.filled_BST, jnp.arange(T) + 1, 0).max(axis=-1)
    at_BSW = end_BS[..., None] - back + jnp.arange(back)
    last_BSWC = jnp.take_along_axis(inputs_BSTC, jnp.maximum(at_BSW, 0)[..., None], axis=2)
    return jnp.where((at_BSW >= 0)[..., None], last_BSWC, 0)
