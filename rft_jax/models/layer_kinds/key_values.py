"""Keys and values: what attention keeps of prompts and of completions.

Those of completions are a ring: tokens that are decoded together are written to the same index of
axis T, whatever their positions, and indices are used in turn. So a write is one slice, and a row
may begin a new completion at any time, by setting its length to 0. Unrolled, a sliding layer has no
more room than its window. Or they are in pages of a pool (`models.pages`) that rows share, where a
token's index is its position; unrolled, a sliding layer has its ring all the same.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.cache import Cache, join_axes, unstack
from rft_jax.models.int8 import Int8, quantize
from rft_jax.models.pages import Pages, Pool
from rft_jax.utils.types import PyTree

# Keys or values of all layers in one array; unrolled, a tuple with one for each layer.
Stack: TypeAlias = Array | Int8 | tuple[Array | Int8, ...]


class Stored(NamedTuple):
    """What a layer keeps of completions, as a token reads it: by row, or by page of a pool."""

    k_RKTQ: Array | Int8
    v_RKTQ: Array | Int8
    pages: Pages | None  # whose they are; None: a row each


class KeyValues(NamedTuple):
    """The prompts' keys and values; of lanes, those of several prompts side by side."""

    k_LBKPQ: Stack
    v_LBKPQ: Stack

    def of_rows(self, prompt_RZ: Array) -> "KeyValues":
        """See `PromptState`."""

        def gather(x_LBKPQ: Array) -> Array:
            x_LRZKPQ = x_LBKPQ[:, jnp.maximum(prompt_RZ, 0)]
            return join_axes(jnp.moveaxis(x_LRZKPQ, 2, 3), 3)

        return jax.tree.map(gather, self)

    def in_int8(self) -> "KeyValues":
        """See `PromptState`."""
        # From `Model.prefill`, which stacks the layers.
        k_LBKPQ, v_LBKPQ = cast(Array, self.k_LBKPQ), cast(Array, self.v_LBKPQ)
        return KeyValues(quantize(k_LBKPQ, (-1,)), quantize(v_LBKPQ, (-1,)))

    def unrolled(self) -> "KeyValues":
        """See `PromptState`."""
        return KeyValues(unstack(self.k_LBKPQ), unstack(self.v_LBKPQ))

    def layer(self, index: int) -> "KeyValues":
        """See `PromptState`."""
        if isinstance(self.k_LBKPQ, tuple) and isinstance(self.v_LBKPQ, tuple):
            return KeyValues(self.k_LBKPQ[index], self.v_LBKPQ[index])
        return jax.tree.map(lambda x_LBKPx: x_LBKPx[index], self)

    def room(self, lanes: int, prompts: int) -> "KeyValues":
        """See `PromptState`."""
        axis = self.batch_axis

        def zeros(x_LBKPx: Array) -> Array:
            _, K, P, *rest = x_LBKPx.shape[axis:]
            return jnp.zeros((*x_LBKPx.shape[:axis], lanes, K, prompts * P, *rest), x_LBKPx.dtype)

        return jax.tree.map(zeros, self)

    def place(self, lane: Array, index: Array, queue: "KeyValues", prompt: Array) -> "KeyValues":
        """See `PromptState`."""
        axis = self.batch_axis

        def copy(x_LBKPx: Array, x_LCKXx: Array) -> Array:
            one = jax.lax.dynamic_index_in_dim(x_LBKPx, prompt, axis)
            P = one.shape[axis + 2]
            at = (*(0,) * axis, lane, 0, index * P, 0)
            return jax.lax.dynamic_update_slice(x_LCKXx, one, at[: one.ndim])

        return jax.tree.map(copy, queue, self)

    @property
    def stacked(self) -> bool:
        """Whether all layers are in one array each."""
        return not isinstance(self.k_LBKPQ, tuple)

    @property
    def batch_axis(self) -> int:
        """The axis B in every leaf of keys and values."""
        return 1 if self.stacked else 0


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["k_LBGKTQ", "v_LBGKTQ"],
    meta_fields=["capacity", "paged"],
)
@dataclass(frozen=True)
class Stacked:
    """Keys and values of all layers in one array each, for a scan over the layers."""

    k_LBGKTQ: Array | Int8  # in pages [L, X, K, T, Q]
    v_LBGKTQ: Array | Int8
    capacity: int  # how much of T is in use
    paged: bool

    def write(self, layer: Array | int, cache: Cache, k_BGKQ: Array, v_BGKQ: Array) -> "Stacked":
        """Stores one token's keys and values of one layer, after those of the cache."""
        if self.paged:
            at = _place(cache)
            return dataclasses.replace(
                self,
                k_LBGKTQ=_store_in_pages(self.k_LBGKTQ, k_BGKQ, at, layer),
                v_LBGKTQ=_store_in_pages(self.v_LBGKTQ, v_BGKQ, at, layer),
            )
        start = (layer, 0, 0, 0, cache.written % self.capacity, 0)

        def store(all_LBGKTQ: Array | Int8, one_BGKQ: Array) -> Array | Int8:
            one_1BGK1Q = _like(all_LBGKTQ, one_BGKQ[None, :, :, :, None])
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice(whole, part, start[: part.ndim]),
                all_LBGKTQ,
                one_1BGK1Q,
            )

        return dataclasses.replace(
            self, k_LBGKTQ=store(self.k_LBGKTQ, k_BGKQ), v_LBGKTQ=store(self.v_LBGKTQ, v_BGKQ)
        )

    def layer(self, index: Array | int, cache: Cache) -> Stored:
        """Keys and values of one layer, each [R, K, capacity, Q], or of pages."""
        both = self.k_LBGKTQ, self.v_LBGKTQ
        if self.paged:
            k_XKTQ, v_XKTQ = jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), both
            )
            return Stored(k_XKTQ, v_XKTQ, cache.pages)

        def take(all_LBGKTx: Array) -> Array:
            _, B, G, K, _, *x = all_LBGKTx.shape
            start = (index, *[0] * (all_LBGKTx.ndim - 1))
            one_1BGKTx = jax.lax.dynamic_slice(all_LBGKTx, start, (1, B, G, K, self.capacity, *x))
            return join_axes(one_1BGKTx[0], 0)

        k_RKTQ, v_RKTQ = jax.tree.map(take, both)
        return Stored(k_RKTQ, v_RKTQ, None)

    def with_capacity(self, capacity: int) -> "Stacked":
        """See `LayerCache`; at least as many as before."""
        return self if self.paged else dataclasses.replace(self, capacity=capacity)

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> "Stacked":
        """The same: keys of the completion before stay there, hidden by a length of 0."""
        return self


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["k_RKxx", "v_RKTQ"],
    meta_fields=["most", "transposed", "paged"],
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
    most: tuple[int, ...]  # tokens that each layer needs: its window
    transposed: bool  # keys [R, K, Q, T], else [R, K, T, Q]
    paged: tuple[bool, ...]  # layers of which R are the pages of a pool

    def write(self, layer: int, cache: Cache, k_BGKQ: Array, v_BGKQ: Array) -> "Unrolled":
        """Stores one token's keys and values of one layer, after those of the cache."""
        index = cache.written % self.v_RKTQ[layer].shape[2]

        def store(layers: tuple, one_BGKQ: Array, axis: int) -> tuple:
            whole = layers[layer]
            if self.paged[layer]:
                stored = _store_in_pages(whole, one_BGKQ, _place(cache), axis=axis)
            else:
                one_RKQ = _like(whole, join_axes(one_BGKQ, 0))
                stored = jax.tree.map(
                    lambda whole, part: jax.lax.dynamic_update_index_in_dim(
                        whole, part, index, min(axis, part.ndim)
                    ),
                    whole,
                    one_RKQ,
                )
            return (*layers[:layer], stored, *layers[layer + 1 :])

        k_RKxx = store(self.k_RKxx, k_BGKQ, self._key_axis)
        return dataclasses.replace(self, k_RKxx=k_RKxx, v_RKTQ=store(self.v_RKTQ, v_BGKQ, 2))

    def layer(self, index: int, cache: Cache) -> Stored:
        """Keys and values of one layer, each [R, K, T, Q], or of pages."""
        k_RKxx = self.k_RKxx[index]
        k_RKTQ = jax.tree.map(_transposed, k_RKxx) if self.transposed else k_RKxx
        return Stored(k_RKTQ, self.v_RKTQ[index], cache.pages if self.paged[index] else None)

    def with_capacity(self, capacity: int) -> "Unrolled":
        """See `LayerCache`; at least as many as before.

        A copy, since XLA on a CPU would copy in each token what is sliced out of a larger array.
        """

        def padded(layers: tuple, axis: int) -> tuple:
            def pad(x: Array, more: int) -> Array:
                widths = [(0, 0)] * x.ndim
                widths[min(axis, x.ndim - 1)] = (0, more)
                return jnp.pad(x, widths)

            more = [
                0 if paged else min(capacity, most) - v_RKTQ.shape[2]
                for most, v_RKTQ, paged in zip(self.most, self.v_RKTQ, self.paged, strict=True)
            ]
            return tuple(
                jax.tree.map(functools.partial(pad, more=n), layer)
                for n, layer in zip(more, layers, strict=True)
            )

        k_RKxx = padded(self.k_RKxx, self._key_axis)
        return dataclasses.replace(self, k_RKxx=k_RKxx, v_RKTQ=padded(self.v_RKTQ, 2))

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> "Unrolled":
        """As for `Stacked`."""
        return self

    @property
    def _key_axis(self) -> int:
        """The axis T in the keys."""
        return 3 if self.transposed else 2


def init_cache(
    prompts: KeyValues,
    group: int,
    tokens: int,
    capacity: int,
    pool: Pool | None,
    *,
    most: tuple[int, ...],
    transposed: bool,
) -> Stacked | Unrolled:
    """An empty cache for `group` completions of up to `tokens` tokens at a time per prompt.

    It is stacked or unrolled as the prompts' keys are.

    Args:
        capacity: For the first tokens, later `with_capacity`.
        pool: What completions share, unrolled in layers that need all their tokens; None: nothing.
        most, transposed: As in `Unrolled`.
    """

    def zeros(leaf_LBKPx: Array, length: int, paged: bool) -> Array:
        axis = prompts.batch_axis
        B, heads, _, *rest = leaf_LBKPx.shape[axis:]
        rows: tuple[int, ...] = (B, group) if prompts.stacked else (B * group,)
        if paged and pool is not None:
            rows, length = (pool.pages + 1,), pool.page_tokens
        return jnp.zeros((*leaf_LBKPx.shape[:axis], *rows, heads, length, *rest), leaf_LBKPx.dtype)

    if prompts.stacked:
        paged = pool is not None
        k, v = jax.tree.map(functools.partial(zeros, length=tokens, paged=paged), prompts)
        return Stacked(k, v, capacity, paged)
    in_pages = tuple(pool is not None and n >= tokens for n in most)
    layers = [
        jax.tree.map(
            functools.partial(zeros, length=min(capacity, n), paged=paged), prompts.layer(index)
        )
        for index, (n, paged) in enumerate(zip(most, in_pages, strict=True))
    ]
    k = tuple(jax.tree.map(_transposed, k) if transposed else k for k, _ in layers)
    return Unrolled(k, tuple(v for _, v in layers), most, transposed, in_pages)


def _place(cache: Cache) -> tuple[Array, Array]:
    """Where in a pool the next token of each row belongs."""
    assert cache.pages is not None, "layers in pages, and none in the cache"
    return cache.pages.place(cache.length_BG.reshape(-1))


def _store_in_pages(
    whole: Array | Int8,
    one_BGKQ: Array,
    place: tuple[Array, Array],
    layer: Array | int | None = None,
    axis: int = 2,
) -> Array | Int8:
    """The pool [X, K, T, Q], or with layers before, with a token of each row in its place.

    Args:
        place: The page of each row, and the index in it.
        layer: Of stacked layers, which.
        axis: That of T; 3 where keys are transposed.
    """
    page_R, index_R = place

    def store(whole_x: Array, one_RKx: Array) -> Array:
        heads = (slice(None),) * (min(axis, one_RKx.ndim) - 1)
        at = (page_R, *heads, index_R)
        return whole_x.at[at if layer is None else (layer, *at)].set(one_RKx)

    return jax.tree.map(store, whole, _like(whole, join_axes(one_BGKQ, 0)))


def _like(stored: Array | Int8, new: Array) -> Array | Int8:
    """In eight bits where what is stored is."""
    return quantize(new, (-1,)) if isinstance(stored, Int8) else new


def _transposed(x_RKTQ: Array) -> Array:
    """Keys; their scales, which lack the last axis, stay as they are."""
    return jnp.swapaxes(x_RKTQ, 2, 3) if x_RKTQ.ndim == 4 else x_RKTQ
