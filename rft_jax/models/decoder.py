"""The decoder: one forward for training, prefill and decoding.

Pre-norm blocks of grouped-query attention with rotary positions and a gated MLP (Llama,
https://arxiv.org/abs/2302.13971), with the options by which the families of open models differ:
see `ModelConfig`. Layers are stacked along a leading axis and scanned.

Tokens come as [B, S, T]: S rows for each of B prompts. A row is explicit about its positions and
its segments, so that it may be a prompt (S = 1), one completion (S = G), or several packed ones.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import NamedSharding

from rft_jax.config import ModelConfig
from rft_jax.models import per_layer
from rft_jax.models.attention import ATTENTION, soft_cap
from rft_jax.models.cache import Cache, LayerCache, Prefix
from rft_jax.models.int8 import Int8, quantized_axes
from rft_jax.models.layer_kinds import (
    LayerKind,
    Rows,
    Source,
    Stack,
    orders,
    scan_layers,
    stacks,
)
from rft_jax.models.layer_kinds.base import INNER_STD
from rft_jax.models.linear import PRODUCT, Weight, embed, linear, unembed
from rft_jax.models.mlp import (
    ACTIVATIONS,
    EXPERT_BIASES,
    EXPERTS,
    MLP,
    SHARED_EXPERT,
    ExpertBiases,
    Gating,
    expert_mlp,
    gated_mlp,
    mlp_weights,
    shared_expert,
)
from rft_jax.models.nf4 import Nf4, packed_axes
from rft_jax.models.norms import rms_norm
from rft_jax.parallel import batch_parts, constrain, shard_experts, tensor_parts
from rft_jax.utils.types import PyTree

TokenCarry: TypeAlias = tuple[Array, dict[str, LayerCache]]  # with what layers keep, by stack


class LayerInputs(NamedTuple):
    """What a layer has besides what goes from layer to layer; in a scan, all of a stack."""

    index: Array | int  # its place among the layers of its stack
    weights: PyTree
    prompts: PyTree  # what it keeps of them
    per_layer: Array | None  # numbers of each token for this layer, [B, S, T, I]


class Decoder(nnx.Module):
    """Token ids to hidden states; `logits` maps those to the vocabulary."""

    def __init__(self, config: ModelConfig, vocab_size: int, *, rngs: nnx.Rngs):
        self.config = config
        self.embed_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.hidden_size), 0.02)
        for name, stack in stacks(config).items():
            setattr(self, name, Block(stack.config, stack.kind, len(stack.layers), rngs=rngs))
        self.final_norm_D = _norm_weight(config, ("embed",), (config.hidden_size,))
        if not config.tie_embeddings:
            self.head_VD = _weight(rngs, ("vocab", "embed"), (vocab_size, config.hidden_size), 0.02)
        for name, weight in per_layer.weights(config, vocab_size, functools.partial(_weight, rngs)):
            setattr(self, name, weight)

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
        x_BSTD = self._embed(tokens_BST, dtype)
        rows = _rows(positions_BST, segments_BST, prefix, x_BSTD, row_sharding)
        inputs = self._inputs(tokens_BST, x_BSTD, rows)
        made, kept, handed = stacks(self.config), {}, {}
        sources = {stack.source for stack in made.values() if stack.source}
        for order in orders(self.config):
            run = {
                name: self._layer_of_rows(name, _with_source(rows, made, name, handed))
                for name in order.stacks
            }
            own = {name: inputs[name] for name in order.stacks}
            x_BSTD, given, last = scan_layers(order, run, x_BSTD, own, sources)
            kept, handed = kept | given, handed | last
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
        x_BS1D = self._embed(tokens_BS1, dtype)
        rows = _rows(positions_BS1, jnp.ones_like(positions_BS1), prefix, x_BS1D, row_sharding)
        made = stacks(self.config)
        run = {
            name: self._layer_of_token(name, _with_source(rows, made, name, {}), cache)
            for name in made
        }
        carry = x_BS1D, dict(cache.stacks)
        inputs = self._inputs(tokens_BS1, x_BS1D, rows)
        for order in orders(self.config):
            if layers is None:
                own = {name: inputs[name] for name in order.stacks}
                carry, *_ = scan_layers(order, run, carry, own)
                continue
            done = dict.fromkeys(order.stacks, 0)
            for name in order.names:
                index = done[name]
                extra = inputs[name].per_layer
                own = LayerInputs(
                    index,
                    layers[name][index],
                    prefix.states[name].layer(index),
                    None if extra is None else extra[index],
                )
                carry, _ = run[name](carry, own)
                done[name] += 1
        x_BS1D, kept = carry
        written, length_BG = cache.written + 1, cache.length_BG + 1
        cache = cache._replace(stacks=kept, written=written, length_BG=length_BG)
        return self._norm(x_BS1D, row_sharding), cache

    def _inputs(self, tokens_BST: Array, x_BSTD: Array, rows: Rows) -> dict[str, LayerInputs]:
        """What layers have of their own, by stack."""
        prefix, place = rows.prefix, functools.partial(_constrain_rows, row_sharding=rows.sharding)
        added = per_layer.inputs(self.config, self._top, tokens_BST, x_BSTD, place)
        return {
            name: LayerInputs(
                jnp.arange(len(stack.layers)),
                nnx.split(getattr(self, name))[1],
                None if prefix is None else prefix.states[name],
                None if added is None else added[np.array(stack.layers)],
            )
            for name, stack in stacks(self.config).items()
        }

    def _layer_of_rows(
        self, name: str, rows: Rows
    ) -> Callable[[Array, LayerInputs], tuple[Array, PyTree]]:
        """A layer of a stack over whole rows."""
        graph, _ = nnx.split(getattr(self, name))
        mix = stacks(self.config)[name].kind.over_rows(rows)

        def layer(x_BSTD: Array, inputs: LayerInputs) -> tuple[Array, PyTree]:
            x_BSTD = _constrain_rows(x_BSTD, rows.sharding)
            block = nnx.merge(graph, inputs.weights)
            mixed_BSTD, kept = mix(block, block.before(x_BSTD), inputs.index, inputs.prompts)
            return block.after(x_BSTD, mixed_BSTD, inputs.per_layer, rows.sharding), kept

        if self.config.remat == "none":
            return layer
        kept = jax.checkpoint_policies.save_only_these_names(*kept_results(self.config))
        return jax.checkpoint(layer, prevent_cse=False, policy=kept)

    def _layer_of_token(
        self, name: str, rows: Rows, cache: Cache
    ) -> Callable[[TokenCarry, LayerInputs], tuple[TokenCarry, None]]:
        """A layer of a stack over one token more of each row."""
        graph, _ = nnx.split(getattr(self, name))
        stack = stacks(self.config)[name]
        mix, keeper = stack.kind.over_token(rows, cache), stack.source or name

        def layer(carry: TokenCarry, inputs: LayerInputs) -> tuple[TokenCarry, None]:
            x_BS1D, kept = carry
            x_BS1D = _constrain_rows(x_BS1D, rows.sharding)
            block = nnx.merge(graph, inputs.weights)
            h_BS1D = block.before(x_BS1D)
            mixed_BS1D, own = mix(block, h_BS1D, inputs.index, inputs.prompts, kept[keeper])
            x_BS1D = block.after(x_BS1D, mixed_BS1D, inputs.per_layer, rows.sharding)
            return (x_BS1D, {**kept, keeper: own}), None

        return layer

    def _embed(self, tokens_BST: Array, dtype: jnp.dtype) -> Array:
        x_BSTD = embed(self.embed_VD.get_value(), tokens_BST, dtype)
        if self.config.scale_embeddings:
            x_BSTD = x_BSTD * jnp.asarray(self.config.hidden_size**0.5, dtype)
        return _times(x_BSTD, self.config.embedding_multiplier)

    def _top(self, name: str) -> Weight:
        """A weight that is no layer's."""
        return getattr(self, name).get_value()

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
    """The weights of a stack of layers; in the scan, those of one.

    Its configuration has the sizes of these layers.
    """

    def __init__(self, config: ModelConfig, kind: LayerKind, layers: int, *, rngs: nnx.Rngs):
        c, n = config, layers
        outer = INNER_STD / (2 * config.num_layers) ** 0.5

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
        for name, value in mlp_weights(c, weight, outer).items():
            setattr(self, name, value)
        if c.per_layer_size:
            inner_axes, sizes = ("embed", "per_layer"), (c.hidden_size, c.per_layer_size)
            self.per_layer_gate_DI = weight(inner_axes, sizes, INNER_STD)
            self.per_layer_out_ID = weight(inner_axes[::-1], sizes[::-1], outer)
            self.per_layer_norm_D = norm("embed", c.hidden_size)
        if c.layer_scale:
            self.layer_scale_X = weight(("single",), (1,), 0.0, 1.0)

    def weight(self, name: str) -> Weight:
        """See `LayerWeights`."""
        return getattr(self, name).get_value()

    def vector(self, name: str) -> Array:
        """See `LayerWeights`."""
        return getattr(self, name)[...]

    def before(self, x_BSTD: Array) -> Array:
        """What the layer's kind mixes."""
        return self._norm("attention_norm_D", x_BSTD) if self.config.pre_norms else x_BSTD

    def after(
        self,
        x_BSTD: Array,
        mixed_BSTD: Array,
        per_layer_BSTI: Array | None,
        row_sharding: NamedSharding | None,
    ) -> Array:
        """The block's output from its input and from what its kind made of that."""
        c = self.config
        if c.sandwich_norms:
            mixed_BSTD = self._norm("post_attention_norm_D", mixed_BSTD)
        x_BSTD = x_BSTD + _times(mixed_BSTD, c.residual_multiplier)
        h_BSTD = self._norm("mlp_norm_D", x_BSTD) if c.pre_norms else x_BSTD
        h_BSTD = self._mlp(h_BSTD, row_sharding)
        if c.sandwich_norms:
            h_BSTD = self._norm("post_mlp_norm_D", h_BSTD)
        x_BSTD = x_BSTD + _times(h_BSTD, c.residual_multiplier)
        if per_layer_BSTI is not None:
            x_BSTD = x_BSTD + self._of_per_layer(x_BSTD, per_layer_BSTI)
        if c.layer_scale:
            x_BSTD = x_BSTD * self.vector("layer_scale_X").astype(x_BSTD.dtype)
        return x_BSTD

    def _of_per_layer(self, x_BSTD: Array, per_layer_BSTI: Array) -> Array:
        """What the layer adds of its own embedding of the tokens."""
        gate_BSTI = ACTIVATIONS[self.config.activation](
            linear(x_BSTD, self.weight("per_layer_gate_DI"))
        )
        h_BSTD = linear(gate_BSTI * per_layer_BSTI, self.weight("per_layer_out_ID"))
        return self._norm("per_layer_norm_D", h_BSTD)

    def _norm(self, name: str, x_BSTD: Array) -> Array:
        return rms_norm(x_BSTD, self.vector(name), self.config)

    def _mlp(self, h_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
        c = self.config
        gating = Gating(c.activation, c.swiglu_limit)
        if not c.experts:
            return gated_mlp(h_BSTD, *map(self.weight, MLP), gating=gating)
        out_BSTD = self._experts(h_BSTD, gating, row_sharding)
        if not c.shared_expert_size:
            return out_BSTD
        shared = map(self.weight, SHARED_EXPERT)
        return out_BSTD + shared_expert(h_BSTD, *shared, gating=gating)

    def _experts(self, h_BSTD: Array, gating: Gating, row_sharding: NamedSharding | None) -> Array:
        c = self.config
        # Rows that the mesh does not divide are sorted over all devices, and have no gradient on
        # TPUs, whose kernel the compiler cannot split. Batches of a run are divided.
        apart = row_sharding is None or _divides(row_sharding, h_BSTD)
        mesh = None if row_sharding is None else row_sharding.mesh

        def mixture(weights: PyTree, h_BSTD: Array, /) -> Array:
            biases = ExpertBiases(*map(weights.get, EXPERT_BIASES)) if c.expert_bias else None
            return expert_mlp(
                h_BSTD,
                *map(weights.get, EXPERTS),
                biases=biases,
                gating=gating,
                chosen=c.experts_per_token,
                normalize=c.normalize_experts,
                parts=tensor_parts(mesh) if apart else 1,
            )

        names = EXPERTS + (EXPERT_BIASES if c.expert_bias else ())
        variables = {name: getattr(self, name) for name in names}
        weights = {name: variable.get_value() for name, variable in variables.items()}
        for name, weight in weights.items():
            if not isinstance(weight, Int8 | Nf4):  # gathered over fsdp in this type
                weights[name] = weight.astype(h_BSTD.dtype)
        axes = {name: variable.axes[1:] for name, variable in variables.items()}
        if isinstance(weights["gate_EDF"], Int8):
            axes = quantized_axes(axes)
        elif isinstance(weights["gate_EDF"], Nf4):
            axes = packed_axes(axes)
        if apart:
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


def _with_source(
    rows: Rows, made: Mapping[str, Stack], name: str, handed: Mapping[str, PyTree]
) -> Rows:
    """The rows with what the layers of a stack read of another's last layer, if they do.

    Args:
        made: All stacks.
        handed: What last layers keep of the rows; of one token more nothing.
    """
    source = made[name].source
    if source is None:
        return rows
    last = len(made[source].layers) - 1
    prompts = None if rows.prefix is None else rows.prefix.states[source].layer(last)
    return rows._replace(source=Source(last, handed.get(source), prompts))


def _divides(row_sharding: NamedSharding | None, x_BSTD: Array) -> bool:
    """Whether there is a mesh, and it divides the rows."""
    return row_sharding is not None and not x_BSTD.shape[0] % batch_parts(row_sharding.mesh)


def _constrain_rows(x_BSTD: Array, row_sharding: NamedSharding | None) -> Array:
    """Keeps rows where they are, if the mesh divides them."""
    return constrain(x_BSTD, row_sharding) if _divides(row_sharding, x_BSTD) else x_BSTD


def _times(x: Array, factor: float) -> Array:
    """Nothing is computed for a factor of 1."""
    return x if factor == 1 else x * jnp.asarray(factor, x.dtype)


def kept_results(config: ModelConfig) -> tuple[str, ...]:
    """Names of what a layer keeps for the backward pass, which computes the rest anew.

    On a CPU attention in tiles is always kept: for two vectors a token it is not run once more.
    """
    products = (PRODUCT,) if config.remat == "dots" else ()
    return (*products, ATTENTION) if config.attention == "blockwise" else products


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
