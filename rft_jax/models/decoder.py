"""The decoder: one forward for training, prefill and decoding.

Pre-norm blocks of grouped-query attention with rotary positions and a gated MLP (Llama,
https://arxiv.org/abs/2302.13971), with the options by which the families of open models differ:
see `ModelConfig`. Layers are stacked along a leading axis and scanned.

Tokens come as [B, S, T]: S rows for each of B prompts. A row is explicit about its positions and
its segments, so that it may be a prompt (S = 1), one completion (S = G), or several packed ones.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.config import ModelConfig
from rft_jax.models.attention import soft_cap
from rft_jax.models.cache import Cache, LayerCache, Prefix
from rft_jax.models.int8 import Int8, quantized_axes
from rft_jax.models.layer_kinds import LayerKind, Rows, order, scan_layers, stacks
from rft_jax.models.layer_kinds.base import INNER_STD, MixRows, MixToken
from rft_jax.models.linear import PRODUCT, Weight, embed, unembed
from rft_jax.models.mlp import expert_mlp, gated_mlp
from rft_jax.models.norms import rms_norm
from rft_jax.parallel import batch_parts, constrain, shard_experts
from rft_jax.utils.types import PyTree

_KEPT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
}


class Decoder(nnx.Module):
    """Token ids to hidden states; `logits` maps those to the vocabulary."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.hidden_size), 0.02)
        for name, stack in stacks(config).items():
            setattr(self, name, Block(config, stack.kind, len(stack.layers), rngs=rngs))
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
        dtype: jnp.dtype,
        row_sharding: NamedSharding | None = None,
    ) -> tuple[Array, dict[str, PyTree]]:
        """Runs the blocks over whole rows: prompts, completions, packed ones.

        Args:
            tokens_BST: int32 token ids.
            positions_BST: int32 positions, counted from the prompt's first token.
            segments_BST: int32; a token sees earlier positions of its own segment in its row.
            prefix: The prompts, which every token of their rows follows.
            dtype: That of activations, and of the weights as they are multiplied.
            row_sharding: How the leading axis of activations lies on a mesh. Without it XLA may
                leave the weights where they are and split activations along D instead, whose
                partial sums then cross the interconnect in every layer.

        Returns:
            hidden_BSTD after the final norm, and by stack what its layers keep of the rows.
        """
        c = self.config
        x_BSTD = self._embed(tokens_BST, dtype)
        rows = _rows(positions_BST, segments_BST, prefix, x_BSTD, row_sharding)
        run, inputs = {}, {}
        for name, stack in stacks(c).items():
            graph, weights = nnx.split(getattr(self, name))
            mix = stack.kind.over_rows(rows)

            def layer(
                x_BSTD: Array, inputs: PyTree, graph: nnx.GraphDef = graph, mix: MixRows = mix
            ) -> tuple[Array, PyTree]:
                x_BSTD = _constrain_rows(x_BSTD, row_sharding)
                index, weights, prompts = inputs
                block = nnx.merge(graph, weights)
                mixed_BSTD, kept = mix(block, block.before(x_BSTD), index, prompts)
                return block.after(x_BSTD, mixed_BSTD, row_sharding), kept

            if c.remat != "none":
                layer = jax.checkpoint(layer, prevent_cse=False, policy=_KEPT[c.remat])
            prompts = None if prefix is None else prefix.states[name]
            run[name], inputs[name] = layer, (jnp.arange(len(stack.layers)), weights, prompts)
        x_BSTD, kept = scan_layers(order(c), run, x_BSTD, inputs)
        return self._norm(x_BSTD, row_sharding), kept

    def decode(
        self,
        tokens_BS1: Array,
        positions_BS1: Array,
        prefix: Prefix,
        cache: Cache,
        *,
        layers: Mapping[str, tuple[PyTree, ...]] | None,
        dtype: jnp.dtype,
        row_sharding: NamedSharding | None = None,
    ) -> tuple[Array, Cache]:
        """Runs the blocks over one more token of each row.

        Args:
            tokens_BS1: int32 token ids.
            positions_BS1: int32 positions, counted from the prompt's first token.
            prefix: The prompts.
            cache: The rows so far; a row is one segment, without gaps in its positions.
            layers: With prefix and cache unrolled, by stack the weights of each layer.
            dtype: As for `__call__`.
            row_sharding: Likewise.

        Returns:
            hidden_BS1D after the final norm, and the new cache.
        """
        c = self.config
        x_BS1D = self._embed(tokens_BS1, dtype)
        rows = _rows(positions_BS1, jnp.ones_like(positions_BS1), prefix, x_BS1D, row_sharding)
        run, inputs = {}, {}
        for name, stack in stacks(c).items():
            graph, weights = nnx.split(getattr(self, name))
            mix = stack.kind.over_token(rows, cache)

            def layer(
                carry: tuple[Array, dict[str, LayerCache]],
                inputs: PyTree,
                name: str = name,
                graph: nnx.GraphDef = graph,
                mix: MixToken = mix,
            ) -> tuple[tuple[Array, dict[str, LayerCache]], None]:
                x_BS1D, kept = carry
                x_BS1D = _constrain_rows(x_BS1D, row_sharding)
                index, weights, prompts = inputs
                block = nnx.merge(graph, weights)
                mixed_BS1D, own = mix(block, block.before(x_BS1D), index, prompts, kept[name])
                return (block.after(x_BS1D, mixed_BS1D, row_sharding), {**kept, name: own}), None

            run[name] = layer
            inputs[name] = jnp.arange(len(stack.layers)), weights, prefix.states[name]
        carry = x_BS1D, dict(cache.stacks)
        if layers is None:
            carry, _ = scan_layers(order(c), run, carry, inputs)
        else:
            done = dict.fromkeys(run, 0)
            for name in order(c).names:
                index = done[name]
                own = index, layers[name][index], prefix.states[name].layer(index)
                carry, _ = run[name](carry, own)
                done[name] += 1
        x_BS1D, kept = carry
        cache = Cache(kept, cache.written + 1, cache.length_BG + 1)
        return self._norm(x_BS1D, row_sharding), cache

    def _embed(self, tokens_BST: Array, dtype: jnp.dtype) -> Array:
        x_BSTD = embed(self.embed_VD.get_value(), tokens_BST, dtype)
        if self.config.scale_embeddings:
            x_BSTD = x_BSTD * jnp.asarray(self.config.hidden_size**0.5, dtype)
        return _times(x_BSTD, self.config.embedding_multiplier)

    def _norm(self, x_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
        x_BSTD = _constrain_rows(x_BSTD, row_sharding)
        return rms_norm(x_BSTD, self.final_norm_D[...], self.config)

    def logits(self, hidden_xD: Array) -> Array:
        """float32 logits [..., V] of hidden states [..., D]."""
        head_VD = self.embed_VD if self.config.tie_embeddings else self.head_VD
        logits_xV = unembed(hidden_xD, head_VD.get_value())
        logits_xV = _times(logits_xV, 1 / self.config.logits_scaling)
        return soft_cap(logits_xV, self.config.logit_softcap)


class Block(nnx.Module):
    """The weights of a stack of layers; in the scan, those of one."""

    def __init__(self, config: ModelConfig, kind: LayerKind, layers: int, *, rngs: nnx.Rngs):
        c, n = config, layers
        inner, outer = INNER_STD, INNER_STD / (2 * config.num_layers) ** 0.5

        def weight(
            axes: tuple[str, ...], shape: tuple[int, ...], std: float, mean: float = 0.0
        ) -> nnx.Param:
            return _weight(rngs, ("layers", *axes), (n, *shape), std, mean)

        def norm(axis: str, size: int) -> nnx.Param:
            return _norm_weight(c, ("layers", axis), (n, size))

        self.config = config
        if c.pre_norms:
            self.attention_norm_D = norm("embed", c.hidden_size)
            self.mlp_norm_D = norm("embed", c.hidden_size)
        for name, value in kind.weights(weight, outer).items():
            setattr(self, name, value)
        if c.sandwich_norms:
            self.post_attention_norm_D = norm("embed", c.hidden_size)
            self.post_mlp_norm_D = norm("embed", c.hidden_size)
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

    def weight(self, name: str) -> Weight:
        """See `LayerWeights`."""
        return getattr(self, name).get_value()

    def vector(self, name: str) -> Array:
        """See `LayerWeights`."""
        return getattr(self, name)[...]

    def before(self, x_BSTD: Array) -> Array:
        """What the layer's kind mixes."""
        return self._norm("attention_norm_D", x_BSTD) if self.config.pre_norms else x_BSTD

    def after(self, x_BSTD: Array, mixed_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
        """The block's output from its input and from what its kind made of that."""
        c = self.config
        if c.sandwich_norms:
            mixed_BSTD = self._norm("post_attention_norm_D", mixed_BSTD)
        x_BSTD = x_BSTD + _times(mixed_BSTD, c.residual_multiplier)
        h_BSTD = self._norm("mlp_norm_D", x_BSTD) if c.pre_norms else x_BSTD
        h_BSTD = self._mlp(h_BSTD, row_sharding)
        if c.sandwich_norms:
            h_BSTD = self._norm("post_mlp_norm_D", h_BSTD)
        return x_BSTD + _times(h_BSTD, c.residual_multiplier)

    def _norm(self, name: str, x_BSTD: Array) -> Array:
        return rms_norm(x_BSTD, self.vector(name), self.config)

    def _mlp(self, h_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
        c = self.config
        if not c.experts:
            gate_DF, up_DF, down_FD = (
                weight.get_value() for weight in (self.gate_DF, self.up_DF, self.down_FD)
            )
            return gated_mlp(h_BSTD, gate_DF, up_DF, down_FD, c.activation)

        def mixture(weights: PyTree, h_BSTD: Array, /) -> Array:
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
        if row_sharding is None or _divides(row_sharding, h_BSTD):
            mesh = None if row_sharding is None else row_sharding.mesh
            mixture = shard_experts(mixture, axes, mesh)
        return mixture(weights, h_BSTD)


def _rows(
    positions_BST: Array,
    segments_BST: Array,
    prefix: Prefix | None,
    x_BSTD: Array,
    row_sharding: NamedSharding | None,
) -> Rows:
    whole = row_sharding is None or _divides(row_sharding, x_BSTD)
    return Rows(positions_BST, segments_BST, prefix, x_BSTD.dtype, row_sharding, whole)


def _divides(row_sharding: NamedSharding | None, x_BSTD: Array) -> bool:
    """Whether there is a mesh, and it divides the rows."""
    return row_sharding is not None and not x_BSTD.shape[0] % batch_parts(row_sharding.mesh)


def _constrain_rows(x_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
    """Keeps rows where they are, if the mesh divides them."""
    return constrain(x_BSTD, row_sharding) if _divides(row_sharding, x_BSTD) else x_BSTD


def _times(x: Array, factor: float) -> Array:
    """Nothing is computed for a factor of 1."""
    return x if factor == 1 else x * jnp.asarray(factor, x.dtype)


def _weight(
    rngs: nnx.Rngs,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    std: float,
    mean: float = 0.0,
) -> nnx.Param:
    value = jnp.full(shape, mean)
    if std:
        value = std * jax.random.truncated_normal(rngs.params(), -3, 3, shape)
    return nnx.Param(value, axes=axes)


def _norm_weight(config: ModelConfig, axes: tuple[str, ...], shape: tuple[int, ...]) -> nnx.Param:
    value = jnp.zeros(shape) if config.norm_weight_offset else jnp.ones(shape)
    return nnx.Param(value, axes=axes)
