"""Gated DeltaNet layers (https://arxiv.org/abs/2412.06464), as Qwen 3.5 has them.

Queries, keys and values pass a short convolution over time, and the gated delta rule takes the
place of attention. Of a prompt or a completion such a layer keeps the convolution's last inputs and
the rule's memory. Segment 0 stands for places where nothing is: they change neither.

Letters: C channels of the convolution (queries, keys and values), W its width, H value heads, Q the
size of keys, Y that of values, Z prompts of a row.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models.cache import Cache, LayerCache, PromptState
from rft_jax.models.delta_rule import Runs, Tokens, delta_rule, delta_step
from rft_jax.models.layer_kinds.base import (
    INNER_STD,
    LayerWeights,
    MakeWeight,
    MixRows,
    MixToken,
    Rows,
)
from rft_jax.models.layer_kinds.convolution import convolve, last_inputs, places_of
from rft_jax.models.layer_kinds.recurrent import PromptStates, StateCache, init_states
from rft_jax.models.linear import linear
from rft_jax.models.pages import Pool
from rft_jax.utils.types import PyTree

NORM_EPS = 1e-6  # of queries' and keys' lengths


class DeltaNet:
    """The Gated DeltaNet layers of a model; see `LayerKind`."""

    keys = queries = 0
    adaptable = (
        "delta_qkv_DC",
        "delta_gate_DHY",
        "delta_beta_DH",
        "delta_decay_DH",
        "delta_out_HYD",
    )

    def __init__(self, config: ModelConfig, kinds: tuple[str, ...]):
        """Takes the kind of each of these layers."""
        assert config.delta_net is not None, "the layers have sizes of their own"
        self.config, self.sizes, self.layers = config, config.delta_net, len(kinds)

    @property
    def products(self) -> int:
        """See `LayerKind`."""
        s = self.sizes
        values = s.num_value_heads * s.value_head_dim
        return self.config.hidden_size * (s.channels + 2 * values + 2 * s.num_value_heads)

    def weights(self, make: MakeWeight, outer_std: float) -> dict[str, nnx.Param]:
        """See `LayerKind`."""
        s, D = self.sizes, self.config.hidden_size
        heads, head = ("delta_heads",), (s.num_value_heads,)
        values, value = (*heads, "head_dim"), (s.num_value_heads, s.value_head_dim)
        return {
            "delta_qkv_DC": make(("embed", "channels"), (D, s.channels), INNER_STD),
            "delta_gate_DHY": make(("embed", *values), (D, *value), INNER_STD),
            "delta_beta_DH": make(("embed", *heads), (D, *head), INNER_STD),
            "delta_decay_DH": make(("embed", *heads), (D, *head), INNER_STD),
            "delta_out_HYD": make((*values, "embed"), (*value, D), outer_std),
            "delta_conv_CXW": make(
                ("channels", "taps", "taps"), (s.channels, 1, s.conv_width), s.conv_width**-0.5
            ),
            # Softplus of it is how much a token forgets, times the exponential of the rate: 2%.
            "delta_step_H": make(heads, head, 0.0, -4.0),
            "delta_rate_H": make(heads, head, 0.0),
            "delta_norm_Y": make(("head_dim",), (s.value_head_dim,), 0.0, 1.0),
        }

    def over_rows(self, rows: Rows) -> MixRows:
        """See `LayerKind`."""
        places = places_of(rows)

        def mix(
            layer: LayerWeights, h_BSTD: Array, index: Array | int, prompts: PyTree
        ) -> tuple[Array, PyTree]:
            states = self._zeros(len(h_BSTD), rows.dtype) if prompts is None else prompts.states
            inputs_BSTC = linear(h_BSTD, layer.weight("delta_qkv_DC"))
            conv_BSTC = convolve(
                inputs_BSTC, layer.vector("delta_conv_CXW")[:, 0].T, places, states["inputs"]
            )
            tokens = self._tokens(layer, h_BSTD, conv_BSTC)
            filled_BST1 = places.filled_BST[..., None]
            tokens = tokens._replace(
                log_decay_xH=jnp.where(filled_BST1, tokens.log_decay_xH, 0),
                beta_xH=jnp.where(filled_BST1, tokens.beta_xH, 0),
            )
            runs = Runs(places.run_BST, places.own_BSTZ, states["memory"])
            out_BSTHY, memory_BSHQY = delta_rule(tokens, runs)
            kept = {
                "inputs": last_inputs(inputs_BSTC, places, self.sizes.conv_width),
                "memory": memory_BSHQY,
            }
            return self._output(layer, h_BSTD, out_BSTHY), kept

        return mix

    def over_token(self, rows: Rows, cache: Cache) -> MixToken:
        """See `LayerKind`."""

        def mix(
            layer: LayerWeights,
            h_BS1D: Array,
            index: Array | int,
            prompts: PyTree,
            kept: LayerCache,
        ) -> tuple[Array, LayerCache]:
            assert isinstance(kept, StateCache)
            states = kept.layer(index)
            inputs_BS1C = linear(h_BS1D, layer.weight("delta_qkv_DC"))
            inputs_BSWC = jnp.concatenate([states["inputs"], inputs_BS1C], axis=2)
            weight_WC = layer.vector("delta_conv_CXW")[:, 0].T.astype(jnp.float32)
            conv_BS1C = (inputs_BSWC * weight_WC).sum(axis=2, keepdims=True)
            tokens = self._tokens(layer, h_BS1D, conv_BS1C)
            token = Tokens(*(x[:, :, 0] for x in tokens))
            out_BSHY, memory_BSHQY = delta_step(token, states["memory"])
            states = {"inputs": inputs_BSWC[:, :, 1:], "memory": memory_BSHQY}
            return self._output(layer, h_BS1D, out_BSHY[:, :, None]), kept.write(index, states)

        return mix

    def of_prompts(self, kept: PyTree) -> PromptStates:
        """See `LayerKind`."""
        return PromptStates(kept)  # of one row each, which is Z

    def empty(self, prompts: int, tokens: int, dtype: jnp.dtype) -> PromptStates:
        """See `LayerKind`."""
        zeros = self._zeros(prompts, dtype)
        return PromptStates(
            {k: jnp.zeros((self.layers, *x.shape), x.dtype) for k, x in zeros.items()}
        )

    def init_cache(
        self,
        prompts: PromptState,
        own_BGZ: Array,
        group: int,
        tokens: int,
        capacity: int,
        by_window: bool,
        pool: Pool | None,
    ) -> StateCache:
        """See `LayerKind`."""
        assert isinstance(prompts, PromptStates)
        return init_states(prompts, own_BGZ, group)

    def _zeros(self, prompts: int, dtype: jnp.dtype) -> dict[str, Array]:
        """A layer's states before any token, one for each prompt."""
        s = self.sizes
        memory = s.num_value_heads, s.key_head_dim, s.value_head_dim
        return {
            "inputs": jnp.zeros((prompts, 1, s.conv_width - 1, s.channels), dtype),
            "memory": jnp.zeros((prompts, 1, *memory)),
        }

    def _tokens(self, layer: LayerWeights, h_BSTD: Array, conv_BSTC: Array) -> Tokens:
        """Queries, keys, values and gates of the value heads, float32."""
        s = self.sizes
        keys = s.num_key_heads * s.key_head_dim
        q, k, v = jnp.split(jax.nn.silu(conv_BSTC), [keys, 2 * keys], axis=-1)

        def heads(x_BSTx: Array) -> Array:
            x = x_BSTx.reshape(*x_BSTx.shape[:3], s.num_key_heads, s.key_head_dim)
            x *= jax.lax.rsqrt((x * x).sum(axis=-1, keepdims=True) + NORM_EPS)
            return jnp.repeat(x, s.num_value_heads // s.num_key_heads, axis=3)

        decay = linear(h_BSTD, layer.weight("delta_decay_DH")).astype(jnp.float32)
        decay = jax.nn.softplus(decay + layer.vector("delta_step_H").astype(jnp.float32))
        rate_H = jnp.exp(layer.vector("delta_rate_H").astype(jnp.float32))
        beta = linear(h_BSTD, layer.weight("delta_beta_DH")).astype(jnp.float32)
        return Tokens(
            heads(q) * s.key_head_dim**-0.5,
            heads(k),
            v.reshape(*v.shape[:3], s.num_value_heads, s.value_head_dim),
            -rate_H * decay,
            jax.nn.sigmoid(beta),
        )

    def _output(self, layer: LayerWeights, h_BSTD: Array, out_BSTHY: Array) -> Array:
        """mixed_BSTD: normed, gated and projected."""
        gate_BSTHY = linear(h_BSTD, layer.weight("delta_gate_DHY")).astype(jnp.float32)
        square = jnp.mean(out_BSTHY * out_BSTHY, axis=-1, keepdims=True)
        out_BSTHY = out_BSTHY * jax.lax.rsqrt(square + self.config.norm_eps)
        out_BSTHY *= layer.vector("delta_norm_Y").astype(jnp.float32) * jax.nn.silu(gate_BSTHY)
        return linear(out_BSTHY.astype(h_BSTD.dtype), layer.weight("delta_out_HYD"), inputs=2)
