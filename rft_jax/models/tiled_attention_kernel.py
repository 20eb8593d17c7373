"""The partial of `attention_kernel` for rows whose keys do not fit on the chip at once.

A program holds a tile of queries and one of keys. Along the tiles of keys it carries the softmax's
greatest score and sums (FlashAttention-2, https://arxiv.org/abs/2307.08691); the backward pass has
one kernel for the gradient of queries, and one for that of keys and values. Tiles that no token
sees are neither computed nor read: before a window, of other segments, and all that lies after,
which is half of a long row.

Letters besides those of `attention`: I tiles of queries, J of keys.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from rft_jax.models.attention import MASKED, Partial
from rft_jax.models.attention_kernel import (
    LANES,
    SUBLANES,
    as_partial,
    backward_inputs,
    call,
    cost,
    forward_shapes,
    product,
    scores,
    sight_vectors,
)
from rft_jax.models.sight import Sight, tile_ranges

TILE = 512
WIDE = 512  # bytes of a head from which on a tile is half of that
ORDER = ("parallel", "parallel", "parallel", "parallel", "arbitrary")
KEY_ORDER = ("parallel", "parallel", "parallel", "arbitrary", "arbitrary")


def takes(queries: int, keys: int) -> bool:
    """Whether the kernel is for so many: whole tiles."""
    return queries % LANES == 0 and keys % LANES == 0


def tile_size(length: int, head_bytes: int) -> int:
    """How many of so many queries or keys a program has at a time."""
    most = TILE // 2 if head_bytes > WIDE else TILE
    return max(n for n in range(LANES, most + 1, LANES) if length % n == 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def tiled_attention(
    q_RKMTQ: Array,
    k_RKUQ: Array,
    v_RKUQ: Array,
    sight: Sight,
    scale: float,
    softcap: float | None = None,
) -> Partial:
    """`attention.partial_attention` of lengths T and U that it `takes`, and its gradient.

    Only a query that sees no key has another result, to which `merge` gives no weight.
    """
    return _forward(q_RKMTQ, k_RKUQ, v_RKUQ, sight, scale, softcap)[0]


def _forward(q, k, v, sight, scale, softcap):
    blocks = _Blocks(q, k)
    first_RI, end_RI, *_ = ranges = tile_ranges(sight, *blocks.tiles)
    vectors = sight_vectors(sight)
    out_RKMTQ, lse_RKM1T = call(
        functools.partial(_forward_kernel, scale=scale, softcap=softcap),
        (first_RI, end_RI, *vectors, q, k, v),
        ORDER,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=blocks.grid,
            in_specs=[*blocks.sight, blocks.query, blocks.key, blocks.key],
            out_specs=[blocks.query, blocks.row],
            scratch_shapes=[
                *(pltpu.VMEM((1, blocks.tiles[0]), jnp.float32) for _ in range(2)),
                pltpu.VMEM((q.shape[-1], blocks.tiles[0]), jnp.float32),
            ],
        ),
        out_shape=forward_shapes(q),
        cost_estimate=cost(2, q, k, v, q),
    )
    kept = q, k, v, vectors, ranges, out_RKMTQ, lse_RKM1T
    return as_partial(out_RKMTQ, lse_RKM1T), kept


def _backward(scale, softcap, kept, cotangent):
    q, k, v, vectors, ranges, out_RKMTQ, lse_RKM1T = kept
    given = *vectors, q, k, v, *backward_inputs(out_RKMTQ, lse_RKM1T, cotangent)
    options = {"scale": scale, "softcap": softcap}
    blocks, transposed = _Blocks(q, k), _KeyBlocks(q, k)
    (dq,) = call(
        functools.partial(_query_kernel, **options),
        (ranges.first_key_RI, ranges.end_key_RI, *given),
        ORDER,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=blocks.grid,
            in_specs=blocks.backward,
            out_specs=[blocks.query],
            scratch_shapes=[pltpu.VMEM((blocks.tiles[0], q.shape[-1]), jnp.float32)],
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype)],
        cost_estimate=cost(3, q, k, v, q, q),
    )
    dk, dv = call(
        functools.partial(_key_kernel, **options),
        (ranges.first_query_RJ, ranges.end_query_RJ, *given),
        KEY_ORDER,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=transposed.grid,
            in_specs=transposed.backward,
            out_specs=[transposed.key, transposed.key],
            scratch_shapes=[
                pltpu.VMEM((blocks.tiles[1], k.shape[-1]), jnp.float32) for _ in range(2)
            ],
        ),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        cost_estimate=cost(4, q, k, v, q, k, v),
    )
    return dq, dk, dv, None


tiled_attention.defvjp(_forward, _backward)


class _Blocks:
    """The grid (row, key/value head, query head, tile of queries, tile of keys), and what a program
    sees. Where a tile is left out, the one before stays."""

    def __init__(self, q_RKMTQ: Array, k_RKUQ: Array):
        R, K, M, T, Q = q_RKMTQ.shape
        U, head_bytes = k_RKUQ.shape[2], Q * q_RKMTQ.dtype.itemsize
        self.tiles = tile_size(T, head_bytes), tile_size(U, head_bytes)
        self.grid = self._grid(R, K, M, T // self.tiles[0], U // self.tiles[1])
        of_queries, of_keys = self.tiles

        def spec(shape: tuple[int | None, ...], index) -> pl.BlockSpec:
            def of_program(*program):
                return index(*self._tile(*program))

            return pl.BlockSpec(shape, of_program)

        self.query = spec((None, None, None, of_queries, Q), lambda r, k, m, i, j: (r, k, m, i, 0))
        self.key = spec((None, None, of_keys, Q), lambda r, k, m, i, j: (r, k, j, 0))
        self.row = spec((None, None, None, 1, of_queries), lambda r, k, m, i, j: (r, k, m, 0, i))
        self.sight = (
            spec((None, SUBLANES, of_queries), lambda r, k, m, i, j: (r, 0, i)),
            spec((None, SUBLANES, of_keys), lambda r, k, m, i, j: (r, 0, j)),
        )
        self.backward = [
            *(*self.sight, self.query, self.key, self.key),
            *(self.query, self.row, self.row),
        ]

    def _grid(self, *sizes: int) -> tuple[int, ...]:
        return sizes

    def _tile(self, r, k, m, i, j, first, end):
        """Row, heads, and tiles of queries and keys of a program."""
        return r, k, m, i, _within(j, first[r, i], end[r, i])


class _KeyBlocks(_Blocks):
    """The same with the grid (row, key/value head, tile of keys, query head, tile of queries)."""

    def _grid(self, *sizes: int) -> tuple[int, ...]:
        R, K, M, I, J = sizes  # noqa: E741
        return R, K, J, M, I

    def _tile(self, r, k, j, m, i, first, end):
        return r, k, m, _within(i, first[r, j], end[r, j]), j


def _within(index, first, end):
    return jnp.clip(index, first, jnp.maximum(end - 1, first))


class _Place(NamedTuple):
    """Where a program is along the last axis of the grid."""

    begins: Array
    ends: Array
    inside: Array  # of the range that is seen


def _place(axis: int, first, end) -> _Place:
    """The index of a program for the tile of the other side that an axis counts."""
    last, row, tile = pl.program_id(4), pl.program_id(0), pl.program_id(axis)
    inside = (first[row, tile] <= last) & (last < end[row, tile])
    return _Place(last == 0, last == pl.num_programs(4) - 1, inside)


def _forward_kernel(
    first, end, query, key, q, k, v, out, lse, peak, total, out_sum, *, scale, softcap
):
    place = _place(3, first, end)

    @pl.when(place.begins)
    def _():
        peak[...] = jnp.full_like(peak, MASKED)
        total[...] = jnp.zeros_like(total)
        out_sum[...] = jnp.zeros_like(out_sum)

    @pl.when(place.inside)
    def _():
        score_UT, _ = scores(query, key, q, k, scale, softcap)
        higher_1T = jnp.maximum(peak[...], score_UT.max(axis=0, keepdims=True))
        weight_UT, fades_1T = jnp.exp(score_UT - higher_1T), jnp.exp(peak[...] - higher_1T)
        peak[...] = higher_1T
        total[...] = total[...] * fades_1T + weight_UT.sum(axis=0, keepdims=True)
        added_QT = product(v[...], weight_UT.astype(v.dtype), 0, 0)
        out_sum[...] = out_sum[...] * fades_1T + added_QT

    @pl.when(place.ends)
    def _():
        total_1T = jnp.where(total[...] > 0, total[...], 1)  # of a tile that sees nothing
        out[...] = (out_sum[...] / total_1T).T.astype(out.dtype)
        lse[...] = peak[...] + jnp.log(total_1T)


def _query_kernel(
    first, end, query, key, q, k, v, dout, lse, offset, dq, dq_sum, *, scale, softcap
):
    place = _place(3, first, end)

    @pl.when(place.begins)
    def _():
        dq_sum[...] = jnp.zeros_like(dq_sum)

    @pl.when(place.inside)
    def _():
        _, dscore_UT = _gradients(query, key, q, k, v, dout, lse, offset, scale, softcap)
        dq_sum[...] += product(dscore_UT, k[...], 0, 0)

    @pl.when(place.ends)
    def _():
        dq[...] = dq_sum[...].astype(dq.dtype)


def _key_kernel(
    first, end, query, key, q, k, v, dout, lse, offset, dk, dv, dk_sum, dv_sum, *, scale, softcap
):
    place, head = _place(2, first, end), pl.program_id(3)

    @pl.when(place.begins & (head == 0))
    def _():
        dk_sum[...] = jnp.zeros_like(dk_sum)
        dv_sum[...] = jnp.zeros_like(dv_sum)

    @pl.when(place.inside)
    def _():
        weight_UT, dscore_UT = _gradients(query, key, q, k, v, dout, lse, offset, scale, softcap)
        dv_sum[...] += product(weight_UT, dout[...], 1, 0)
        dk_sum[...] += product(dscore_UT, q[...], 1, 0)

    @pl.when(place.ends & (head == pl.num_programs(3) - 1))
    def _():
        dk[...] = dk_sum[...].astype(dk.dtype)
        dv[...] = dv_sum[...].astype(dv.dtype)


def _gradients(query, key, q, k, v, dout, lse, offset, scale, softcap) -> tuple[Array, Array]:
    """Softmax weights of the tile and the gradient of its scores, in the type of q."""
    score_UT, seen_UT = scores(query, key, q, k, scale, softcap)
    weight_UT = jnp.where(seen_UT, jnp.exp(score_UT - lse[...]), 0)
    dscore_UT = weight_UT * (product(v[...], dout[...], 1, 1) + offset[...])
    if softcap is not None:
        dscore_UT = dscore_UT * (1 - (score_UT / softcap) ** 2)
    dscore_UT = jnp.where(seen_UT, dscore_UT * scale, 0)
    return weight_UT.astype(q.dtype), dscore_UT.astype(q.dtype)
