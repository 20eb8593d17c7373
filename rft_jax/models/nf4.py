"""Four-bit weights for a frozen base: NF4, two values a byte, a float32 scale for each block.

QLoRA (https://arxiv.org/abs/2305.14314), without its double quantization of the scales. A block is
64 inputs of one output channel, its scale their largest magnitude; each value is one of sixteen
levels, quantiles of the normal distribution. Bytes and scales are those of bitsandbytes where 64
divides the last axis of the inputs. Tables of the vocabulary stay as they are, as there.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.models.weight_axes import over_matrices
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import PyTree

BLOCK = 64  # QLoRA's
LEAST_BLOCK = 4  # below, scales would take as much as the values
BLOCKS = "_blocks"  # what is added to an axis' logical name, of scales
LEVELS = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
BOUNDS = (LEVELS[1:] + LEVELS[:-1]) / 2
TINY = np.finfo(np.float32).tiny  # the scale of a block of zeros is 0, and is not divided by


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=["axis"]
)
@dataclass(frozen=True)
class Nf4:
    """A weight in four bits.

    Attributes:
        values: uint8, half as long along `axis`: of two neighbors the first in the high bits.
        scale: float32, with one number for each block along `axis`.
        axis: The axis of the blocks, counted from the end, so that it holds for one layer as well.
    """

    values: Array
    scale: Array
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array which it stands for."""
        sizes = list(self.values.shape)
        sizes[self.axis] *= 2
        return tuple(sizes)


Kept: TypeAlias = Array | Nf4  # a weight of a frozen base


def quantize(x: Array, axis: int) -> Nf4:
    """Rounds to the nearest of the sixteen levels times the block's scale.

    Args:
        axis: The axis of the blocks, counted from the end.

    Raises:
        InputError: No block divides the axis.
    """
    size = x.shape[axis]
    block = next((b for b in _powers_of_two() if size % b == 0), None)
    if block is None:
        raise InputError(
            f"lora.base_dtype: nf4 needs weights whose inputs come in blocks of {LEAST_BLOCK} to "
            f"{BLOCK}, which {size} of them do not; use bfloat16"
        )
    before, after = x.shape[:axis], x.shape[axis:][1:]
    x = x.astype(jnp.float32).reshape(*before, size // block, block, *after)
    at = x.ndim + axis  # of the values within a block
    scale = jnp.abs(x).max(axis=at, keepdims=True)
    scaled = jnp.clip(x * (1 / jnp.maximum(scale, TINY)), -1, 1)
    level = sum((scaled > bound).astype(jnp.uint8) for bound in BOUNDS)
    pairs = jnp.asarray(level).reshape(*before, size // 2, 2, *after)
    high, low = (jax.lax.index_in_dim(pairs, half, at, keepdims=False) for half in (0, 1))
    return Nf4((high << 4) | low, scale.squeeze(at), axis)


def _powers_of_two() -> list[int]:
    """Sizes of blocks, the best first."""
    return [BLOCK >> n for n in range(BLOCK.bit_length()) if BLOCK >> n >= LEAST_BLOCK]


def dequantize(weight: Kept, dtype: jnp.dtype) -> Array:
    """The weight as an array of the given type; one that is no `Nf4` is cast."""
    if not isinstance(weight, Nf4):
        return weight.astype(dtype)
    shape, axis = weight.shape, weight.axis
    before, after = shape[:axis], shape[axis:][1:]
    halves = jnp.stack([weight.values >> 4, weight.values & 15], axis=len(before) + 1)
    blocks = weight.scale.shape[axis]
    levels = _levels(halves.reshape(*before, blocks, shape[axis] // blocks, *after))
    scale = jnp.expand_dims(weight.scale, len(before) + 1)
    return (levels * scale).reshape(shape).astype(dtype)


def _levels(index: Array) -> Array:
    """The level of each index, float32, chosen bit by bit: TPUs look up in tables slowly."""
    found = [jnp.float32(level) for level in LEVELS]
    for bit in range(4):
        is_set = (index >> bit) & 1 == 1
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [jnp.where(is_set, odd, even) for even, odd in pairs]
    return found[0]


def is_nf4(node: object) -> bool:
    """For trees in which such a weight is a leaf."""
    return isinstance(node, Nf4)


def quantize_base(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """The tree with an `Nf4` for each matrix but tables of the vocabulary, the rest cast."""
    return over_matrices(
        params,
        lambda weight, inputs, _: quantize(weight, inputs[-1] - weight.ndim),
        lambda other: other.astype(dtype),
        tables=False,
    )


def packed_axes(axes: PyTree) -> PyTree:
    """As `quantize_base`, the tree of logical axis names."""

    def packed(names: tuple[str, ...], inputs: Sequence[int], _: Sequence[int]) -> Nf4:
        at = inputs[-1]
        blocks = (*names[:at], names[at] + BLOCKS, *names[at + 1 :])
        # A tree of names has them where that of weights has arrays.
        return Nf4(cast(Array, names), cast(Array, blocks), at - len(names))

    return over_matrices(axes, packed, tables=False)
