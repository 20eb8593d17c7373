"""Keys and values: of a prompt, shared by its group, and of the completions while they grow."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.int8 import Int8, quantise


class Prefix(NamedTuple):
    """What the samples of a group share: their prompt's keys and values in every layer."""

    k_LBKPQ: Array | Int8
    v_LBKPQ: Array | Int8
    # False at padding; X and Y are 1, or the rows and their tokens where it depends on them.
    mask_BXYP: Array
    place_P: Array  # int32, positions of the keys

    def of_rows(self, prompt_RZ: Array, prompt_RT: Array) -> "Prefix":
        """The prefix of R packed rows, each with the keys of up to Z prompts.

        Args:
            prompt_RZ: int32, the prompts of each row, all different; -1 for none.
            prompt_RT: int32, each token's prompt; -1 sees no key.
        """

        def gather(x_LBKPQ):
            x_LRZKPQ = x_LBKPQ[:, jnp.maximum(prompt_RZ, 0)]
            return _join(jnp.moveaxis(x_LRZKPQ, 2, 3), 3)

        mask_R1TX = self.seen(prompt_RZ, prompt_RT)[:, None]
        place_X = jnp.tile(self.place_P, prompt_RZ.shape[1])
        return Prefix(gather(self.k_LBKPQ), gather(self.v_LBKPQ), mask_R1TX, place_X)

    def seen(self, prompt_RZ: Array, prompt_RT: Array) -> Array:
        """bool[R, T, Z x P]: the keys of a row's prompts, side by side, that a token sees.

        Args:
            As for `of_rows`.
        """
        own_RTZ = (prompt_RT[:, :, None] == prompt_RZ[:, None]) & (prompt_RT >= 0)[:, :, None]
        mask_RZP = self.mask_BXYP[jnp.maximum(prompt_RZ, 0), 0, 0]
        return _join(own_RTZ[..., None] & mask_RZP[:, None], 2)

    def in_int8(self) -> "Prefix":
        """The same in eight bits; so is then the cache that is made for it."""
        k, v = quantise(self.k_LBKPQ, (-1,)), quantise(self.v_LBKPQ, (-1,))
        return self._replace(k_LBKPQ=k, v_LBKPQ=v)


class Cache(NamedTuple):
    """Keys and values of the completions; a loop carry that is updated in place.

    A ring: tokens that are decoded together are written to the same place, whatever their
    positions, and places are used in turn. So a write is one slice, and a row may begin a new
    completion at any time, by setting its length to 0.
    """

    k_LBGKTQ: Array | Int8
    v_LBGKTQ: Array | Int8
    written: Array  # int32, tokens of each row since the loop began
    length_BG: Array  # int32, those of the row's present completion

    @property
    def age_T(self) -> Array:
        """int32: how many tokens ago a place was written, 0 where the next one goes."""
        places = self.k_LBGKTQ.shape[4]
        return (self.written - jnp.arange(places)) % places

    def write(self, layer: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Cache":
        """Stores one token's keys and values of one layer; `advance` when all layers have."""
        start = (layer, 0, 0, 0, self.written % self.k_LBGKTQ.shape[4], 0)

        def store(all_LBGKTQ: Array | Int8, one_BGKQ: Array) -> Array | Int8:
            one_1BGK1Q = one_BGKQ[None, :, :, :, None]
            if isinstance(all_LBGKTQ, Int8):
                one_1BGK1Q = quantise(one_1BGK1Q, (-1,))
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice(whole, part, start[: part.ndim]),
                all_LBGKTQ,
                one_1BGK1Q,
            )

        k, v = store(self.k_LBGKTQ, k_BGKQ), store(self.v_LBGKTQ, v_BGKQ)
        return self._replace(k_LBGKTQ=k, v_LBGKTQ=v)

    def advance(self) -> "Cache":
        """The cache after a token in all layers."""
        return self._replace(written=self.written + 1, length_BG=self.length_BG + 1)

    def layer(self, index: Array) -> tuple[Array | Int8, Array | Int8]:
        """Keys and values of one layer, each [B, G, K, T, Q]."""
        return jax.tree.map(
            lambda whole: jax.lax.dynamic_index_in_dim(whole, index, keepdims=False),
            (self.k_LBGKTQ, self.v_LBGKTQ),
        )


def _join(x: Array, axis: int) -> Array:
    """The array with `axis` and the next one as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def init_cache(prefix: Prefix, group: int, tokens: int) -> Cache:
    """An empty cache for `group` completions of up to `tokens` tokens at a time per prompt."""

    def zeros(leaf_LBKPx: Array) -> Array:
        layers, prompts, heads, _, *rest = leaf_LBKPx.shape
        return jnp.zeros((layers, prompts, group, heads, tokens, *rest), leaf_LBKPx.dtype)

    k, v = jax.tree.map(zeros, (prefix.k_LBKPQ, prefix.v_LBKPQ))
    length_BG = jnp.zeros((prefix.k_LBKPQ.shape[1], group), jnp.int32)
    return Cache(k, v, jnp.zeros((), jnp.int32), length_BG)
