"""Attention to the keys and values of an earlier layer, as in Gemma 4 and in
YOCO (https://arxiv.org/abs/2405.05254): such layers have queries alone, and keep nothing.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from rft_jax.models.cache import Cache, LayerCache, PromptState
from rft_jax.models.layer_kinds.attention import Attention
from rft_jax.models.layer_kinds.base import LayerWeights, MakeWeight, MixRows, MixToken, Rows
from rft_jax.models.layer_kinds.key_values import Stacked, Unrolled
from rft_jax.models.pages import Pool
from rft_jax.utils.types import PyTree

OF_KEYS = ("k_", "v_")  # how weights begin that such a layer has not


class SharedAttention(Attention):
    """The layers of a stack that read the keys of another stack's last layer; see `LayerKind`."""

    @property
    def keys(self) -> int:
        """See `LayerKind`."""
        return 0

    @property
    def adaptable(self) -> tuple[str, ...]:
        """See `LayerKind`."""
        return ("q_DKMQ", "out_KMQD")

    @property
    def products(self) -> int:
        """See `LayerKind`."""
        return (3 if self.config.attention_gate else 2) * self.config.hidden_size * self.queries

    def weights(self, make: MakeWeight, outer_std: float) -> dict[str, nnx.Param]:
        """See `LayerKind`."""
        weights = super().weights(make, outer_std)
        return {name: w for name, w in weights.items() if not name.startswith(OF_KEYS)}

    def over_rows(self, rows: Rows) -> MixRows:
        """See `LayerKind`."""
        attend, source = self._over_rows(rows), rows.source
        assert source is not None, "layers that share come after their source"

        def mix(
            layer: LayerWeights, h_BSTD: Array, index: Array | int, prompts: PyTree
        ) -> tuple[Array, PyTree]:
            return attend(layer, h_BSTD, index, source.kept, source.prompts), ()

        return mix

    def over_token(self, rows: Rows, cache: Cache) -> MixToken:
        """See `LayerKind`."""
        attend, source = self._over_token(rows, cache), rows.source
        assert source is not None, "layers that share come after their source"

        def mix(
            layer: LayerWeights,
            h_BS1D: Array,
            index: Array | int,
            prompts: PyTree,
            kept: LayerCache,
        ) -> tuple[Array, LayerCache]:
            assert isinstance(kept, Stacked | Unrolled)
            stored = kept.layer(source.index, cache)
            return attend(layer, h_BS1D, index, stored, source.prompts), kept

        return mix

    def of_prompts(self, kept: PyTree) -> "Nothing":
        """See `LayerKind`."""
        return Nothing()

    def empty(self, prompts: int, tokens: int, dtype: jnp.dtype) -> "Nothing":
        """See `LayerKind`."""
        return Nothing()

    def init_cache(
        self,
        prompts: PromptState,
        own_BGZ: Array,
        group: int,
        tokens: int,
        capacity: int,
        by_window: bool,
        pool: Pool | None,
    ) -> "Nothing":
        """See `LayerKind`."""
        return Nothing()


@functools.partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=[])
@dataclass(frozen=True)
class Nothing:
    """What layers that share keep of prompts, and what of completions."""

    def of_rows(self, prompt_RZ: Array) -> "Nothing":
        """See `PromptState`."""
        return self

    def in_int8(self) -> "Nothing":
        """See `PromptState`."""
        return self

    def unrolled(self) -> "Nothing":
        """See `PromptState`."""
        return self

    def layer(self, index: int) -> "Nothing":
        """See `PromptState`."""
        return self

    def room(self, lanes: int, prompts: int) -> "Nothing":
        """See `PromptState`."""
        return self

    def place(self, lane: Array, index: Array, queue: "Nothing", prompt: Array) -> "Nothing":
        """See `PromptState`."""
        return self

    def with_capacity(self, capacity: int) -> "Nothing":
        """See `LayerCache`."""
        return self

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> "Nothing":
        """See `LayerCache`."""
        return self
