"""Gradient accumulation: the batch in parts, one after the other, with the same result."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models import Params
from rft_jax.utils.types import PyTree


def accumulate_gradient(
    loss: Callable[[Params, PyTree], tuple[Array, PyTree]],
    params: Params,
    batch: PyTree,
    parts: int,
) -> tuple[Array, PyTree, Params]:
    """Loss, auxiliary output and gradient of a batch, `parts` slices at a time.

    Args:
        loss: (params, part of the batch) to a scalar, whose sum over the parts is the batch's loss
            (denominators belong to the whole batch), and a tree of arrays with the part's leading
            axis.
        params: The trainable weights.
        batch: Tree of arrays with leading axis B, a multiple of `parts`.
        parts: Number of slices. A slice takes every parts-th row, so that each device keeps its
            own rows.

    Returns:
        The loss, the auxiliary tree with leading axis B, and the gradient.
    """
    value_and_gradient = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        (value, aux), gradient = value_and_gradient(params, batch)
        return value, aux, gradient

    def step(total, part):
        (value, aux), gradient = value_and_gradient(params, part)
        return jax.tree.map(jnp.add, total, (value, gradient)), aux

    slices = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
    zeros = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (value, gradient), aux = jax.lax.scan(step, zeros, slices)
    return value, jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), aux), gradient
