"""A partial as a Pallas kernel for TPUs: scores and softmax weights never leave the chip.

The plain version writes its scores [R, K, M, T, U] in float32 to HBM, several times over in the
backward pass; here a program holds a tile of one head's, against all keys of its row, so that a
softmax needs one pass. The backward pass computes the weights anew from the normalizer
(FlashAttention-2, https://arxiv.org/abs/2307.08691). Scores lie as [U, T], keys first: what belongs
to a query is then a row, which is how the kernel stores it.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rft_jax.models.attention import MASKED, Partial, soft_cap
from rft_jax.models.sight import PADDING, Sight

LANES, SUBLANES = 128, 8  # of a vector register
SCORES = 2**18  # of a tile, in float32
ORDER = ("parallel", "parallel", "arbitrary", "arbitrary")
VMEM = 2**24  # bytes of a v4 or v5e that a program may use


def takes(queries: int, keys: int, head_dim: int, itemsize: int) -> bool:
    """Whether the kernel is for so many: whole tiles, and a row's keys fit beside them."""
    return tile_size(queries, keys, head_dim, itemsize) > 0


def tile_size(queries: int, keys: int, head_dim: int, itemsize: int) -> int:
    """How many queries a program has at a time, the most that fit; 0 if none do.

    Args:
        itemsize: Bytes of a number in queries, keys and values.
    """
    if queries % LANES or keys % LANES:
        return 0
    width = -(-head_dim // LANES) * LANES

    def fits(tile: int) -> bool:
        # Of the backward pass: the blocks, of which the next ones are on their way; the sums.
        blocks = 2 * itemsize * width * (4 * keys + 3 * tile) + 2 * keys * tile
        sums, scores = 4 * 2 * keys * width, 4 * 3 * keys * tile
        return keys * tile <= SCORES and blocks + sums + scores <= VMEM

    tiles = (n for n in range(LANES, queries + 1, LANES) if queries % n == 0 and fits(n))
    return max(tiles, default=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def kernel_attention(
    q_RKMTQ: Array,
    k_RKUQ: Array,
    v_RKUQ: Array,
    sight: Sight,
    scale: float,
    softcap: float | None = None,
) -> Partial:
    """`attention.partial_attention` of lengths T and U that it `takes`, and its gradient.

    Only a query that sees no key has another gradient, to which `merge` gives no weight.
    Elsewhere than on a TPU the kernel is interpreted: slow, and for tests.
    """
    return _forward(q_RKMTQ, k_RKUQ, v_RKUQ, sight, scale, softcap)[0]


def _forward(q, k, v, sight, scale, softcap):
    vectors = sight_vectors(sight)
    blocks = _Blocks(q, k)
    out_RKMTQ, lse_RKM1T = call(
        functools.partial(_forward_kernel, scale=scale, softcap=softcap),
        (*vectors, q, k, v),
        ORDER,
        grid=blocks.grid,
        in_specs=[*blocks.sight, blocks.query, blocks.key, blocks.key],
        out_specs=[blocks.query, blocks.row],
        out_shape=forward_shapes(q),
        cost_estimate=cost(2, q, k, v, q),
    )
    kept = q, k, v, vectors, out_RKMTQ, lse_RKM1T
    return as_partial(out_RKMTQ, lse_RKM1T), kept


def _backward(scale, softcap, kept, cotangent):
    q, k, v, vectors, out_RKMTQ, lse_RKM1T = kept
    blocks = _Blocks(q, k)
    dq, dk, dv = call(
        functools.partial(_backward_kernel, scale=scale, softcap=softcap),
        (*vectors, q, k, v, *backward_inputs(out_RKMTQ, lse_RKM1T, cotangent)),
        ORDER,
        grid=blocks.grid,
        in_specs=[
            *(*blocks.sight, blocks.query, blocks.key, blocks.key),
            *(blocks.query, blocks.row, blocks.row),
        ],
        out_specs=[blocks.query, blocks.key, blocks.key],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        scratch_shapes=[pltpu.VMEM(k.shape[2:], jnp.float32) for _ in range(2)],
        cost_estimate=cost(5, q, k, v, q, q, k, v),
    )
    return dq, dk, dv, None


kernel_attention.defvjp(_forward, _backward)


class _Blocks:
    """The grid (row, key/value head, query head, tile of queries), and what a program sees."""

    def __init__(self, q_RKMTQ: Array, k_RKUQ: Array):
        R, K, M, T, Q = q_RKMTQ.shape
        U = k_RKUQ.shape[2]
        tile = tile_size(T, U, Q, q_RKMTQ.dtype.itemsize)
        self.grid = (R, K, M, T // tile)
        self.query = pl.BlockSpec((None, None, None, tile, Q), lambda r, k, m, t: (r, k, m, t, 0))
        self.key = pl.BlockSpec((None, None, U, Q), lambda r, k, m, t: (r, k, 0, 0))
        self.row = pl.BlockSpec((None, None, None, 1, tile), lambda r, k, m, t: (r, k, m, 0, t))
        self.sight = (
            pl.BlockSpec((None, SUBLANES, tile), lambda r, k, m, t: (r, 0, t)),
            pl.BlockSpec((None, SUBLANES, U), lambda r, k, m, t: (r, 0, 0)),
        )


def forward_shapes(q_RKMTQ: Array) -> list[jax.ShapeDtypeStruct]:
    """The shapes that a forward kernel gives: output, and softmax's normalizer [R, K, M, 1, T]."""
    *heads, T, _ = q_RKMTQ.shape
    normalizer = jax.ShapeDtypeStruct((*heads, 1, T), jnp.float32)
    return [jax.ShapeDtypeStruct(q_RKMTQ.shape, q_RKMTQ.dtype), normalizer]


def as_partial(out_RKMTQ: Array, lse_RKM1T: Array) -> Partial:
    """What a forward kernel gave."""
    return Partial(out_RKMTQ.astype(jnp.float32), lse_RKM1T[..., 0, :])


def backward_inputs(
    out_RKMTQ: Array, lse_RKM1T: Array, cotangent: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    """What a backward kernel takes besides its inputs: dout, normalizer, and a score's offset.

    The gradient of a score is weight * (dout . (v - out) + dlse).
    """
    dout_RKMTQ, dlse_RKMT = cotangent
    offset_RKMT = dlse_RKMT - (dout_RKMTQ * out_RKMTQ.astype(jnp.float32)).sum(axis=-1)
    return dout_RKMTQ.astype(out_RKMTQ.dtype), lse_RKM1T, offset_RKMT[..., None, :]


def sight_vectors(sight: Sight) -> tuple[Array, Array]:
    """What `seen` takes of queries and of keys, int32[R, 8, T] and int32[R, 8, U]."""

    def stack(*vectors_RX: Array) -> Array:
        stacked_RCX = jnp.stack(vectors_RX, axis=1)
        return jnp.pad(stacked_RCX, ((0, 0), (0, SUBLANES - len(vectors_RX)), (0, 0)))

    return stack(*sight[:2]), stack(*sight[2:])


def seen(query_8T: Array, key_8U: Array) -> Array:
    """bool[U, T], of blocks of `sight_vectors`: `Sight.mask`, transposed."""
    segment_1T, position_1T = query_8T[0:1], query_8T[1:2]
    key_U8 = key_8U.T
    same_UT = (key_U8[:, 0:1] == segment_1T) & (segment_1T != PADDING)
    return same_UT & (key_U8[:, 1:2] <= position_1T) & (position_1T <= key_U8[:, 2:3])


def _forward_kernel(query, key, q, k, v, out, lse, *, scale, softcap):
    score_UT, _ = scores(query, key, q, k, scale, softcap)
    peak_1T = score_UT.max(axis=0, keepdims=True)
    weight_UT = jnp.exp(score_UT - peak_1T)
    total_1T = weight_UT.sum(axis=0, keepdims=True)
    out[...] = product((weight_UT / total_1T).astype(v.dtype), v[...], 0, 0).astype(out.dtype)
    lse[...] = peak_1T + jnp.log(total_1T)


def _backward_kernel(
    query, key, q, k, v, dout, lse, offset, dq, dk, dv, dk_sum, dv_sum, *, scale, softcap
):
    index, size = (pl.program_id(2), pl.program_id(3)), (pl.num_programs(2), pl.num_programs(3))

    @pl.when((index[0] == 0) & (index[1] == 0))
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    score_UT, seen_UT = scores(query, key, q, k, scale, softcap)
    weight_UT = jnp.exp(score_UT - lse[...])
    dscore_UT = weight_UT * (product(v[...], dout[...], 1, 1) + offset[...])
    if softcap is not None:
        dscore_UT = dscore_UT * (1 - (score_UT / softcap) ** 2)
    dscore_UT = jnp.where(seen_UT, dscore_UT * scale, 0).astype(q.dtype)
    dv_sum[...] += product(weight_UT.astype(v.dtype), dout[...], 1, 0)
    dk_sum[...] += product(dscore_UT, q[...], 1, 0)
    dq[...] = product(dscore_UT, k[...], 0, 0).astype(dq.dtype)

    @pl.when((index[0] == size[0] - 1) & (index[1] == size[1] - 1))
    def _():
        dk[...] = dk_sum[...].astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)


def scores(query, key, q, k, scale, softcap) -> tuple[Array, Array]:
    """Masked scores of blocks, and where they are seen, both [U, T]."""
    score_UT = soft_cap(product(k[...], q[...], 1, 1) * scale, softcap)
    seen_UT = seen(query[...], key[...])
    return jnp.where(seen_UT, score_UT, MASKED), seen_UT


def product(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """The matrix product over an axis of each, in float32."""
    axes = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def cost(products: int, q: Array, k: Array, *moved: Array) -> pl.CostEstimate:
    R, K, M, T, Q = q.shape
    pairs = R * K * M * T * k.shape[2]
    return pl.CostEstimate(
        flops=2 * products * pairs * Q,
        transcendentals=pairs,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in (q, k, *moved)),
    )


def call(
    kernel: Callable[..., None],
    arguments: tuple[Array, ...],
    order: tuple[Literal["parallel", "arbitrary"], ...],
    **options: Any,
) -> list[Array]:
    """Runs a kernel; elsewhere than on a TPU it is interpreted.

    Args:
        order: For each axis of the grid, whether programs build on each other's sums along it.
        options: Those of `pallas_call`.
    """

    def called(interpret: bool) -> Callable[..., list[Array]]:
        params = pltpu.CompilerParams(dimension_semantics=order)
        return pl.pallas_call(kernel, compiler_params=params, interpret=interpret, **options)

    return jax.lax.platform_dependent(*arguments, tpu=called(False), default=called(True))
