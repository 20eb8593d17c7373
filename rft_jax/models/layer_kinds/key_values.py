"""Keys and values: what attention keeps of prompts and of completions.

Those of completions are a ring: tokens that are decoded together are written to the same index of
axis T, whatever their positions, and indices are used in turn. So a write is one slice, and a row
may begin a new completion at any time, by setting its length to 0. Unrolled, a sliding layer has no
more room than its window.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, cast

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.cache import join_axes, unstack
from rft_jax.models.int8 import Int8, quantize
from rft_jax.utils.types import PyTree

# Keys or values of all layers in one array; unrolled, a tuple with one for each layer.
Stack: TypeAlias = Array | Int8 | tuple[Array | Int8, ...]


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
    jax.tree_util.register_dataclass, data_fields=["k_LBGKTQ", "v_LBGKTQ"], meta_fields=["capacity"]
)
@dataclass(frozen=True)
class Stacked:
    """Keys and values of all layers in one array each, for a scan over the layers."""

    k_LBGKTQ: Array | Int8
    v_LBGKTQ: Array | Int8
    capacity: int  # how much of T is in use

    def write(self, layer: Array | int, written: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Stacked":
        """Stores one token's keys and values of one layer, after so many tokens."""
        start = (layer, 0, 0, 0, written % self.capacity, 0)

        def store(all_LBGKTQ: Array | Int8, one_BGKQ: Array) -> Array | Int8:
            one_1BGK1Q = _like(all_LBGKTQ, one_BGKQ[None, :, :, :, None])
            return jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_slice(whole, part, start[: part.ndim]),
                all_LBGKTQ,
                one_1BGK1Q,
            )

        return Stacked(store(self.k_LBGKTQ, k_BGKQ), store(self.v_LBGKTQ, v_BGKQ), self.capacity)

    def layer(self, index: Array | int) -> tuple[Array | Int8, Array | Int8]:
        """Keys and values of one layer, each [R, K, capacity, Q]."""

        def take(all_LBGKTx: Array) -> Array:
            _, B, G, K, _, *x = all_LBGKTx.shape
            start = (index, *[0] * (all_LBGKTx.ndim - 1))
            one_1BGKTx = jax.lax.dynamic_slice(all_LBGKTx, start, (1, B, G, K, self.capacity, *x))
            return join_axes(one_1BGKTx[0], 0)

        return jax.tree.map(take, (self.k_LBGKTQ, self.v_LBGKTQ))

    def with_capacity(self, capacity: int) -> "Stacked":
        """See `LayerCache`; at least as many as before."""
        return dataclasses.replace(self, capacity=capacity)

    def begin(self, begins_BG: Array, prompts: PyTree, own_BGZ: Array) -> "Stacked":
        """The same: keys of the completion before stay there, hidden by a length of 0."""
        return self


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["k_RKxx", "v_RKTQ"],
    meta_fields=["most", "transposed"],
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

    def write(self, layer: int, written: Array, k_BGKQ: Array, v_BGKQ: Array) -> "Unrolled":
        """Stores one token's keys and values of one layer, after so many tokens."""
        index = written % self.v_RKTQ[layer].shape[2]

        def store(layers: tuple, one_BGKQ: Array, axis: int) -> tuple:
            one_RKQ = _like(layers[layer], join_axes(one_BGKQ, 0))
            stored = jax.tree.map(
                lambda whole, part: jax.lax.dynamic_update_index_in_dim(
                    whole, part, index, min(axis, part.ndim)
                ),
                layers[layer],
                one_RKQ,
            )
            return (*layers[:layer], stored, *layers[layer + 1 :])

        k_RKxx = store(self.k_RKxx, k_BGKQ, self._key_axis)
        return dataclasses.replace(self, k_RKxx=k_RKxx, v_RKTQ=store(self.v_RKTQ, v_BGKQ, 2))

    def layer(self, index: int) -> tuple[Array | Int8, Array | Int8]:
        """Keys and values of one layer, each [R, K, T, Q]."""
        k_RKxx = self.k_RKxx[index]
        k_RKTQ = jax.tree.map(_transposed, k_RKxx) if self.transposed else k_RKxx
        return k_RKTQ, self.v_RKTQ[index]

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
                min(capacity, most) - v_RKTQ.shape[2]
                for most, v_RKTQ in zip(self.most, self.v_RKTQ, strict=True)
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
    *,
    most: tuple[int, ...],
    transposed: bool,
) -> Stacked | Unrolled:
    """An empty cache for `group` completions of up to `tokens` tokens at a time per prompt.

    It is stacked or unrolled as the prompts' keys are.

    Args:
        capacity: For the first tokens, later `with_capacity`.
        most, transposed: As in `Unrolled`.
    """

    def zeros(leaf_LBKPx: Array, length: int) -> Array:
        B, heads, _, *rest = leaf_LBKPx.shape[prompts.batch_axis :]
        if prompts.stacked:
            shape = leaf_LBKPx.shape[0], B, group, heads, length, *rest
        else:
            shape = B * group, heads, length, *rest
        return jnp.zeros(shape, leaf_LBKPx.dtype)

    if prompts.stacked:
        k, v = jax.tree.map(functools.partial(zeros, length=tokens), prompts)
        return Stacked(k, v, capacity)
    layers = [
        jax.tree.map(functools.partial(zeros, length=min(capacity, n)), prompts.layer(index))
        for index, n in enumerate(most)
    ]
    k = tuple(jax.tree.map(_transposed, k) if transposed else k for k, _ in layers)
    return Unrolled(k, tuple(v for _, v in layers), most, transposed)


def _like(stored: Array | Int8, new: Array) -> Array | Int8:
    """In eight bits where what is stored is."""
    return quantize(new, (-1,)) if isinstance(stored, Int8) else new


def _transposed(x_RKTQ: Array) -> Array:
    """Keys; their scales, which lack the last axis, stay as they are."""
    return jnp.swapaxes(x_RKTQ, 2, 3) if x_RKTQ.ndim == 4 else x_RKTQ
