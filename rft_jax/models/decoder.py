"""The decoder: one forward for training, prefill and decoding.

Pre-norm blocks of grouped-query attention with rotary positions and a gated MLP (Llama,
https://arxiv.org/abs/2302.13971), with the options by which the families of open models differ:
see `ModelConfig`. Layers are stacked along a leading axis and scanned.

Tokens come as [B, S, T]: S rows for each of B prompts. A row is explicit about its positions and
its segments, so that it may be a prompt (S = 1), one completion (S = G), or several packed ones.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.config import ModelConfig, RopeScaling
from rft_jax.models.attention import soft_cap
from rft_jax.models.cache import Cache, Prefix
from rft_jax.models.int8 import Int8, dequantize, quantized_axes
from rft_jax.models.linear import PRODUCT, embed, linear, unembed
from rft_jax.models.mlp import expert_mlp, gated_mlp
from rft_jax.models.rotary import Rotation, rotary, rotate
from rft_jax.models.row_attention import (
    Keys,
    fused_attention,
    of_rows,
    plain_attention,
    token_attention,
)
from rft_jax.parallel import batch_parts, constrain, shard_experts

_KEPT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


class LayerKind(NamedTuple):
    """In what layers differ besides their weights."""

    window: int  # tokens that a token sees, itself included
    rope_theta: float
    rope_scaling: RopeScaling | None


def layer_kinds(config: ModelConfig) -> tuple[tuple[LayerKind, ...], np.ndarray]:
    """The kinds of layers, and the index of each layer's kind."""
    c = config
    full = sliding = LayerKind(np.iinfo(np.int32).max, c.rope_theta, c.rope_scaling)
    if c.sliding_rope_theta is not None:
        sliding = LayerKind(0, c.sliding_rope_theta, None)
    kinds = {"full": full, "sliding": sliding._replace(window=c.sliding_window)}
    used, index_L = np.unique(np.resize(c.attention_pattern, c.num_layers), return_inverse=True)
    return tuple(kinds[name] for name in used), index_L


class Decoder(nnx.Module):
    """Token ids to hidden states; `logits` maps those to the vocabulary."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.hidden_size), 0.02)
        self.layers = Block(config, rngs=rngs)
        self.final_norm_D = _norm_weight(config, ("embed",), (config.hidden_size,))
        if not config.tie_embeddings:
            self.head_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.hidden_size), 0.02)

    def __call__(
        self,
        tokens_BST: Array,
        positions_BST: Array,
        segments_BST: Array,
        *,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
        layers: Sequence[Any] | None = None,
        dtype: jnp.dtype,
        rows: NamedSharding | None = None,
    ) -> tuple[Array, tuple[Array, Array] | Cache]:
        """Runs the blocks.

        Args:
            tokens_BST: int32 token ids.
            positions_BST: int32 positions, counted from the prompt's first token.
            segments_BST: int32; a token sees earlier positions of its own segment in its row.
                With a cache every row is one segment, without gaps in its positions, and this is
                not read.
            prefix: The prompts' keys and values, seen by every token of the prompt's rows.
            cache: When decoding (T = 1), the rows' own keys and values so far.
            layers: When decoding with prefix and cache unrolled, the weights of each layer.
            dtype: Of the activations and of the weights as they are multiplied.
            rows: How the leading axis of activations lies on a mesh. Without it XLA may leave the
                weights where they are and split activations along D instead, whose partial sums
                then cross the interconnect in every layer.

        Returns:
            hidden_BSTD after the final norm, and the new cache, or without a cache the rows' keys
            and values, each [L, B, S, K, T, Q].
        """
        c = self.config
        x_BSTD = embed(self.embed_VD.get_value(), tokens_BST, dtype)
        if c.scale_embeddings:
            x_BSTD = x_BSTD * jnp.asarray(c.hidden_size**0.5, dtype)
        kinds, kind_L = layer_kinds(c)
        rotations = [
            rotary(positions_BST, kind.rope_theta, c.head_dim, kind.rope_scaling) for kind in kinds
        ]
        by_kind = (
            jnp.array([kind.window for kind in kinds]) if c.sliding_window else None,
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *rotations),
        )
        graph, weights = nnx.split(self.layers)
        visible_BSTU = None if cache is not None else _causal(positions_BST, segments_BST)
        mesh = None if rows is None else rows.mesh
        if rows is not None and not _divides(rows, x_BSTD):
            attention = plain_attention(c)
        elif cache is None:
            attention = fused_attention(c, mesh)
        else:  # a kernel would have what is in eight bits written out in more
            attention = plain_attention(c) if cache.in_int8 else token_attention(c, mesh)

        def layer(carry, inputs):
            x_BSTD, cache = carry
            x_BSTD = _constrain_rows(x_BSTD, rows)
            index, weights, kind, prefix_kv = inputs
            block = nnx.merge(graph, weights)
            window, rotation = jax.tree.map(lambda leaf: leaf[kind], by_kind)
            q, k, v = block.project(x_BSTD, rotation)
            if cache is None:
                own_kv = of_rows(k), of_rows(v)
                distance = _distance(positions_BST, positions_BST)
                mask = _within(window, visible_BSTU, distance)
            else:
                cache = cache.write(index, k[..., 0, :], v[..., 0, :])
                own_kv = _dequantize(cache.kv.layer(index), dtype)
                mask = cache.age_T <= cache.length_BG[..., None, None]
                mask = _within(window, mask, cache.age_T)
            own, shared = Keys(*own_kv, mask), None
            if prefix is not None:
                distance = _distance(positions_BST, prefix.place_P)
                mask = _within(window, prefix.mask_BXYP, distance)
                shared = Keys(*_dequantize(prefix_kv, dtype), mask)
            out_BSKMTQ = attention(q, own, shared).astype(dtype)
            return (block.finish(x_BSTD, out_BSKMTQ, rows), cache), None if cache else (k, v)

        if c.remat != "none" and cache is None:
            layer = jax.checkpoint(layer, prevent_cse=False, policy=_KEPT[c.remat])
        prefix_kv = None if prefix is None else (prefix.k_LBKPQ, prefix.v_LBKPQ)
        if layers is None:
            inputs = jnp.arange(c.num_layers), weights, jnp.asarray(kind_L), prefix_kv
            (x_BSTD, cache), kv = jax.lax.scan(layer, (x_BSTD, cache), inputs)
        else:
            prefix_kv_L = zip(*prefix_kv, strict=True)
            for inputs in zip(range(c.num_layers), layers, kind_L, prefix_kv_L, strict=True):
                (x_BSTD, cache), _ = layer((x_BSTD, cache), inputs)
        hidden_BSTD = rms_norm(_constrain_rows(x_BSTD, rows), self.final_norm_D, c)
        if cache is not None:
            return hidden_BSTD, cache.advance()
        return hidden_BSTD, kv

    def logits(self, hidden_xD: Array) -> Array:
        """float32 logits [..., V] of hidden states [..., D]."""
        head_VD = self.embed_VD if self.config.tie_embeddings else self.head_VD
        logits_xV = unembed(hidden_xD, head_VD.get_value())
        return soft_cap(logits_xV, self.config.logit_softcap)


class Block(nnx.Module):
    """The weights of all layers, stacked; in the scan, those of one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c, n = config, config.num_layers
        group = c.num_heads // c.num_kv_heads
        inner = 0.02  # GPT-2's initialization, output projections scaled by depth
        outer = inner / (2 * n) ** 0.5

        def weight(axes, shape, std):
            return _weight(rngs, ("layers", *axes), (n, *shape), std)

        def norm(axis, size):
            return _norm_weight(c, ("layers", axis), (n, size))

        query = (("num_kv_heads", "head_group", "head_dim"), (c.num_kv_heads, group, c.head_dim))
        key = (("num_kv_heads", "head_dim"), (c.num_kv_heads, c.head_dim))
        self.config = config
        self.attention_norm_D = norm("embed", c.hidden_size)
        self.q_DKMQ = weight(("embed", *query[0]), (c.hidden_size, *query[1]), inner)
        self.k_DKQ = weight(("embed", *key[0]), (c.hidden_size, *key[1]), inner)
        self.v_DKQ = weight(("embed", *key[0]), (c.hidden_size, *key[1]), inner)
        self.out_KMQD = weight((*query[0], "embed"), (*query[1], c.hidden_size), outer)
        if c.attention_bias:
            self.q_bias_KMQ = weight(*query, 0.0)
            self.k_bias_KQ = weight(*key, 0.0)
            self.v_bias_KQ = weight(*key, 0.0)
        if c.output_bias:
            self.out_bias_D = weight(("embed",), (c.hidden_size,), 0.0)
        if c.qk_norm:
            self.q_norm_Q = norm("head_dim", c.head_dim)
            self.k_norm_Q = norm("head_dim", c.head_dim)
        if c.sandwich_norms:
            self.post_attention_norm_D = norm("embed", c.hidden_size)
            self.post_mlp_norm_D = norm("embed", c.hidden_size)
        self.mlp_norm_D = norm("embed", c.hidden_size)
        if c.experts:
            expert = (("experts", "embed", "mlp"), (c.experts, c.hidden_size, c.intermediate_size))
            back = (("experts", "mlp", "embed"), (c.experts, c.intermediate_size, c.hidden_size))
            self.router_DE = weight(("embed", "experts"), (c.hidden_size, c.experts), inner)
            self.gate_EDF = weight(*expert, inner)
            self.up_EDF = weight(*expert, inner)
            self.down_EFD = weight(*back, outer)
        else:
            self.gate_DF = weight(("embed", "mlp"), (c.hidden_size, c.intermediate_size), inner)
            self.up_DF = weight(("embed", "mlp"), (c.hidden_size, c.intermediate_size), inner)
            self.down_FD = weight(("mlp", "embed"), (c.intermediate_size, c.hidden_size), outer)

    def project(self, x_BSTD: Array, rotation: Rotation) -> tuple[Array, Array, Array]:
        """Rotated queries [B, S, K, M, T, Q] and keys, and values, both [B, S, K, T, Q]."""
        c, dtype = self.config, x_BSTD.dtype
        h_BSTD = rms_norm(x_BSTD, self.attention_norm_D, c)
        q = jnp.moveaxis(linear(h_BSTD, self.q_DKMQ.get_value()), 2, 4)
        k = jnp.moveaxis(linear(h_BSTD, self.k_DKQ.get_value()), 2, 3)
        v = jnp.moveaxis(linear(h_BSTD, self.v_DKQ.get_value()), 2, 3)
        if c.attention_bias:
            q = q + self.q_bias_KMQ[...].astype(dtype)[:, :, None]
            k = k + self.k_bias_KQ[...].astype(dtype)[:, None]
            v = v + self.v_bias_KQ[...].astype(dtype)[:, None]
        if c.qk_norm:
            q = rms_norm(q, self.q_norm_Q, c)
            k = rms_norm(k, self.k_norm_Q, c)
        cos_BSTQ, sin_BSTQ = rotation
        q = rotate(q, cos_BSTQ[:, :, None, None], sin_BSTQ[:, :, None, None])
        k = rotate(k, cos_BSTQ[:, :, None], sin_BSTQ[:, :, None])
        return q, k, v

    def finish(self, x_BSTD: Array, out_BSKMTQ: Array, rows: NamedSharding | None) -> Array:
        """The block's output from its input and its attention."""
        c, dtype = self.config, x_BSTD.dtype
        h_BSTD = linear(jnp.moveaxis(out_BSKMTQ, 4, 2), self.out_KMQD.get_value(), inputs=3)
        if c.output_bias:
            h_BSTD = h_BSTD + self.out_bias_D[...].astype(dtype)
        if c.sandwich_norms:
            h_BSTD = rms_norm(h_BSTD, self.post_attention_norm_D, c)
        x_BSTD = x_BSTD + h_BSTD
        h_BSTD = self._mlp(rms_norm(x_BSTD, self.mlp_norm_D, c), rows)
        if c.sandwich_norms:
            h_BSTD = rms_norm(h_BSTD, self.post_mlp_norm_D, c)
        return x_BSTD + h_BSTD

    def _mlp(self, h_BSTD: Array, rows: NamedSharding | None) -> Array:
        c = self.config
        if not c.experts:
            weights = (self.gate_DF, self.up_DF, self.down_FD)
            weights = (weight.get_value() for weight in weights)
            return gated_mlp(h_BSTD, *weights, c.activation)

        def mixture(weights: dict[str, Array | Int8], h_BSTD: Array) -> Array:
            return expert_mlp(
                h_BSTD,
                **weights,
                activation=c.activation,
                chosen=c.experts_per_token,
                normalize=c.normalize_experts,
            )

        names = ("router_DE", "gate_EDF", "up_EDF", "down_EFD")
        variables = {name: getattr(self, name) for name in names}
        weights = {name: variable.get_value() for name, variable in variables.items()}
        for name, weight in weights.items():
            if not isinstance(weight, Int8):  # gathered over fsdp in this type
                weights[name] = weight.astype(h_BSTD.dtype)
        axes = {name: variable.axes[1:] for name, variable in variables.items()}
        if isinstance(weights["gate_EDF"], Int8):
            axes = quantized_axes(axes)
        # Rows that the mesh does not divide are sorted over all devices, and have no gradient on
        # TPUs, whose kernel the compiler cannot split. Batches of a run are divided.
        if rows is None or _divides(rows, h_BSTD):
            mixture = shard_experts(mixture, axes, None if rows is None else rows.mesh)
        return mixture(weights, h_BSTD)


def rms_norm(x_xD: Array, weight_D: Array, config: ModelConfig) -> Array:
    """Root-mean-square norm (https://arxiv.org/abs/1910.07467), computed in float32."""
    x = x_xD.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps)
    scale_D = weight_D[...].astype(jnp.float32) + (1 if config.norm_weight_offset else 0)
    return (x * scale_D).astype(x_xD.dtype)


def _divides(rows: NamedSharding | None, x_BSTD: Array) -> bool:
    """Whether there is a mesh, and it divides the rows."""
    return rows is not None and not x_BSTD.shape[0] % batch_parts(rows.mesh)


def _constrain_rows(x_BSTD: Array, rows: NamedSharding | None) -> Array:
    """Keeps rows where they are, if the mesh divides them."""
    return constrain(x_BSTD, rows) if _divides(rows, x_BSTD) else x_BSTD


def _dequantize(kv: tuple[Array | Int8, Array | Int8], dtype: jnp.dtype) -> tuple[Array, Array]:
    return dequantize(kv[0], dtype), dequantize(kv[1], dtype)


def _causal(positions_BST: Array, segments_BST: Array) -> Array:
    """visible_BSTU: token t sees u of its own segment, at its own or an earlier position."""
    same = segments_BST[..., :, None] == segments_BST[..., None, :]
    return same & (positions_BST[..., None, :] <= positions_BST[..., :, None])


def _distance(at_xT: Array, place_xU: Array) -> Array:
    """By how many positions key u lies before token t, [..., T, U]."""
    return at_xT[..., :, None] - place_xU[..., None, :]


def _within(window: Array | None, mask_xTU: Array, distance_xTU: Array) -> Array:
    """The mask without the keys that lie a window or more before the query."""
    return mask_xTU if window is None else mask_xTU & (distance_xTU < window)


def _weight(rngs: nnx.Rngs, axes: tuple[str, ...], shape: tuple[int, ...], std: float) -> nnx.Param:
    value = std * jax.random.truncated_normal(rngs.params(), -3, 3, shape) if std else None
    return nnx.Param(jnp.zeros(shape) if value is None else value, axes=axes)


def _norm_weight(config: ModelConfig, axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    value = jnp.zeros(shape) if config.norm_weight_offset else jnp.ones(shape)
    return nnx.Param(value, axes=axes)
