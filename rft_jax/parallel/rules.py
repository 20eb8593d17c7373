"""Two tables say how a weight's logical axes lie on the mesh, for the learner and for the rollout.

The learner shards weights and optimizer over fsdp and tensor. The rollout gathers fsdp once per
step, so that no collective over it recurs per token; tensor parallelism stays.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rft_jax.parallel.mesh import BATCH_AXES

Rules = Mapping[str, str | None]
Shardings = Any  # a pytree of NamedSharding

LEARNER_RULES: Rules = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "num_kv_heads": "tensor",
    "head_group": None,
    "head_dim": None,
    "mlp": "tensor",
    "experts": None,
    "rank": None,  # of an adapter
}

ROLLOUT_RULES: Rules = {**LEARNER_RULES, "embed": None}


def shardings(mesh: Mesh, rules: Rules, axes: Any) -> Shardings:
    """Shardings of a tree of weights.

    Args:
        axes: The weights' tree with a tuple of logical axis names, one a dimension, for each leaf.
    """
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(rules, axes))


def _specs(rules: Rules, axes: Any) -> Any:
    return jax.tree.map(
        lambda names: PartitionSpec(*(rules[name] for name in names)),
        axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over the mesh's batch axes, all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def shard_over_batch(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function of (weights, *batch) on each part of the batch apart.

    Parts meet only in `in_any_part`. Weights must be whole over the mesh's batch axes; over the
    others they stay split, and a loop with collectives over those must make as many trips in every
    part.
    """

    def mapped(weights: Any, *batch: Any) -> Any:
        rows = PartitionSpec(BATCH_AXES)
        return jax.shard_map(
            function,
            mesh=mesh,
            in_specs=(PartitionSpec(), *(rows for _ in batch)),
            out_specs=rows,
            axis_names=set(BATCH_AXES),
            check_vma=False,
        )(weights, *batch)

    return mapped


def shard_experts(
    function: Callable[[Any, Array], Array], axes: Any, mesh: Mesh | None
) -> Callable[[Any, Array], Array]:
    """The function of (weights, batch) on each part of the batch and each share of the weights
    apart; the results of the shares are summed.

    Args:
        axes: The weights' logical axis names, as for `shardings`; `embed` is whole.
        mesh: None: that of `shard_over_batch`, within which the batch is this part's already; or none
            at all.
    """
    if mesh is None and "tensor" not in jax.sharding.get_abstract_mesh().axis_names:
        return function
    rows = () if mesh is None else (BATCH_AXES,)
    split = jax.shard_map(
        lambda weights, batch: function(weights, batch)[None],
        mesh=mesh,
        in_specs=(_specs(ROLLOUT_RULES, axes), PartitionSpec(*rows)),
        out_specs=PartitionSpec("tensor", *rows),
        axis_names={"tensor"} if mesh is None else set(mesh.axis_names),
        check_vma=False,
    )

    # Not jnp.sum, which sums, and sends, bfloat16 in float32.
    return lambda weights, batch: jax.lax.reduce_sum(split(weights, batch), (0,))


def shard_heads(function: Callable[..., Any], mesh: Mesh | None) -> Callable[..., Any]:
    """The attention of (q_RKMTQ, k_RKUQ, v_RKUQ, mask_RTU) on each part of R and of K apart.

    For a kernel, which the compiler does not split. The result's arrays begin with R and K.

    Args:
        mesh: None: that of `shard_over_batch`, within which R is this part's already; or none at all.
    """
    if mesh is None and "tensor" not in jax.sharding.get_abstract_mesh().axis_names:
        return function
    rows = None if mesh is None else BATCH_AXES
    heads = PartitionSpec(rows, "tensor")
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(heads, heads, heads, PartitionSpec(rows)),
        out_specs=heads,
        axis_names={"tensor"} if mesh is None else set(mesh.axis_names),
        check_vma=False,
    )


def in_any_part(flag: Array) -> Array:
    """Within `shard_over_batch`: whether the flag is set in any part."""
    return jax.lax.pmax(flag, BATCH_AXES)


def constrain(tree: Any, sharding: Shardings) -> Any:
    """`with_sharding_constraint` over a tree, with one sharding for all or a tree of them."""
    return jax.lax.with_sharding_constraint(tree, sharding)
