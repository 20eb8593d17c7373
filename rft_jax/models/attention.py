"""Attention as partials that are merged by log-sum-exp.

A completion's token attends to its prompt, which all samples of the group share, and to the
completion's own earlier tokens. Each of the two is a partial: a softmax over its own keys together
with the log of its normalizer. `merge` combines them exactly (the identity behind
FlashAttention, https://arxiv.org/abs/2205.14135). `row_attention` chooses who computes them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

ATTENTION = "attention"  # by which a checkpoint's policy knows partials without scores in memory
MASKED = -1e30  # finite, so that a row without any key gives no NaN


class Partial(NamedTuple):
    """Attention over one set of keys."""

    out_RKMTQ: Array  # normalized over this set, float32
    lse_RKMT: Array  # log of the normalizer, float32


def partial_attention(
    q_RKMTQ: Array,
    k_RKUQ: Array,
    v_RKUQ: Array,
    mask_RTU: Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> Partial:
    """Attention of grouped queries over one set of keys.

    Args:
        q_RKMTQ: Queries: rows, key/value heads, query heads of each, tokens, head dimension.
        k_RKUQ: Keys.
        v_RKUQ: Values.
        mask_RTU: True where token t may see key u; axes of size 1 broadcast.
        scale: Factor on the scores.
        softcap: Bound c of the scaled scores, c tanh(score / c) (Gemma 2,
            https://arxiv.org/abs/2408.00118); None: unbounded.

    Returns:
        The partial. Rows that see no key have a normalizer near exp(MASKED) and vanish in `merge`,
        with their gradient.
    """
    score_RKMTU = jnp.einsum(
        "RKMTQ,RKUQ->RKMTU", q_RKMTQ, k_RKUQ, preferred_element_type=jnp.float32
    )
    score_RKMTU = soft_cap(score_RKMTU * scale, softcap)
    # Of a `where`, the other value would become an array of its own outside of a scan.
    score_RKMTU = score_RKMTU + jnp.where(mask_RTU, 0.0, MASKED)[:, None, None]
    peak_RKMT = jax.lax.stop_gradient(score_RKMTU.max(axis=-1))
    weight_RKMTU = jnp.exp(score_RKMTU - peak_RKMT[..., None])
    total_RKMT = weight_RKMTU.sum(axis=-1)
    out_RKMTQ = jnp.einsum(
        "RKMTU,RKUQ->RKMTQ",
        weight_RKMTU.astype(v_RKUQ.dtype),
        v_RKUQ,
        preferred_element_type=jnp.float32,
    )
    return Partial(out_RKMTQ / total_RKMT[..., None], peak_RKMT + jnp.log(total_RKMT))


def merge(a: Partial, b: Partial) -> Array:
    """Attention over the union of two disjoint sets of keys, [R, K, M, T, Q] in float32."""
    weight_RKMT = jax.nn.sigmoid(a.lse_RKMT - b.lse_RKMT)[..., None]
    return weight_RKMT * a.out_RKMTQ + (1 - weight_RKMT) * b.out_RKMTQ


def merge_pages(partial_X: Partial, table_RJ: Array) -> Partial:
    """Each row's attention over the union of its pages, of which no other row has any.

    Args:
        partial_X: A partial of each page, whose axis R is that of the pages, the last one no row's.
        table_RJ: int32, the pages of each row; the last one for none.
    """
    there_RJ = table_RJ < len(partial_X.lse_RKMT) - 1
    lse_RJKMT = partial_X.lse_RKMT[table_RJ]
    lse_RJKMT = jnp.where(there_RJ[:, :, None, None, None], lse_RJKMT, MASKED)
    peak_RKMT = lse_RJKMT.max(axis=1)
    weight_RJKMT = jnp.exp(lse_RJKMT - peak_RKMT[:, None])
    total_RKMT = weight_RJKMT.sum(axis=1)
    out_RKMTQ = jnp.einsum("RJKMT,RJKMTQ->RKMTQ", weight_RJKMT, partial_X.out_RKMTQ[table_RJ])
    return Partial(out_RKMTQ / total_RKMT[..., None], peak_RKMT + jnp.log(total_RKMT))


def with_sinks(partial: Partial, score_KM: Array) -> Partial:
    """The partial with one key more for each head, of a given score and of no value.

    What attends to nothing attends to it (https://arxiv.org/abs/2508.10925).
    """
    score_KM1 = score_KM.astype(jnp.float32)[..., None]
    weight_RKMT = jax.nn.sigmoid(partial.lse_RKMT - score_KM1)
    return Partial(
        partial.out_RKMTQ * weight_RKMT[..., None], jnp.logaddexp(partial.lse_RKMT, score_KM1)
    )


def soft_cap(x: Array, cap: float | None) -> Array:
    """Bounds the absolute value smoothly; None leaves it."""
    return x if cap is None else cap * jnp.tanh(x / cap)
