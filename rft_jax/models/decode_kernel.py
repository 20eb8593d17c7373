"""A partial of few queries as a Pallas kernel for GPUs: a token's attention in one launch.

By itself XLA makes several kernels of it: scores, their peaks, weights, products with values, and
what lies between, each with little to do beside being started. Here a program goes over the keys of
a row and a head once, and corrects its sums when a higher score comes along
(https://arxiv.org/abs/1805.02867). The keys of few rows are split between programs, whose partials
are merged afterwards (Flash-Decoding, https://crfm.stanford.edu/2023/10/12/flashdecoding.html).
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from rft_jax.models.attention import MASKED, Partial, soft_cap

FEWEST, MOST = 16, 64  # queries of a program; a product has no axis shorter
KEYS, NUMBERS = 64, 2**13  # of a block, at most
PROGRAMS = 256  # at least, if there are keys for so many: two for each multiprocessor


def takes(head_dim: int, dtype: jnp.dtype) -> bool:
    """Whether the kernel is for such heads."""
    power_of_two = head_dim == pl.next_power_of_2(head_dim)
    return dtype == jnp.bfloat16 and power_of_two and FEWEST <= head_dim <= 256


def block_size(head_dim: int) -> int:
    """Keys that a program has at a time: two blocks, and their values, fit on a multiprocessor."""
    return min(KEYS, NUMBERS // head_dim)


def decode_attention(
    q_RKMTQ: Array,
    k_RKUQ: Array,
    v_RKUQ: Array,
    mask_RTU: Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> Partial:
    """`attention.partial_attention` of heads that it `takes`, without a gradient.

    Elsewhere than on an NVIDIA GPU the kernel is interpreted: slow, and for tests.
    """
    R, K, M, T, Q = q_RKMTQ.shape
    U, N = k_RKUQ.shape[2], M * T
    mask_RXU = mask_RTU.astype(jnp.int8)
    if mask_RTU.shape[1] > 1:
        mask_RXU = jnp.tile(mask_RXU, (1, M, 1))
    rows, queries = (size > 1 for size in mask_RXU.shape[:2])
    tile = min(max(FEWEST, pl.next_power_of_2(N)), MOST)
    tiles, blocks = pl.cdiv(N, tile), pl.cdiv(U, block_size(Q))
    blocks_each = pl.cdiv(blocks, pl.cdiv(PROGRAMS, R * K * tiles))
    splits = pl.cdiv(blocks, blocks_each)
    keys = pl.BlockSpec((None, None, U, Q), lambda r, k, i, n: (r, k, 0, 0))

    def call(interpret: bool, *arguments: Array) -> list[Array]:
        return pl.pallas_call(
            functools.partial(_kernel, blocks=blocks_each, queries=N, scale=scale, softcap=softcap),
            grid=(R, K, splits, tiles),
            in_specs=[
                pl.BlockSpec((None, None, tile, Q), lambda r, k, i, n: (r, k, n, 0)),
                *(keys, keys),
                pl.BlockSpec(
                    (None, tile if queries else 1, U),
                    lambda r, k, i, n: (r * rows, n * queries, 0),
                ),
            ],
            out_specs=[
                pl.BlockSpec((None, None, None, tile, Q), lambda r, k, i, n: (r, k, i, n, 0)),
                pl.BlockSpec((None, None, None, tile), lambda r, k, i, n: (r, k, i, n)),
            ],
            out_shape=[
                jax.ShapeDtypeStruct((R, K, splits, N, Q), jnp.float32),
                jax.ShapeDtypeStruct((R, K, splits, N), jnp.float32),
            ],
            compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
            interpret=interpret,
            name="decode_attention",
        )(*arguments)

    out_RKINQ, lse_RKIN = jax.lax.platform_dependent(
        q_RKMTQ.reshape(R, K, N, Q), k_RKUQ, v_RKUQ, mask_RXU,
        cuda=functools.partial(call, False), default=functools.partial(call, True),
    )  # fmt: skip
    lse_RKN = jax.nn.logsumexp(lse_RKIN, axis=2)
    weight_RKIN = jnp.exp(lse_RKIN - lse_RKN[:, :, None])
    out_RKNQ = (weight_RKIN[..., None] * out_RKINQ).sum(axis=2)
    return Partial(out_RKNQ.reshape(q_RKMTQ.shape), lse_RKN.reshape(R, K, M, T))


def _kernel(q, k, v, mask, out, lse, *, blocks, queries, scale, softcap):
    """The partial of a tile of queries over some blocks of keys."""
    (tile, Q), (keys, _) = q.shape, v.shape
    size = block_size(Q)
    there_N = pl.program_id(3) * tile + jnp.arange(tile) < queries
    q_NQ = plgpu.load(q, mask=there_N[:, None], other=0)

    def add(block, sums):
        out_NQ, total_N, peak_N = sums
        at = pl.ds(block * size, size)
        there_U = block * size + jnp.arange(size) < keys
        k_UQ, v_UQ = (plgpu.load(x.at[at], mask=there_U[:, None], other=0) for x in (k, v))
        there_XU = there_U[None] if mask.shape[0] == 1 else there_N[:, None] & there_U[None]
        seen_XU = plgpu.load(mask.at[:, at], mask=there_XU, other=0)
        score_NU = soft_cap(plgpu.dot(q_NQ, k_UQ.T) * scale, softcap)
        score_NU += jnp.where(seen_XU != 0, 0.0, MASKED) + jnp.where(there_U, 0.0, MASKED)[None]
        higher_N = jnp.maximum(peak_N, score_NU.max(axis=1))
        less_N, weight_NU = jnp.exp(peak_N - higher_N), jnp.exp(score_NU - higher_N[:, None])
        new_NQ = plgpu.dot(weight_NU.astype(v_UQ.dtype), v_UQ)
        return (
            out_NQ * less_N[:, None] + new_NQ,
            total_N * less_N + weight_NU.sum(axis=1),
            higher_N,
        )

    first = pl.program_id(2) * blocks
    last = jnp.minimum(first + blocks, pl.cdiv(keys, size))
    start = jnp.zeros((tile, Q)), jnp.zeros(tile), jnp.full(tile, 2 * MASKED)
    out_NQ, total_N, peak_N = jax.lax.fori_loop(first, last, add, start)
    plgpu.store(out, out_NQ / total_N[:, None], mask=there_N[:, None])
    plgpu.store(lse, peak_N + jnp.log(total_N), mask=there_N)
