"""Keys and values: of a prompt, shared by its group, and of the completions while they grow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Prefix(NamedTuple):
    """What the samples of a group share: their prompt's keys and values in every layer."""

    k_LBKPQ: Array
    v_LBKPQ: Array
    mask_BP: Array  # False at padding


class Cache(NamedTuple):
    """Keys and values of the completions; a loop carry that is updated in place."""

    k_LBGKTQ: Array
    v_LBGKTQ: Array
    length: Array  # int32, tokens written so far

    def write(self, layer: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Cache":
        """Stores one token's keys and values of one layer; `length` stays."""
        start = (layer, 0, 0, 0, self.length, 0)
        k = jax.lax.dynamic_update_slice(self.k_LBGKTQ, k_BGKQ[None, :, :, :, None], start)
        v = jax.lax.dynamic_update_slice(self.v_LBGKTQ, v_BGKQ[None, :, :, :, None], start)
        return self._replace(k_LBGKTQ=k, v_LBGKTQ=v)

    def layer(self, index: Array) -> tuple[Array, Array]:
        """Keys and values of one layer, each [B, G, K, T, Q]."""
        return (
            jax.lax.dynamic_index_in_dim(self.k_LBGKTQ, index, keepdims=False),
            jax.lax.dynamic_index_in_dim(self.v_LBGKTQ, index, keepdims=False),
        )


def init_cache(prefix: Prefix, group: int, tokens: int) -> Cache:
    """An empty cache for `group` completions of up to `tokens` tokens per prompt."""
    layers, prompts, heads, _, head_dim = prefix.k_LBKPQ.shape
    zeros = jnp.zeros((layers, prompts, group, heads, tokens, head_dim), prefix.k_LBKPQ.dtype)
    return Cache(zeros, zeros, jnp.zeros((), jnp.int32))
