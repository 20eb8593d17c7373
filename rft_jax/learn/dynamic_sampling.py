"""Dynamic sampling: prompts are sampled until a batch of them has something to teach.

A group whose rewards are equal has no advantage and so no gradient. DAPO
(https://arxiv.org/abs/2503.14476) passes over such groups and samples more prompts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Sharding

from rft_jax.parallel import constrain
from rft_jax.utils.types import PyTree

_UNEQUAL, _EQUAL, _EMPTY = range(3)  # the order in which groups are kept


class Found(NamedTuple):
    """B groups: those of unequal rewards in the order of their prompts, then others."""

    groups: PyTree  # tree of arrays with leading axis B
    rounds: Array  # int32: so many times B prompts were sampled
    consumed: Array  # int32, prompts up to the last that is needed
    sums: PyTree


class _Kept(NamedTuple):
    groups: PyTree
    rank_B: Array  # one of the above
    position_B: Array  # int32, of the prompt in the order of the data


def sample_groups(
    sample: Callable[[Array], tuple[PyTree, Array, PyTree]],
    batch_size: int,
    rounds: int,
    row_sharding: Sharding,
) -> Found:
    """Samples until B groups have unequal rewards, or as many rounds as allowed are over.

    Groups of equal rewards, whose advantage is 0, fill what is left of the batch then.

    Args:
        sample: From the round, int32 from 0, to the groups of the next B prompts (tree of arrays
            with leading axis B), whether each has unequal rewards, bool[B], and a tree of sums.
        batch_size: B.
        rounds: The most.
        row_sharding: How the leading axis lies on the mesh.

    Returns:
        The groups; `sums` are added up over the rounds.
    """

    def of_round(index: Array) -> tuple[_Kept, PyTree]:
        groups, unequal_B, sums = sample(index)
        rank_B = jnp.where(unequal_B, _UNEQUAL, _EQUAL)
        return _Kept(groups, rank_B, index * batch_size + jnp.arange(batch_size)), sums

    def unfinished(loop: tuple[Array, _Kept, PyTree]) -> Array:
        index, kept, _ = loop
        return (index < rounds) & (kept.rank_B != _UNEQUAL).any()

    def step(loop: tuple[Array, _Kept, PyTree]) -> tuple[Array, _Kept, PyTree]:
        index, kept, sums = loop
        new, new_sums = of_round(index)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), kept, new)
        order_B = jnp.argsort(both.rank_B, stable=True)[:batch_size]
        kept = constrain(jax.tree.map(lambda x: x[order_B], both), row_sharding)
        return index + 1, kept, jax.tree.map(jnp.add, sums, new_sums)

    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of_round, jnp.int32(0))
    )
    empty = zeros[0]._replace(rank_B=jnp.full(batch_size, _EMPTY))
    index, kept, sums = jax.lax.while_loop(unfinished, step, (jnp.int32(0), empty, zeros[1]))
    full = (kept.rank_B == _UNEQUAL).all()
    return Found(
        groups=kept.groups,
        rounds=index,
        consumed=jnp.where(full, kept.position_B[-1] + 1, index * batch_size),
        sums=sums,
    )
