"""A partial in tiles of queries and keys, without a kernel: what XLA makes fast on a CPU.

The plain version writes all scores [R, K, M, T, U] to memory, several times over in the backward
pass. Here a tile of them stays in the cache of a core, and tiles that no token sees are left out:
half of them, where tokens see what lies before. The softmax runs along the tiles, and the backward
pass computes its weights anew from the normalizer (FlashAttention-2,
https://arxiv.org/abs/2307.08691).

Letters besides those of `attention`: I tiles of queries and J of keys; N rows that are computed
together, and Y such groups of rows; X queries of a tile, of all heads of a key/value head.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from rft_jax.models.attention import ATTENTION, MASKED, Partial, soft_cap
from rft_jax.models.sight import Sight, TileRanges, tile_ranges


class Tiling(NamedTuple):
    """How much is computed at a time."""

    queries: int
    keys: int
    rows: int | None  # None: all


CPU = Tiling(128, 128, 1)  # scores of one row's head are 64 KiB
ACCELERATOR = Tiling(512, 512, None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def blockwise_attention(
    q_RKMTQ: Array,
    k_RKUQ: Array,
    v_RKUQ: Array,
    sight: Sight,
    scale: float,
    softcap: float | None,
    tiling: Tiling,
) -> Partial:
    """`attention.partial_attention` and its gradient, of any lengths.

    Only a query that sees no key has another result, to which `merge` gives no weight.
    """
    return _forward(q_RKMTQ, k_RKUQ, v_RKUQ, sight, scale, softcap, tiling)[0]


class _Queries(NamedTuple):
    """The queries of a tile, or of all with a leading axis I."""

    q_NKXQ: Array
    segment_NT: Array
    position_NT: Array


class _Keys(NamedTuple):
    """The keys of all tiles, with a leading axis J, or of one."""

    k_NKUQ: Array
    v_NKUQ: Array
    segment_NU: Array
    first_NU: Array
    last_NU: Array

    def tile(self, index: Array) -> "_Keys":
        """One of them."""
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, False), self)


def _forward(q_RKMTQ, k_RKUQ, v_RKUQ, sight, scale, softcap, tiling):
    cut = _Cut(q_RKMTQ.shape, k_RKUQ.shape[2], tiling)
    queries, keys = cut.queries(q_RKMTQ, sight), cut.keys(k_RKUQ, v_RKUQ, sight)
    scores = functools.partial(_scores, scale=scale, softcap=softcap)

    def group(inputs: tuple[_Queries, _Keys, TileRanges]) -> tuple[Array, Array]:
        queries, keys, ranges = inputs

        def tile(inputs: tuple[_Queries, Array, Array]) -> tuple[Array, Array]:
            one, first, end = inputs

            def add(index: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
                peak_NKX, total_NKX, out_NKXQ = sums
                key = keys.tile(index)
                score_NKXU = scores(one, key)
                higher_NKX = jnp.maximum(peak_NKX, score_NKXU.max(axis=-1))
                weight_NKXU = jnp.exp(score_NKXU - higher_NKX[..., None])
                fades_NKX = jnp.exp(peak_NKX - higher_NKX)
                added_NKXQ = _product("NKXU,NKUQ->NKXQ", weight_NKXU, key.v_NKUQ)
                return (
                    higher_NKX,
                    total_NKX * fades_NKX + weight_NKXU.sum(axis=-1),
                    out_NKXQ * fades_NKX[..., None] + added_NKXQ,
                )

            zeros_NKXQ = jnp.zeros(one.q_NKXQ.shape, jnp.float32)
            zeros_NKX = zeros_NKXQ[..., 0]
            start = zeros_NKX + MASKED, zeros_NKX, zeros_NKXQ
            peak_NKX, total_NKX, out_NKXQ = jax.lax.fori_loop(first, end, add, start)
            total_NKX = jnp.where(total_NKX > 0, total_NKX, 1)  # of a tile that sees nothing
            return out_NKXQ / total_NKX[..., None], peak_NKX + jnp.log(total_NKX)

        return jax.lax.map(tile, (queries, ranges.first_key_RI, ranges.end_key_RI))

    out, lse = jax.lax.map(group, (queries, keys, cut.ranges(sight)))
    partial = Partial(cut.whole(out), cut.whole(lse[..., None])[..., 0])
    partial = checkpoint_name(partial, ATTENTION)
    return partial, (q_RKMTQ, k_RKUQ, v_RKUQ, sight, partial)


def _backward(scale, softcap, tiling, kept, cotangent):
    q_RKMTQ, k_RKUQ, v_RKUQ, sight, partial = kept
    dout_RKMTQ, dlse_RKMT = cotangent
    # The gradient of a score is weight * (dout . (v - out) + dlse).
    offset_RKMT = dlse_RKMT - (dout_RKMTQ * partial.out_RKMTQ).sum(axis=-1)
    cut = _Cut(q_RKMTQ.shape, k_RKUQ.shape[2], tiling)
    queries, keys = cut.queries(q_RKMTQ, sight), cut.keys(k_RKUQ, v_RKUQ, sight)
    dout = cut.tiles(dout_RKMTQ.astype(q_RKMTQ.dtype))
    # Without a key the normalizer is as small as a masked score, whose weight would be 1.
    lse_RKMT = jnp.where(partial.lse_RKMT > MASKED / 2, partial.lse_RKMT, 0)
    lse, offset = (cut.tiles(x[..., None])[..., 0] for x in (lse_RKMT, offset_RKMT))
    scores = functools.partial(_scores, scale=scale, softcap=softcap)

    def of_keys(x_NKQX: Array, weight_NKXU: Array) -> Array:
        return _product("NKQX,NKXU->NKQU", x_NKQX, weight_NKXU.astype(x_NKQX.dtype))

    def group(inputs):
        queries, dout, lse, offset, keys, ranges = inputs

        def tile(dkv, inputs):
            one, dout_NKXQ, lse_NKX, offset_NKX, first, end = inputs
            # Transposed once for all tiles of keys: in the sums below XLA on a CPU would transpose
            # the scores instead, those of each tile.
            q_NKQX, dout_NKQX = one.q_NKXQ.swapaxes(2, 3), dout_NKXQ.swapaxes(2, 3)

            def add(index, sums):
                dq_NKXQ, dk_JNKQU, dv_JNKQU = sums
                key = keys.tile(index)
                score_NKXU = scores(one, key)
                weight_NKXU = jnp.exp(score_NKXU - lse_NKX[..., None])
                dweight_NKXU = _product("NKXQ,NKUQ->NKXU", dout_NKXQ, key.v_NKUQ)
                dscore_NKXU = weight_NKXU * (dweight_NKXU + offset_NKX[..., None]) * scale
                if softcap is not None:
                    # Masked scores lie below, and what they are squared would be infinite.
                    capped_NKXU = jnp.maximum(score_NKXU, -softcap) / softcap
                    dscore_NKXU = dscore_NKXU * (1 - capped_NKXU**2)
                dq_NKXQ += _product("NKXU,NKUQ->NKXQ", dscore_NKXU, key.k_NKUQ)
                dk_NKQU = of_keys(q_NKQX, dscore_NKXU)
                dv_NKQU = of_keys(dout_NKQX, weight_NKXU)
                return dq_NKXQ, dk_JNKQU.at[index].add(dk_NKQU), dv_JNKQU.at[index].add(dv_NKQU)

            zeros_NKXQ = jnp.zeros(one.q_NKXQ.shape, jnp.float32)
            dq_NKXQ, *dkv = jax.lax.fori_loop(first, end, add, (zeros_NKXQ, *dkv))
            return tuple(dkv), dq_NKXQ

        zeros_JNKQU = jnp.zeros_like(keys.k_NKUQ, jnp.float32).swapaxes(3, 4)
        tiles = queries, dout, lse, offset, ranges.first_key_RI, ranges.end_key_RI
        dkv, dq_INKXQ = jax.lax.scan(tile, (zeros_JNKQU, zeros_JNKQU), tiles)
        return jax.tree.map(lambda x_JNKQU: x_JNKQU.swapaxes(3, 4), dkv), dq_INKXQ

    (dk, dv), dq = jax.lax.map(group, (queries, dout, lse, offset, keys, cut.ranges(sight)))
    dq, dk, dv = cut.whole(dq), cut.whole_keys(dk), cut.whole_keys(dv)
    return dq.astype(q_RKMTQ.dtype), dk.astype(k_RKUQ.dtype), dv.astype(v_RKUQ.dtype), None


blockwise_attention.defvjp(_forward, _backward)


class _Cut:
    """How the arrays of a shape are cut into tiles, and put together again."""

    def __init__(self, shape: tuple[int, ...], keys: int, tiling: Tiling):
        self.R, self.K, self.M, self.T, self.Q = shape
        self.U, self.rows = keys, math.gcd(self.R, tiling.rows or self.R)
        self.of_queries, self.of_keys = min(tiling.queries, self.T), min(tiling.keys, keys)
        self.more = -self.T % self.of_queries, -keys % self.of_keys

    def queries(self, q_RKMTQ: Array, sight: Sight) -> _Queries:
        """With leading axes Y and I."""
        of_tokens = functools.partial(self._vectors, more=self.more[0], tile=self.of_queries)
        return _Queries(
            self.tiles(q_RKMTQ), of_tokens(sight.segment_RT), of_tokens(sight.position_RT)
        )

    def keys(self, k_RKUQ: Array, v_RKUQ: Array, sight: Sight) -> _Keys:
        """With leading axes Y and J."""

        def tiles(x_RKUQ: Array) -> Array:
            x_RKUQ = jnp.pad(x_RKUQ, ((0, 0), (0, 0), (0, self.more[1]), (0, 0)))
            shape = -1, self.rows, self.K, x_RKUQ.shape[2] // self.of_keys, self.of_keys, self.Q
            return x_RKUQ.reshape(shape).transpose(0, 3, 1, 2, 4, 5)

        of_keys = functools.partial(self._vectors, more=self.more[1], tile=self.of_keys)
        return _Keys(tiles(k_RKUQ), tiles(v_RKUQ), *map(of_keys, sight[2:]))

    def ranges(self, sight: Sight) -> TileRanges:
        """With a leading axis Y."""
        return tile_ranges(sight.padded(*self.more), self.of_queries, self.of_keys, self.rows)

    def tiles(self, x_RKMTQ: Array) -> Array:
        """[Y, I, N, K, X, Q]."""
        x_RKMTQ = jnp.pad(x_RKMTQ, ((0, 0),) * 3 + ((0, self.more[0]), (0, 0)))
        tile, width = self.of_queries, x_RKMTQ.shape[-1]
        x = x_RKMTQ.reshape(-1, self.rows, self.K, self.M, x_RKMTQ.shape[3] // tile, tile, width)
        x = x.transpose(0, 4, 1, 2, 3, 5, 6)
        return x.reshape(*x.shape[:4], self.M * tile, width)

    def whole(self, x_YINKXQ: Array) -> Array:
        """[R, K, M, T, Q]."""
        Y, I, N, K, _, width = x_YINKXQ.shape  # noqa: E741
        x = x_YINKXQ.reshape(Y, I, N, K, self.M, self.of_queries, width)
        x = x.transpose(0, 2, 3, 4, 1, 5, 6)
        return x.reshape(self.R, K, self.M, -1, width)[..., : self.T, :]

    def whole_keys(self, x_YJNKUQ: Array) -> Array:
        """[R, K, U, Q]."""
        x_YNKJUQ = x_YJNKUQ.transpose(0, 2, 3, 1, 4, 5)
        return x_YNKJUQ.reshape(self.R, self.K, -1, self.Q)[:, :, : self.U]

    def _vectors(self, x_RX: Array, more: int, tile: int) -> Array:
        x_RX = jnp.pad(x_RX, ((0, 0), (0, more)))
        return x_RX.reshape(-1, self.rows, x_RX.shape[1] // tile, tile).swapaxes(1, 2)


def _scores(queries: _Queries, keys: _Keys, *, scale: float, softcap: float | None) -> Array:
    """Masked scores of a tile."""
    score_NKXU = _product("NKXQ,NKUQ->NKXU", queries.q_NKXQ, keys.k_NKUQ)
    score_NKXU = soft_cap(score_NKXU * scale, softcap)
    mask_NTU = Sight(queries.segment_NT, queries.position_NT, *keys[2:]).mask()
    N, K, _, U = score_NKXU.shape
    score_NKMTU = score_NKXU.reshape(N, K, -1, *mask_NTU.shape[1:])
    score_NKMTU = score_NKMTU + jnp.where(mask_NTU, 0.0, MASKED)[:, None, None]
    return score_NKMTU.reshape(N, K, -1, U)


def _product(axes: str, a: Array, b: Array) -> Array:
    """In float32, of factors in the type of the second one."""
    return jnp.einsum(axes, a.astype(b.dtype), b, preferred_element_type=jnp.float32)
