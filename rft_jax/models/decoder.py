"""The decoder: one forward for training, prefill and decoding.

Pre-norm blocks of grouped-query attention with rotary positions and a gated MLP (Llama,
https://arxiv.org/abs/2302.13971), optionally with attention biases (Qwen 2) or query/key norms
(Qwen 3). Layers are stacked along a leading axis and scanned.

Tokens come as [B, S, T]: S rows for each of B prompts. A row is explicit about its positions and
its segments, so that it may be a prompt (S = 1), one completion (S = G), or several packed ones.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models.attention import Partial, merge, partial_attention
from rft_jax.models.cache import Cache, Prefix


class Decoder(nnx.Module):
    """Token ids to hidden states; `logits` maps those to the vocabulary."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.width), 0.02)
        self.layers = Block(config, rngs=rngs)
        self.final_norm_D = _ones(("embed",), (config.width,))
        if not config.tie_embeddings:
            self.head_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.width), 0.02)

    def __call__(
        self,
        tokens_BST: Array,
        positions_BST: Array,
        segments_BST: Array,
        *,
        prefix: Prefix | None = None,
        cache: Cache | None = None,
        dtype: jnp.dtype,
    ) -> tuple[Array, tuple[Array, Array] | Cache]:
        """Runs the blocks.

        Args:
            tokens_BST: int32 token ids.
            positions_BST: int32 positions, counted from the prompt's first token.
            segments_BST: int32; a token sees earlier positions of its own segment in its row.
                With a cache every row is one segment and this is not read.
            prefix: The prompts' keys and values, seen by every token of the prompt's rows.
            cache: When decoding (T = 1), the rows' own keys and values so far.
            dtype: Of the activations and of the weights as they are multiplied.

        Returns:
            hidden_BSTD after the final norm, and the new cache, or without a cache the rows' keys
            and values, each [L, B, S, K, T, Q].
        """
        x_BSTD = self.embed_VD[...][tokens_BST].astype(dtype)
        rotation = rotary(positions_BST, self.config)
        graph, weights = nnx.split(self.layers)
        visible_BSTU = None if cache is not None else _causal(positions_BST, segments_BST)

        def layer(carry, inputs):
            x_BSTD, cache = carry
            weights, index, prefix_kv = inputs
            block = nnx.merge(graph, weights)
            q, k, v = block.project(x_BSTD, rotation)
            if cache is None:
                own_kv, mask = (k, v), visible_BSTU
            else:
                cache = cache.write(index, k[..., 0, :], v[..., 0, :])
                own_kv = cache.layer(index)
                mask = (jnp.arange(own_kv[0].shape[3]) <= cache.length)[None, None, None]
            partial = _own_partial(q, *own_kv, mask)
            out = partial.out_RKMTQ
            if prefix is not None:
                out = merge(partial, _prefix_partial(q, *prefix_kv, prefix.mask_BP))
            out_BSKMTQ = out.reshape(q.shape).astype(dtype)
            return (block.finish(x_BSTD, out_BSKMTQ), cache), None if cache else (k, v)

        if self.config.remat and cache is None:
            layer = jax.checkpoint(layer, prevent_cse=False)
        indices = jnp.arange(self.config.layers)
        prefix_kv = None if prefix is None else (prefix.k_LBKPQ, prefix.v_LBKPQ)
        (x_BSTD, cache), kv = jax.lax.scan(layer, (x_BSTD, cache), (weights, indices, prefix_kv))
        hidden_BSTD = rms_norm(x_BSTD, self.final_norm_D, self.config.norm_eps)
        if cache is not None:
            return hidden_BSTD, cache._replace(length=cache.length + 1)
        return hidden_BSTD, kv

    def logits(self, hidden_xD: Array) -> Array:
        """float32 logits [..., V] of hidden states [..., D]."""
        head_VD = self.embed_VD if self.config.tie_embeddings else self.head_VD
        weight_VD = head_VD[...].astype(hidden_xD.dtype)
        return jnp.einsum("...D,VD->...V", hidden_xD, weight_VD, preferred_element_type=jnp.float32)


class Block(nnx.Module):
    """The weights of all layers, stacked; in the scan, those of one."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        c, n = config, config.layers
        group = c.heads // c.kv_heads
        inner = 0.02  # GPT-2's initialisation, output projections scaled by depth
        outer = inner / (2 * n) ** 0.5

        def weight(axes, shape, std):
            return _weight(rngs, ("layers", *axes), (n, *shape), std)

        def ones(axis, size):
            return _ones(("layers", axis), (n, size))

        query = (("kv_heads", "head_group", "head_dim"), (c.kv_heads, group, c.head_dim))
        key = (("kv_heads", "head_dim"), (c.kv_heads, c.head_dim))
        self.config = config
        self.attention_norm_D = ones("embed", c.width)
        self.q_DKMQ = weight(("embed", *query[0]), (c.width, *query[1]), inner)
        self.k_DKQ = weight(("embed", *key[0]), (c.width, *key[1]), inner)
        self.v_DKQ = weight(("embed", *key[0]), (c.width, *key[1]), inner)
        self.out_KMQD = weight((*query[0], "embed"), (*query[1], c.width), outer)
        if c.attention_bias:
            self.q_bias_KMQ = weight(*query, 0.0)
            self.k_bias_KQ = weight(*key, 0.0)
            self.v_bias_KQ = weight(*key, 0.0)
        if c.qk_norm:
            self.q_norm_Q = ones("head_dim", c.head_dim)
            self.k_norm_Q = ones("head_dim", c.head_dim)
        self.mlp_norm_D = ones("embed", c.width)
        self.gate_DF = weight(("embed", "mlp"), (c.width, c.mlp_width), inner)
        self.up_DF = weight(("embed", "mlp"), (c.width, c.mlp_width), inner)
        self.down_FD = weight(("mlp", "embed"), (c.mlp_width, c.width), outer)

    def project(self, x_BSTD: Array, rotation: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        """Rotated queries [B, S, K, M, T, Q] and keys, and values, both [B, S, K, T, Q]."""
        c, dtype = self.config, x_BSTD.dtype
        h_BSTD = rms_norm(x_BSTD, self.attention_norm_D, c.norm_eps)
        q = jnp.einsum("BSTD,DKMQ->BSKMTQ", h_BSTD, self.q_DKMQ[...].astype(dtype))
        k = jnp.einsum("BSTD,DKQ->BSKTQ", h_BSTD, self.k_DKQ[...].astype(dtype))
        v = jnp.einsum("BSTD,DKQ->BSKTQ", h_BSTD, self.v_DKQ[...].astype(dtype))
        if c.attention_bias:
            q = q + self.q_bias_KMQ[...].astype(dtype)[:, :, None]
            k = k + self.k_bias_KQ[...].astype(dtype)[:, None]
            v = v + self.v_bias_KQ[...].astype(dtype)[:, None]
        if c.qk_norm:
            q = rms_norm(q, self.q_norm_Q, c.norm_eps)
            k = rms_norm(k, self.k_norm_Q, c.norm_eps)
        cos_BSTQ, sin_BSTQ = rotation
        q = rotate(q, cos_BSTQ[:, :, None, None], sin_BSTQ[:, :, None, None])
        k = rotate(k, cos_BSTQ[:, :, None], sin_BSTQ[:, :, None])
        return q, k, v

    def finish(self, x_BSTD: Array, out_BSKMTQ: Array) -> Array:
        """The block's output from its input and its attention."""
        dtype = x_BSTD.dtype
        out_KMQD = self.out_KMQD[...].astype(dtype)
        x_BSTD = x_BSTD + jnp.einsum("BSKMTQ,KMQD->BSTD", out_BSKMTQ, out_KMQD)
        h_BSTD = rms_norm(x_BSTD, self.mlp_norm_D, self.config.norm_eps)
        gate_BSTF = jnp.einsum("BSTD,DF->BSTF", h_BSTD, self.gate_DF[...].astype(dtype))
        up_BSTF = jnp.einsum("BSTD,DF->BSTF", h_BSTD, self.up_DF[...].astype(dtype))
        down_FD = self.down_FD[...].astype(dtype)
        return x_BSTD + jnp.einsum("BSTF,FD->BSTD", jax.nn.silu(gate_BSTF) * up_BSTF, down_FD)


def rotary(positions_BST: Array, config: ModelConfig) -> tuple[Array, Array]:
    """Cosines and sines [B, S, T, Q/2] of rotary positions (https://arxiv.org/abs/2104.09864)."""
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    angle = positions_BST[..., None] * config.rope_theta**-exponent
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_xQ: Array, cos: Array, sin: Array) -> Array:
    """Rotates the two halves of the last axis against each other, in float32."""
    a, b = jnp.split(x_xQ.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_xQ.dtype)


def rms_norm(x_xD: Array, scale_D: Array, eps: float) -> Array:
    """Root-mean-square norm (https://arxiv.org/abs/1910.07467), computed in float32."""
    x = x_xD.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + eps)
    return (x * scale_D[...].astype(jnp.float32)).astype(x_xD.dtype)


def _own_partial(q_BSKMTQ, k_BSKUQ, v_BSKUQ, mask_BSTU) -> Partial:
    """Each row over its own keys; the result's rows are B x S."""
    mask_RTU = mask_BSTU.reshape(-1, *mask_BSTU.shape[2:])
    q, k, v = (x.reshape(-1, *x.shape[2:]) for x in (q_BSKMTQ, k_BSKUQ, v_BSKUQ))
    return partial_attention(q, k, v, mask_RTU, scale=q.shape[-1] ** -0.5)


def _prefix_partial(q_BSKMTQ, k_BKPQ, v_BKPQ, mask_BP) -> Partial:
    """All rows of a prompt over the prompt's keys in one product; the result's rows are B x S."""
    B, S, K, M, T, Q = q_BSKMTQ.shape
    q_BKMXQ = q_BSKMTQ.transpose(0, 2, 3, 1, 4, 5).reshape(B, K, M, S * T, Q)
    partial = partial_attention(q_BKMXQ, k_BKPQ, v_BKPQ, mask_BP[:, None], scale=Q**-0.5)

    def rows(x):
        x = x.reshape(B, K, M, S, T, *x.shape[4:])
        return jnp.moveaxis(x, 3, 1).reshape(B * S, K, M, T, *x.shape[5:])

    return Partial(rows(partial.out_RKMTQ), rows(partial.lse_RKMT))


def _causal(positions_BST: Array, segments_BST: Array) -> Array:
    """visible_BSTU: token t sees u of its own segment, at its own or an earlier position."""
    same = segments_BST[..., :, None] == segments_BST[..., None, :]
    return same & (positions_BST[..., None, :] <= positions_BST[..., :, None])


def _weight(rngs: nnx.Rngs, axes: tuple[str, ...], shape: tuple[int, ...], std: float) -> nnx.Param:
    value = std * jax.random.truncated_normal(rngs.params(), -3, 3, shape) if std else None
    return nnx.Param(jnp.zeros(shape) if value is None else value, axes=axes)


def _ones(axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    return nnx.Param(jnp.ones(shape), axes=axes)
