"""What a linear layer multiplies by: a plain weight, one with a low-rank change, or in few bits."""

import functools
import math
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.pallas.ops.tpu.megablox.gmm import tgmm

from rft_jax.models.int8 import Int8
from rft_jax.models.nf4 import Nf4, dequantize

PRODUCT = "product"  # by which a checkpoint's policy knows the results
TILE = 128  # rows and columns that a kernel's blocks are multiples of


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["weight", "a", "b"], meta_fields=["scale"]
)
@dataclass(frozen=True)
class Adapted:
    """A weight W that stays as it is, and a change of it, scale * A B, that is learned.

    LoRA (https://arxiv.org/abs/2106.09685). W has some input axes and then some output axes; A has
    the input axes and the rank R, B the rank and the output axes. All may be stacked over layers.
    """

    weight: Array | Nf4
    a: Array
    b: Array
    scale: float


Weight: TypeAlias = Array | Adapted | Int8 | Nf4
ExpertWeight: TypeAlias = Array | Int8 | Nf4


def linear(x_xD: Array, weight: Weight, inputs: int = 1) -> Array:
    """The product over the last axes of x and the first of the weight, in the type of x.

    Args:
        x_xD: [..., D].
        weight: [D, ...].
        inputs: How many axes D stands for.
    """
    return checkpoint_name(_linear(x_xD, weight, inputs), PRODUCT)


def _linear(x_xD: Array, weight: Weight, inputs: int) -> Array:
    if isinstance(weight, Int8):
        product = _product(x_xD, weight.values, inputs, jnp.float32)
        return (product * weight.scale).astype(x_xD.dtype)
    if isinstance(weight, Adapted):
        change = _product(_product(x_xD, weight.a, inputs), weight.b, 1)
        return _linear(x_xD, weight.weight, inputs) + weight.scale * change
    if isinstance(weight, Nf4):
        return _frozen_product(x_xD, weight, inputs)
    return _product(x_xD, weight, inputs)


def _product(x_xD: Array, weight_DY: Array, inputs: int, dtype: jnp.dtype | None = None) -> Array:
    """Both become matrices first: with several token axes the weight's gradient would contract over
    all of them, for which XLA on a CPU transposes the activations, at the product's own cost.
    """
    D, Y = weight_DY.shape[:inputs], weight_DY.shape[inputs:]
    tokens = x_xD.shape[: x_xD.ndim - inputs]
    weight = weight_DY.astype(x_xD.dtype).reshape(math.prod(D), -1)
    product = _matmul(x_xD.reshape(-1, math.prod(D)), weight, 0, dtype)
    return product.reshape(*tokens, *Y)


def _plain_matmul(x_ND: Array, weight: Array, axis: int, dtype: jnp.dtype | None) -> Array:
    """Products over D, the weight's `axis`, [N, Y]."""
    contracted = ((1,), (axis,)), ((), ())
    return jax.lax.dot_general(x_ND, weight, contracted, preferred_element_type=dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _frozen_product(x_xD: Array, weight_DY: Nf4, inputs: int) -> Array:
    """The weight has no gradient, and is made into numbers anew for that of x, not kept."""
    return _product(x_xD, _numbers(weight_DY, x_xD), inputs)


def _frozen_forward(x_xD, weight_DY, inputs):
    return _frozen_product(x_xD, weight_DY, inputs), weight_DY


def _frozen_backward(inputs, weight_DY, dout_xY):
    weight = _numbers(weight_DY, dout_xY)
    D, Y = weight.shape[:inputs], weight.shape[inputs:]
    dout_NY = dout_xY.reshape(-1, math.prod(Y))
    dx_ND = _plain_matmul(dout_NY, weight.reshape(math.prod(D), -1), 1, dout_xY.dtype)
    return dx_ND.reshape(*dout_xY.shape[: dout_xY.ndim - len(Y)], *D), None


_frozen_product.defvjp(_frozen_forward, _frozen_backward)


def _numbers(weight: Nf4, x: Array) -> Array:
    """The weight in the type of x, and not before x is there: XLA would move it out of the loop
    over tokens, and keep the numbers of all layers.
    """
    weight, x = jax.lax.optimization_barrier((weight, x))
    return dequantize(weight, x.dtype)


# With a gradient that is fast on a CPU.
_matmul = jax.custom_vjp(_plain_matmul, nondiff_argnums=(2, 3))


def _matmul_forward(x_ND, weight, axis, dtype):
    return _matmul(x_ND, weight, axis, dtype), (x_ND, weight)


def _matmul_backward(axis, _, kept, dout_NY):
    x_ND, weight = kept
    contracted = ((1,), (1 - axis,)), ((), ())
    dx_ND = jax.lax.dot_general(dout_NY, weight, contracted, preferred_element_type=x_ND.dtype)
    pair = (x_ND, dout_NY) if axis == 0 else (dout_NY, x_ND)
    return dx_ND, _over_rows(*pair, weight.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _over_rows(a_NX: Array, b_NY: Array, dtype: jnp.dtype) -> Array:
    """[X, Y]. XLA on a CPU copies the transposed first factor, which had better be the smaller."""

    def product(a: Array, b: Array) -> Array:
        contracted = ((0,), (0,)), ((), ())
        return jax.lax.dot_general(a, b, contracted, preferred_element_type=dtype)

    def exchanged(a: Array, b: Array) -> Array:
        return jax.lax.optimization_barrier(product(b, a)).T  # else XLA exchanges them again

    if a_NX.shape[1] <= b_NY.shape[1]:
        return product(a_NX, b_NY)
    return jax.lax.platform_dependent(a_NX, b_NY, cpu=exchanged, default=product)


def grouped_linear(x_XI: Array, weight_EIO: ExpertWeight, size_E: Array) -> Array:
    """Groups of rows, each times a matrix of its own, [X, O].

    Args:
        x_XI: Rows, sorted by group.
        weight_EIO: A matrix for each group.
        size_E: int32, the groups' numbers of rows.
    """
    if isinstance(weight_EIO, Nf4):
        return checkpoint_name(_frozen_grouped(x_XI, weight_EIO, size_E), PRODUCT)
    if not isinstance(weight_EIO, Int8):
        product_XO = _grouped_matmul(x_XI, weight_EIO.astype(x_XI.dtype), size_E)
        return checkpoint_name(product_XO, PRODUCT)
    out_XO = grouped_linear(x_XI, weight_EIO.values, size_E)
    groups = jnp.arange(len(size_E))
    group_X = jnp.repeat(groups, size_E, total_repeat_length=len(x_XI))
    return (out_XO * weight_EIO.scale[group_X]).astype(x_XI.dtype)


@jax.custom_vjp
def _grouped_matmul(x_XI: Array, weight_EIO: Array, size_E: Array) -> Array:
    """`ragged_dot`, whose gradient in the weights XLA for TPUs would compute of all rows for each
    group.
    """
    return jax.lax.ragged_dot(x_XI, weight_EIO, size_E)


def _grouped_matmul_forward(x_XI, weight_EIO, size_E):
    return _grouped_matmul(x_XI, weight_EIO, size_E), (x_XI, weight_EIO, size_E)


def _grouped_matmul_backward(kept, dout_XO):
    x_XI, weight_EIO, size_E = kept
    dx_XI = jax.lax.ragged_dot(dout_XO, weight_EIO.swapaxes(1, 2), size_E)
    dweight_EIO = jax.lax.platform_dependent(
        x_XI, dout_XO, size_E, tpu=over_groups_kernel, default=over_groups
    )
    return dx_XI, dweight_EIO, None


_grouped_matmul.defvjp(_grouped_matmul_forward, _grouped_matmul_backward)


@jax.custom_vjp
def _frozen_grouped(x_XI: Array, weight_EIO: Nf4, size_E: Array) -> Array:
    """As `_frozen_product`, for groups."""
    return jax.lax.ragged_dot(x_XI, _numbers(weight_EIO, x_XI), size_E)


def _frozen_grouped_forward(x_XI, weight_EIO, size_E):
    return _frozen_grouped(x_XI, weight_EIO, size_E), (weight_EIO, size_E)


def _frozen_grouped_backward(kept, dout_XO):
    weight_EIO, size_E = kept
    weight_EOI = _numbers(weight_EIO, dout_XO).swapaxes(1, 2)
    return jax.lax.ragged_dot(dout_XO, weight_EOI, size_E), None, None


_frozen_grouped.defvjp(_frozen_grouped_forward, _frozen_grouped_backward)


def over_groups(a_XI: Array, b_XO: Array, size_E: Array) -> Array:
    """The products of two factors over each group's rows, [E, I, O]."""
    contracted = ((0,), (0,)), ((), ())
    numbers = jax.lax.RaggedDotDimensionNumbers(contracted, [0], [])
    return jax.lax.ragged_dot_general(a_XI, b_XO, size_E, numbers)


def over_groups_kernel(
    a_XI: Array, b_XO: Array, size_E: Array, *, interpret: bool = False
) -> Array:
    """`over_groups` by the Pallas kernel for TPUs that comes with JAX (MegaBlocks,
    https://arxiv.org/abs/2211.15841).
    """
    padding = [(0, -len(a_XI) % TILE), (0, 0)]  # in no group
    a_XI, b_XO = jnp.pad(a_XI, padding), jnp.pad(b_XO, padding)
    rows = next(n for n in (4 * TILE, 2 * TILE, TILE) if len(a_XI) % n == 0)
    tiles = rows, 8 * TILE, 4 * TILE
    return tgmm(a_XI.T, b_XO, size_E, a_XI.dtype, tiles, interpret=interpret)


def embed(table_VD: Array | Int8, tokens: Array, dtype: jnp.dtype) -> Array:
    """Rows of an embedding, [..., D]."""
    if isinstance(table_VD, Int8):
        return (table_VD.values[tokens] * table_VD.scale[tokens][..., None]).astype(dtype)
    return table_VD[tokens].astype(dtype)


def unembed(hidden_xD: Array, table_VD: Array | Int8) -> Array:
    """Products with all rows of an embedding, float32 [..., V]."""
    if isinstance(table_VD, Int8):
        return unembed(hidden_xD, table_VD.values) * table_VD.scale
    hidden_ND = hidden_xD.reshape(-1, hidden_xD.shape[-1])
    logits_NV = _matmul(hidden_ND, table_VD.astype(hidden_xD.dtype), 1, jnp.float32)
    return logits_NV.reshape(*hidden_xD.shape[:-1], -1)
