"""Eight-bit weights and key/value caches for the rollout.

Symmetric, rounded to the nearest: a weight has a scale for each output channel, a key or value one
for each token and head (LLM.int8, https://arxiv.org/abs/2208.07339, without its outliers). What is
multiplied by it stays in the compute type.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models.weight_axes import over_matrices

LIMIT = 127


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=[]
)
@dataclass(frozen=True)
class Int8:
    """values * scale, where the scale lacks the axes that share one."""

    values: Array  # int8
    scale: Array  # float32

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the array which it stands for."""
        return self.values.shape


def quantize(x: Array, axes: Sequence[int]) -> Int8:
    """Rounds to eight bits; all along `axes` share a scale."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=axes, keepdims=True) / LIMIT
    values = jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return Int8(values, scale.squeeze(axes))


def dequantize(x: Array | Int8, dtype: jnp.dtype) -> Array:
    """Keys or values, whose last axis shares a scale, in the given type."""
    if not isinstance(x, Int8):
        return x
    return (x.values * x.scale[..., None]).astype(dtype)


def quantize_weights(params: Any) -> Any:
    """The tree with an `Int8` for each weight matrix."""
    return over_matrices(params, lambda weight, inputs, _: quantize(weight, inputs))


def quantized_axes(axes: Any) -> Any:
    """As `quantize_weights`, the tree of logical axis names."""
    return over_matrices(
        axes,
        lambda names, inputs, _: Int8(
            names, tuple(name for at, name in enumerate(names) if at not in inputs)
        ),
    )
