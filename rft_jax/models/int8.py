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

LIMIT = 127
# By name the axes over which a weight is summed; the others are its output channels.
INPUTS = {
    "embed_VD": "D",
    "head_VD": "D",
    "q_DKMQ": "D",
    "k_DKQ": "D",
    "v_DKQ": "D",
    "out_KMQD": "KMQ",
    "gate_DF": "D",
    "up_DF": "D",
    "down_FD": "F",
    "gate_EDF": "D",
    "up_EDF": "D",
    "down_EFD": "F",
}


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values", "scale"], meta_fields=[]
)
@dataclass(frozen=True)
class Int8:
    """values * scale, where the scale lacks the axes that share one."""

    values: Array  # int8
    scale: Array  # float32


def quantise(x: Array, axes: Sequence[int]) -> Int8:
    """Rounds to eight bits; all along `axes` share a scale."""
    x = x.astype(jnp.float32)
    scale = jnp.abs(x).max(axis=axes, keepdims=True) / LIMIT
    values = jnp.round(x / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return Int8(values, scale.squeeze(axes))


def dequantise(x: Array | Int8, dtype: jnp.dtype) -> Array:
    """Keys or values, whose last axis shares a scale, in the given type."""
    if not isinstance(x, Int8):
        return x
    return (x.values * x.scale[..., None]).astype(dtype)


def quantise_weights(params: Any) -> Any:
    """The tree with an `Int8` for each weight matrix."""
    return _over_matrices(params, quantise)


def quantised_axes(axes: Any) -> Any:
    """As `quantise_weights`, the tree of logical axis names."""
    return _over_matrices(
        axes,
        lambda names, inputs: Int8(
            names, tuple(name for at, name in enumerate(names) if at not in inputs)
        ),
    )


def _over_matrices(tree: Any, function: Any) -> Any:
    """Applies a function of a weight and the places of its input axes."""

    def change(name: str, leaf: Any, stacked: int) -> Any:
        if isinstance(leaf, dict):
            return {key: change(key, value, 1) for key, value in leaf.items()}
        if name not in INPUTS:
            return leaf
        letters = name.rpartition("_")[2]
        return function(leaf, tuple(letters.index(axis) + stacked for axis in INPUTS[name]))

    return {key: change(key, value, 0) for key, value in tree.items()}
