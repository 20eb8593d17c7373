"""Grouped-query attention: full, in a sliding window, and without positions.

These differ in numbers only, so that their layers make one stack. Layers with heads of other sizes
make another.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig, RopeScaling
from rft_jax.models.cache import Cache, LayerCache, Prefix, PromptState
from rft_jax.models.int8 import Int8, dequantize
from rft_jax.models.layer_kinds.base import (
    INNER_STD,
    LayerWeights,
    MakeWeight,
    MixRows,
    MixToken,
    Rows,
)
from rft_jax.models.layer_kinds.key_values import (
    KeyValues,
    Stacked,
    Stored,
    Unrolled,
    init_cache,
)
from rft_jax.models.linear import linear
from rft_jax.models.norms import plain_rms_norm, rms_norm
from rft_jax.models.pages import Pages, Pool
from rft_jax.models.rotary import Rotation, rotary, rotate
from rft_jax.models.row_attention import Attention as AttentionFunction
from rft_jax.models.row_attention import (
    Keys,
    fused_attention,
    of_rows,
    plain_attention,
    token_attention,
)
from rft_jax.models.sight import PADDING, Sight, last_seen
from rft_jax.parallel.mesh import AnyMesh
from rft_jax.utils.types import PyTree

NO_WINDOW = np.iinfo(np.int32).max


class Reach(NamedTuple):
    """In what attention layers differ besides their weights."""

    window: int  # tokens that a token sees, itself included
    rope_theta: float | None  # None: without positions
    rope_scaling: RopeScaling | None


# Attention of a layer: takes its weights, its normed input, its place among the stack's layers, the
# rows' keys and values, and those of the prompts; gives mixed_BSTD.
Attend: TypeAlias = Callable[
    [LayerWeights, Array, Array | int, tuple[Array | Int8, ...], PyTree], Array
]


# The same of one token more of each row, to what a cache has of a layer.
AttendToken: TypeAlias = Callable[[LayerWeights, Array, Array | int, Stored, PyTree], Array]


class Attention:
    """The attention layers of a model; see `LayerKind`."""

    def __init__(self, config: ModelConfig, kinds: tuple[str, ...]):
        """Takes a configuration with the sizes of these layers, and the kind of each."""
        self.config = config
        self.reaches, self.reach_L = reaches(config, kinds)

    @property
    def keys(self) -> int:
        """See `LayerKind`."""
        return 2 * self.config.num_kv_heads * self.config.head_dim

    @property
    def queries(self) -> int:
        """See `LayerKind`."""
        return self.config.num_heads * self.config.head_dim

    @property
    def adaptable(self) -> tuple[str, ...]:
        """See `LayerKind`."""
        values = () if self.config.values_are_keys else ("v_DKQ",)
        return ("q_DKMQ", "k_DKQ", *values, "out_KMQD")

    @property
    def products(self) -> int:
        """See `LayerKind`."""
        c = self.config
        heads = (3 if c.attention_gate else 2) * c.num_heads
        heads += (1 if c.values_are_keys else 2) * c.num_kv_heads
        return c.hidden_size * c.head_dim * heads

    def weights(self, make: MakeWeight, outer_std: float) -> dict[str, nnx.Param]:
        """See `LayerKind`."""
        c = self.config
        group = c.num_heads // c.num_kv_heads
        query = (("num_kv_heads", "head_group", "head_dim"), (c.num_kv_heads, group, c.head_dim))
        key = (("num_kv_heads", "head_dim"), (c.num_kv_heads, c.head_dim))
        # With a gate the queries' heads are twice as wide, and the gate is the second half.
        wide = (c.num_kv_heads, group, c.head_dim * (2 if c.attention_gate else 1))
        weights = {
            "q_DKMQ": make(("embed", *query[0]), (c.hidden_size, *wide), INNER_STD),
            "k_DKQ": make(("embed", *key[0]), (c.hidden_size, *key[1]), INNER_STD),
        }
        if not c.values_are_keys:
            weights["v_DKQ"] = make(("embed", *key[0]), (c.hidden_size, *key[1]), INNER_STD)
        weights["out_KMQD"] = make((*query[0], "embed"), (*query[1], c.hidden_size), outer_std)
        if c.attention_bias:
            weights["q_bias_KMQ"] = make(query[0], wide, 0.0)
            weights["k_bias_KQ"] = make(*key, 0.0)
            if not c.values_are_keys:
                weights["v_bias_KQ"] = make(*key, 0.0)
        if c.output_bias:
            weights["out_bias_D"] = make(("embed",), (c.hidden_size,), 0.0)
        if c.attention_sinks:
            heads = (c.num_kv_heads, group)
            weights["sink_KM"] = make(("num_kv_heads", "head_group"), heads, 0.0)
        one = 0.0 if c.norm_weight_offset else 1.0
        if c.qk_norm_all_heads:
            weights["q_norm_KMQ"] = make(*query, 0.0, one)
            weights["k_norm_KQ"] = make(*key, 0.0, one)
        elif c.qk_norm:
            weights["q_norm_Q"] = make(("head_dim",), (c.head_dim,), 0.0, one)
            weights["k_norm_Q"] = make(("head_dim",), (c.head_dim,), 0.0, one)
        return weights

    def over_rows(self, rows: Rows) -> MixRows:
        """See `LayerKind`."""
        attend, by_reach = self._over_rows(rows), self._by_reach(rows.positions_BST)

        def mix(
            layer: LayerWeights, h_BSTD: Array, index: Array | int, prompts: PyTree
        ) -> tuple[Array, PyTree]:
            _, rotation = by_reach(index)
            kv = self._keys(layer, h_BSTD, rotation)
            return attend(layer, h_BSTD, index, kv, prompts), kv

        return mix

    def over_token(self, rows: Rows, cache: Cache) -> MixToken:
        """See `LayerKind`."""
        attend = self._over_token(rows, cache)
        by_reach = self._by_reach(rows.positions_BST, one_token=True)

        def mix(
            layer: LayerWeights,
            h_BS1D: Array,
            index: Array | int,
            prompts: PyTree,
            kept: LayerCache,
        ) -> tuple[Array, LayerCache]:
            assert isinstance(kept, Stacked | Unrolled)
            _, rotation = by_reach(index)
            k, v = self._keys(layer, h_BS1D, rotation)
            # The cache is carried from layer to layer and written in place: as the scan's input and
            # output it would be copied for every token.
            token = k[..., 0, :], v[..., 0, :]
            if isinstance(kept, Unrolled):
                now = kept.write(int(index), cache, *token)
                stored = now.layer(int(index), cache)
            else:
                now = kept.write(index, cache, *token)
                stored = now.layer(index, cache)
            return attend(layer, h_BS1D, index, stored, prompts), now

        return mix

    def of_prompts(self, kept: PyTree) -> KeyValues:
        """See `LayerKind`."""
        k_LBSKPQ, v_LBSKPQ = kept
        return KeyValues(k_LBSKPQ[:, :, 0], v_LBSKPQ[:, :, 0])

    def empty(self, prompts: int, tokens: int, dtype: jnp.dtype) -> KeyValues:
        """See `LayerKind`."""
        c = self.config
        shape = len(self.reach_L), prompts, c.num_kv_heads, tokens, c.head_dim
        return KeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def init_cache(
        self,
        prompts: PromptState,
        own_BGZ: Array,
        group: int,
        tokens: int,
        capacity: int,
        by_window: bool,
        pool: Pool | None,
    ) -> Stacked | Unrolled:
        """See `LayerKind`."""
        assert isinstance(prompts, KeyValues)
        return init_cache(
            prompts,
            group,
            tokens,
            capacity,
            pool,
            most=tuple(
                self.reaches[reach].window if by_window else NO_WINDOW for reach in self.reach_L
            ),
            transposed=self.config.decode_attention == "xla",
        )

    def _over_rows(self, rows: Rows) -> Attend:
        """Attention of whole rows to keys and values [B, S, K, T, Q] of the same rows."""
        mesh = None if rows.sharding is None else rows.sharding.mesh
        attention = (fused_attention if rows.whole else _plain)(self.config, mesh)
        by_reach = self._by_reach(rows.positions_BST)

        def attend(
            layer: LayerWeights,
            h_BSTD: Array,
            index: Array | int,
            kv: tuple[Array | Int8, ...],
            prompts: PyTree,
        ) -> Array:
            window, rotation = by_reach(index)
            q, gate = self._queries(layer, h_BSTD, rows.positions_BST, rotation)
            k, v = _dequantize(kv, rows.dtype)
            own = Keys(of_rows(k), of_rows(v), _sight_of_rows(rows, window), self._sinks(layer))
            shared = None
            if rows.prefix is not None:
                sight = _sight_of_prompts(rows, rows.prefix, window)
                shared = Keys(*_dequantize(tuple(prompts), rows.dtype), sight)
            out_BSKMTQ = attention(q, own, shared).astype(rows.dtype)
            return self._output(layer, out_BSKMTQ, gate)

        return attend

    def _over_token(self, rows: Rows, cache: Cache) -> AttendToken:
        """Attention of one token more of each row to what a cache has of it."""
        mesh = None if rows.sharding is None else rows.sharding.mesh
        # A kernel would have what is in eight bits written out in more.
        kernel = rows.whole and not _in_int8(cache)
        attention = (token_attention if kernel else _plain)(self.config, mesh)
        by_reach = self._by_reach(rows.positions_BST, one_token=True)

        def attend(
            layer: LayerWeights,
            h_BS1D: Array,
            index: Array | int,
            stored: Stored,
            prompts: PyTree,
        ) -> Array:
            window, rotation = by_reach(index)
            q, gate = self._queries(layer, h_BS1D, rows.positions_BST, rotation)
            kv, pages = stored[:2], stored.pages
            mask = _sight_of_token(cache, pages, kv[1].shape[2], window)
            own = Keys(*_dequantize(kv, rows.dtype), mask, self._sinks(layer), pages)
            shared = _keys_of_prefix(rows, prompts, window)
            out_BSKM1Q = attention(q, own, shared).astype(rows.dtype)
            return self._output(layer, out_BSKM1Q, gate)

        return attend

    def _queries(
        self, layer: LayerWeights, h_BSTD: Array, positions_BST: Array, rotation: Rotation
    ) -> tuple[Array, Array | None]:
        """Rotated queries [B, S, K, M, T, Q]; and what the sigmoid is taken of that gates the
        heads, if there is one, in the same shape."""
        c, dtype = self.config, h_BSTD.dtype
        q = linear(h_BSTD, layer.weight("q_DKMQ"))
        if c.attention_bias:
            q = q + layer.vector("q_bias_KMQ").astype(dtype)
        gate = None
        if c.attention_gate:
            q, gate = jnp.split(q, 2, axis=-1)
            gate = jnp.moveaxis(gate, 2, 4)
        if c.qk_norm_all_heads:
            q = _norm_heads(q, layer.vector("q_norm_KMQ"), c)
        elif c.qk_norm:
            q = rms_norm(q, layer.vector("q_norm_Q"), c)
        cos_BSTQ, sin_BSTQ = rotation
        q = jnp.moveaxis(q, 2, 4)
        q = rotate(q, cos_BSTQ[:, :, None, None], sin_BSTQ[:, :, None, None])
        if c.query_growth is not None:
            beta, original = c.query_growth
            growth_BST = 1 + beta * jnp.log1p(jnp.floor(positions_BST / original))
            q = q * growth_BST[:, :, None, None, :, None].astype(dtype)
        return q, gate

    def _keys(self, layer: LayerWeights, h_BSTD: Array, rotation: Rotation) -> tuple[Array, Array]:
        """Rotated keys, and values, both [B, S, K, T, Q]."""
        c, dtype = self.config, h_BSTD.dtype
        k = linear(h_BSTD, layer.weight("k_DKQ"))
        if c.attention_bias:
            k = k + layer.vector("k_bias_KQ").astype(dtype)
        if c.values_are_keys:
            v = jnp.moveaxis(k, 2, 3)
        else:
            v = jnp.moveaxis(linear(h_BSTD, layer.weight("v_DKQ")), 2, 3)
            if c.attention_bias:
                v = v + layer.vector("v_bias_KQ").astype(dtype)[:, None]
        if c.value_norm:
            v = plain_rms_norm(v, c)
        if c.qk_norm_all_heads:
            k = _norm_heads(k, layer.vector("k_norm_KQ"), c)
        elif c.qk_norm:
            k = rms_norm(k, layer.vector("k_norm_Q"), c)
        cos_BSTQ, sin_BSTQ = rotation
        return rotate(jnp.moveaxis(k, 2, 3), cos_BSTQ[:, :, None], sin_BSTQ[:, :, None]), v

    def _sinks(self, layer: LayerWeights) -> Array | None:
        return layer.vector("sink_KM") if self.config.attention_sinks else None

    def _output(self, layer: LayerWeights, out_BSKMTQ: Array, gate: Array | None) -> Array:
        """mixed_BSTD from the attention of all heads."""
        if gate is not None:
            out_BSKMTQ = out_BSKMTQ * jax.nn.sigmoid(gate)
        h_BSTD = linear(jnp.moveaxis(out_BSKMTQ, 4, 2), layer.weight("out_KMQD"), inputs=3)
        if self.config.output_bias:
            h_BSTD = h_BSTD + layer.vector("out_bias_D").astype(h_BSTD.dtype)
        return h_BSTD

    def _by_reach(
        self, positions_BST: Array, one_token: bool = False
    ) -> Callable[[Array | int], tuple[Array | None, Rotation]]:
        """A layer's window (None where no layer has one) and its rotation."""
        c = self.config
        rotations = [
            rotary(positions_BST, reach.rope_theta, c.rotary_dim or c.head_dim, reach.rope_scaling)
            for reach in self.reaches
        ]
        slides = any(reach.window != NO_WINDOW for reach in self.reaches)
        windows = jnp.array([r.window for r in self.reaches]) if slides else None
        if one_token:  # XLA would compute cosines anew in whatever reads them, in every layer
            rotations = jax.lax.optimization_barrier(rotations)
        stacked = windows, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rotations)

        def of_layer(index: Array | int) -> tuple[Array | None, Rotation]:
            reach_L = self.reach_L if isinstance(index, int) else jnp.asarray(self.reach_L)
            return jax.tree.map(lambda leaf: leaf[reach_L[index]], stacked)

        return of_layer


def reaches(config: ModelConfig, kinds: tuple[str, ...]) -> tuple[tuple[Reach, ...], np.ndarray]:
    """How far layers reach, each way once, and the index of each layer's."""
    c = config
    full = sliding = Reach(NO_WINDOW, c.rope_theta, c.rope_scaling)
    if c.sliding_rope_theta is not None:
        sliding = Reach(0, c.sliding_rope_theta, None)
    sliding = sliding._replace(window=c.sliding_window)
    by_kind = {
        "full": full,
        "global": full,
        "shared_global": full,
        "sliding": sliding,
        "shared_sliding": sliding,
        "nope": Reach(NO_WINDOW, None, None),
    }
    used, index_L = np.unique(kinds, return_inverse=True)
    return tuple(by_kind[name] for name in used), index_L


def _norm_heads(x_BSTy: Array, weight_y: Array, config: ModelConfig) -> Array:
    """The norm over all heads at once."""
    flat = rms_norm(x_BSTy.reshape(*x_BSTy.shape[:3], -1), weight_y.reshape(-1), config)
    return flat.reshape(x_BSTy.shape)


def _plain(config: ModelConfig, mesh: AnyMesh | None) -> AttentionFunction:
    """Without a kernel, which is run on each device's own rows."""
    return plain_attention(config)


def _keys_of_prefix(rows: Rows, prompts: PyTree, window: Array | None) -> Keys | None:
    """The prompts' keys and values of one layer, as far as its window reaches."""
    prefix = rows.prefix
    if prefix is None:
        return None
    distance = _distance(rows.positions_BST, prefix.position_P)
    mask = _within(window, prefix.mask_BXYP, distance)
    return Keys(*_dequantize(tuple(prompts), rows.dtype), mask)


def _sight_of_token(cache: Cache, pages: Pages | None, tokens: int, window: Array | None) -> Array:
    """bool: what a token sees of its row, [B, G, 1, T] of a ring, [X, 1, T] of pages."""
    if pages is not None:
        age_X1T = pages.age(cache.length_BG.reshape(-1))[:, None]
        return _within(window, age_X1T >= 0, age_X1T)
    # How many tokens ago each index was written, 0 for this one.
    age_T = (cache.written - jnp.arange(tokens)) % tokens
    return _within(window, age_T <= cache.length_BG[..., None, None], age_T)


def _sight_of_rows(rows: Rows, window: Array | None) -> Sight:
    """A token sees those of its own segment at its own or an earlier position."""
    segment_RT, position_RT = of_rows(rows.segments_BST), of_rows(rows.positions_BST)
    last_RT = last_seen(position_RT, window)
    return Sight(segment_RT, position_RT, segment_RT, position_RT, last_RT)


def _sight_of_prompts(rows: Rows, prefix: Prefix, window: Array | None) -> Sight:
    """All tokens of a prompt's rows see the prompt that they follow: its number is the segment."""
    B, S, T = rows.positions_BST.shape
    own_BSTZ = jnp.broadcast_to(prefix.own_BXYZ, (B, S, T, prefix.own_BXYZ.shape[-1]))
    segment_BST = jnp.where(own_BSTZ.any(axis=-1), jnp.argmax(own_BSTZ, axis=-1) + 1, PADDING)
    there_BP = prefix.mask_BXYP.any(axis=(1, 2))
    P = there_BP.shape[1]
    number_P = jnp.arange(P) // (P // own_BSTZ.shape[-1]) + 1
    position_BP = jnp.broadcast_to(prefix.position_P, (B, P))
    return Sight(
        segment_BST.reshape(B, -1),
        rows.positions_BST.reshape(B, -1),
        jnp.where(there_BP, number_P, PADDING),
        jnp.zeros_like(position_BP),
        last_seen(position_BP, window),
    )


def _in_int8(cache: Cache) -> bool:
    return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(cache.stacks))


def _dequantize(kv: tuple[Array | Int8, ...], dtype: jnp.dtype) -> tuple[Array, Array]:
    k, v = kv
    return dequantize(k, dtype), dequantize(v, dtype)


def _distance(at_xT: Array, place_xU: Array) -> Array:
    """By how many positions key u lies before token t, [..., T, U]."""
    return at_xT[..., :, None] - place_xU[..., None, :]


def _within(window: Array | None, mask_xTU: Array, distance_xTU: Array) -> Array:
    """The mask without the keys that lie a window or more before the query."""
    return mask_xTU if window is None else mask_xTU & (distance_xTU < window)
