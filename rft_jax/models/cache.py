"""Keys and values: of a prompt, shared by its group, and of the completions while they grow."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.int8 import Int8, quantize

Stack = Array | Int8 | tuple[Array | Int8, ...]  # of all layers; unrolled, a tuple of them


class Prefix(NamedTuple):
    """What the samples of a group share: their prompt's keys and values in every layer."""

    k_LBKPQ: Stack
    v_LBKPQ: Stack
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
        k, v = quantize(self.k_LBKPQ, (-1,)), quantize(self.v_LBKPQ, (-1,))
        return self._replace(k_LBKPQ=k, v_LBKPQ=v)

    def unrolled(self) -> "Prefix":
        """The same with the layers apart."""
        return self._replace(k_LBKPQ=unstack(self.k_LBKPQ), v_LBKPQ=unstack(self.v_LBKPQ))

    @property
    def stacked(self) -> bool:
        """Whether all layers are in one array each."""
        return not isinstance(self.k_LBKPQ, tuple)

    @property
    def batch_axis(self) -> int:
        """That of B, in every leaf of keys and values."""
        return 1 if self.stacked else 0


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["k_LBGKTQ", "v_LBGKTQ"], meta_fields=["places"]
)
@dataclass(frozen=True)
class Stacked:
    """Keys and values of all layers in one array each, for a scan over the layers."""

    k_LBGKTQ: Array | Int8
    v_LBGKTQ: Array | Int8
    places: int  # of T, that are in use

    def write(self, layer: Array, place: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Stacked":
        """Stores one token's keys and values of one layer."""
        start = (layer, 0, 0, 0, place, 0)

        def store(all_LBGKTQ: Array | Int8, one_BGKQ: Array) -> Array | Int8:
            one_1BGK1Q = _like(all_LBGKTQ, one_BGKQ[None, :, :, :, None])
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice(whole, part, start[: part.ndim]),
                all_LBGKTQ,
                one_1BGK1Q,
            )

        return Stacked(store(self.k_LBGKTQ, k_BGKQ), store(self.v_LBGKTQ, v_BGKQ), self.places)

    def layer(self, index: Array) -> tuple[Array | Int8, Array | Int8]:
        """Keys and values of one layer, each [R, K, places, Q]."""

        def take(all_LBGKTx: Array) -> Array:
            _, B, G, K, _, *x = all_LBGKTx.shape
            start = (index, *[0] * (all_LBGKTx.ndim - 1))
            one_1BGKTx = jax.lax.dynamic_slice(all_LBGKTx, start, (1, B, G, K, self.places, *x))
            return _join(one_1BGKTx[0], 0)

        return jax.tree.map(take, (self.k_LBGKTQ, self.v_LBGKTQ))

    def with_places(self, places: int) -> "Stacked":
        """The same with so many places, at least as many."""
        return dataclasses.replace(self, places=places)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["k_RKxx", "v_RKTQ"], meta_fields=["transposed"]
)
@dataclass(frozen=True)
class Unrolled:
    """Keys and values of each layer apart.

    XLA for CPUs and GPUs copies what is taken out of a stack; so the layers lie apart. On a CPU it
    also transposes the keys in products with few queries; so they lie transposed, but for a kernel
    that reads them as they come.
    """

    k_RKxx: tuple[Array | Int8, ...]
    v_RKTQ: tuple[Array | Int8, ...]
    transposed: bool  # keys [R, K, Q, T], else [R, K, T, Q]

    @property
    def places(self) -> int:
        """T."""
        return self.v_RKTQ[0].shape[2]

    def write(self, layer: int, place: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Unrolled":
        """Stores one token's keys and values of one layer."""

        def store(layers: tuple, one_BGKQ: Array, axis: int) -> tuple:
            one_RKQ = _like(layers[layer], _join(one_BGKQ, 0))
            stored = jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_index_in_dim(
                    whole, part, place, min(axis, part.ndim)
                ),
                layers[layer],
                one_RKQ,
            )
            return (*layers[:layer], stored, *layers[layer + 1 :])

        k_RKxx = store(self.k_RKxx, k_BGKQ, self._key_axis)
        return dataclasses.replace(self, k_RKxx=k_RKxx, v_RKTQ=store(self.v_RKTQ, v_BGKQ, 2))

    def layer(self, index: int) -> tuple[Array | Int8, Array | Int8]:
        """Keys and values of one layer, each [R, K, places, Q]."""
        k_RKxx = self.k_RKxx[index]
        k_RKTQ = jax.tree.map(_transposed, k_RKxx) if self.transposed else k_RKxx
        return k_RKTQ, self.v_RKTQ[index]

    def with_places(self, places: int) -> "Unrolled":
        """The same with so many places, at least as many: a copy, since XLA on a CPU would copy in
        each token what is sliced out of a larger array.
        """

        def padded(layers: tuple, axis: int) -> tuple:
            def pad(x: Array) -> Array:
                widths = [(0, 0)] * x.ndim
                widths[min(axis, x.ndim - 1)] = (0, places - self.places)
                return jnp.pad(x, widths)

            return jax.tree.map(pad, layers)

        k_RKxx = padded(self.k_RKxx, self._key_axis)
        return dataclasses.replace(self, k_RKxx=k_RKxx, v_RKTQ=padded(self.v_RKTQ, 2))

    @property
    def _key_axis(self) -> int:
        """That of T in the keys."""
        return 3 if self.transposed else 2


class Cache(NamedTuple):
    """Keys and values of the completions; a loop carry that is updated in place.

    A ring: tokens that are decoded together are written to the same place, whatever their
    positions, and places are used in turn. So a write is one slice, and a row may begin a new
    completion at any time, by setting its length to 0.
    """

    kv: Stacked | Unrolled
    written: Array  # int32, tokens of each row since the loop began
    length_BG: Array  # int32, those of the row's present completion

    @property
    def age_T(self) -> Array:
        """int32: how many tokens ago a place was written, 0 where the next one goes."""
        return (self.written - jnp.arange(self.kv.places)) % self.kv.places

    @property
    def in_int8(self) -> bool:
        """Whether keys and values are kept in eight bits."""
        return any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(self.kv))

    def with_places(self, places: int) -> "Cache":
        """The same with room for so many tokens, while none has been overwritten."""
        return self._replace(kv=self.kv.with_places(places))

    def write(self, layer: Array | int, k_BGKQ: Array, v_BGKQ: Array) -> "Cache":
        """Stores one token's keys and values of one layer; `advance` when all layers have."""
        place = self.written % self.kv.places
        return self._replace(kv=self.kv.write(layer, place, k_BGKQ, v_BGKQ))

    def advance(self) -> "Cache":
        """The cache after a token in all layers."""
        return self._replace(written=self.written + 1, length_BG=self.length_BG + 1)


def init_cache(
    prefix: Prefix,
    group: int,
    tokens: int,
    places: int | None = None,
    *,
    transposed: bool = False,
) -> Cache:
    """An empty cache for `group` completions of up to `tokens` tokens at a time per prompt.

    It is stacked or unrolled as the prefix is.

    Args:
        places: For the first tokens, later `with_places`; None: for all.
        transposed: As in `Unrolled`.
    """
    places = places or tokens
    prompts = prefix.mask_BXYP.shape[0]

    def zeros(leaf_LBKPx: Array) -> Array:
        heads, _, *rest = leaf_LBKPx.shape[prefix.batch_axis + 1 :]
        if prefix.stacked:
            shape = leaf_LBKPx.shape[0], prompts, group, heads, tokens, *rest
        else:
            shape = prompts * group, heads, places, *rest
        return jnp.zeros(shape, leaf_LBKPx.dtype)

    k, v = jax.tree.map(zeros, (prefix.k_LBKPQ, prefix.v_LBKPQ))
    if prefix.stacked:
        kv = Stacked(k, v, places)
    else:
        kv = Unrolled(jax.tree.map(_transposed, k) if transposed else k, v, transposed)
    return Cache(kv, jnp.zeros((), jnp.int32), jnp.zeros((prompts, group), jnp.int32))


def unstack(tree: Any) -> tuple[Any, ...]:
    """The layers of a tree of stacked arrays, each by itself."""
    leaves, structure = jax.tree.flatten(tree)
    return tuple(structure.unflatten(layer) for layer in zip(*leaves, strict=True))


def _like(stored: Array | Int8, new: Array) -> Array | Int8:
    """In eight bits where what is stored is."""
    return quantize(new, (-1,)) if isinstance(stored, Int8) else new


def _transposed(x_RKTQ: Array) -> Array:
    """Keys; their scales, which lack the last axis, stay as they are."""
    return jnp.swapaxes(x_RKTQ, 2, 3) if x_RKTQ.ndim == 4 else x_RKTQ


def _join(x: Array, axis: int) -> Array:
    """The array with `axis` and the next one as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
