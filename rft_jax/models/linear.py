"""What a linear layer multiplies by: a plain weight, or one with a low-rank change."""

import functools
import math
from dataclasses import dataclass

import jax
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


def linear(x_xD: Array, weight: Array | Adapted, inputs: int = 1) -> Array:
    """The product over the last axes of x and the first of the weight, in the type of x.

    Args:
        x_xD: [..., D].
        weight: [D, ...].
        inputs: How many axes D stands for.
    """
    if not isinstance(weight, Adapted):
        return _product(x_xD, weight, inputs)
    change = _product(_product(x_xD, weight.a, inputs), weight.b, 1)
    return _product(x_xD, weight.weight, inputs) + weight.scale * change


def _product(x_xD: Array, weight_DY: Array, inputs: int) -> Array:
    """Both become matrices first: with several token axes the weight's gradient would contract over
    all of them, for which XLA on a CPU transposes the activations, at the product's own cost.
    """
    D, Y = weight_DY.shape[:inputs], weight_DY.shape[inputs:]
    tokens = x_xD.shape[: x_xD.ndim - inputs]
    weight = weight_DY.astype(x_xD.dtype).reshape(math.prod(D), -1)
    return (x_xD.reshape(-1, math.prod(D)) @ weight).reshape(*tokens, *Y)
