"""What a linear layer multiplies by: a plain weight, or one with a low-rank change."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "a", "b"], meta_fields=["scale"]
)
@dataclass(frozen=True)
class Adapted:
    """A weight W that stays as it is, and a change of it, scale * A B, that is learned.

    LoRA (https://arxiv.org/abs/2106.09685). W has some input axes and then some output axes; A has
    the input axes and the rank R, B the rank and the output axes. All may be stacked over layers.
    """

    weight: Array
    a: Array
    b: Array
    scale: float


def linear(equation: str, x: Array, weight: Array | Adapted) -> Array:
    """`jnp.einsum(equation, x, weight)` in the type of x.

    Args:
        equation: Einsum's, with the axes of `x` and of `weight`; R is taken.
    """
    if not isinstance(weight, Adapted):
        return jnp.einsum(equation, x, weight.astype(x.dtype))
    terms, out_axes = equation.split("->")
    x_axes, weight_axes = terms.split(",")
    inputs = "".join(axis for axis in weight_axes if axis not in out_axes)
    outputs = "".join(axis for axis in weight_axes if axis in out_axes)
    rest = "".join(axis for axis in x_axes if axis not in inputs)
    low = jnp.einsum(f"{x_axes},{inputs}R->{rest}R", x, weight.a.astype(x.dtype))
    change = jnp.einsum(f"{rest}R,R{outputs}->{out_axes}", low, weight.b.astype(x.dtype))
    return jnp.einsum(equation, x, weight.weight.astype(x.dtype)) + weight.scale * change
