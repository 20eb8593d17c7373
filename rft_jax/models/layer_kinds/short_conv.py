"""Gated short convolutions, the layers of LFM2 without attention (https://arxiv.org/abs/2511.23404).

Two gates and an input come of each token; the input times the first gate passes a convolution over
time, and the second gate takes what comes of it. Of a prompt or a completion such a layer keeps the
convolution's last inputs.

Letters: C channels, X the two gates and the input, W the convolution's width, Z prompts of a row.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.config import ModelConfig
from rft_jax.models.cache import Cache, LayerCache, PromptState
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

PARTS = 3  # X


class ShortConv:
    """The short convolutions of a model; see `LayerKind`."""

    keys = queries = 0
    adaptable = "conv_in_DXC", "conv_out_CD"

    def __init__(self, config: ModelConfig, kinds: tuple[str, ...]):
        """Takes the kind of each of these layers."""
        self.config, self.layers = config, len(kinds)

    @property
    def products(self) -> int:
        """See `LayerKind`."""
        return (PARTS + 1) * self.config.hidden_size**2

    def weights(self, make: MakeWeight, outer_std: float) -> dict[str, nnx.Param]:
        """See `LayerKind`."""
        D, W = self.config.hidden_size, self.config.conv_width
        return {
            "conv_in_DXC": make(("embed", "gates", "channels"), (D, PARTS, D), INNER_STD),
            "conv_taps_CXW": make(("channels", "taps", "taps"), (D, 1, W), W**-0.5),
            "conv_out_CD": make(("channels", "embed"), (D, D), outer_std),
        }

    def over_rows(self, rows: Rows) -> MixRows:
        """See `LayerKind`."""
        places = places_of(rows)

        def mix(
            layer: LayerWeights, h_BSTD: Array, index: Array | int, prompts: PyTree
        ) -> tuple[Array, PyTree]:
            before = self._zeros(len(h_BSTD), rows.dtype) if prompts is None else prompts.states
            inputs_BSTC, gate_BSTC = _gated(layer, h_BSTD)
            conv_BSTC = convolve(inputs_BSTC, _taps(layer), places, before["inputs"])
            kept = {"inputs": last_inputs(inputs_BSTC, places, self.config.conv_width)}
            return _output(layer, gate_BSTC, conv_BSTC), kept

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
            inputs_BS1C, gate_BS1C = _gated(layer, h_BS1D)
            inputs_BSWC = jnp.concatenate([kept.layer(index)["inputs"], inputs_BS1C], axis=2)
            conv_BS1C = (inputs_BSWC * _taps(layer)).sum(axis=2, keepdims=True)
            now = kept.write(index, {"inputs": inputs_BSWC[:, :, 1:]})
            return _output(layer, gate_BS1C, conv_BS1C), now

        return mix

    def of_prompts(self, kept: PyTree) -> PromptStates:
        """See `LayerKind`."""
        return PromptStates(kept)  # of one row each, which is Z

    def empty(self, prompts: int, tokens: int, dtype: jnp.dtype) -> PromptStates:
        """See `LayerKind`."""
        zeros = self._zeros(prompts, dtype)["inputs"]
        return PromptStates({"inputs": jnp.zeros((self.layers, *zeros.shape), dtype)})

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
        shape = prompts, 1, self.config.conv_width - 1, self.config.hidden_size
        return {"inputs": jnp.zeros(shape, dtype)}


def _gated(layer: LayerWeights, h_BSTD: Array) -> tuple[Array, Array]:
    """What is convolved, and the gate of what comes of it; both [B, S, T, C]."""
    parts_BSTXC = linear(h_BSTD, layer.weight("conv_in_DXC"))
    before, after, inputs = (parts_BSTXC[..., x, :] for x in range(PARTS))
    return before * inputs, after


def _taps(layer: LayerWeights) -> Array:
    """float32 [W, C]."""
    return layer.vector("conv_taps_CXW")[:, 0].T.astype(jnp.float32)


def _output(layer: LayerWeights, gate_BSTC: Array, conv_BSTC: Array) -> Array:
    """mixed_BSTD: gated and projected."""
    return linear(gate_BSTC * conv_BSTC.astype(gate_BSTC.dtype), layer.weight("conv_out_CD"))
