"""Two tables say how a weight's logical axes lie on the mesh, for the learner and for the rollout.

The learner shards weights and optimizer over fsdp and tensor. The rollout gathers fsdp once per
step, so that no collective over it recurs per token; tensor parallelism stays.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import jax
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from rft_jax.parallel.mesh import BATCH_AXES, AnyMesh
from rft_jax.utils.types import PyTree

Rules: TypeAlias = Mapping[str, str | None]
Shardings: TypeAlias = PyTree  # of NamedSharding
R = TypeVar("R")

_LEARNER: Rules = {
    "layers": None,
    "vocab": "tensor",
    "embed": "fsdp",
    "num_kv_heads": "tensor",
    "head_group": None,
    "head_dim": None,
    "mlp": "tensor",
    "experts": None,
    "shared_mlp": "tensor",  # of the expert for all tokens
    "rank": None,  # of an adapter
    "delta_heads": "tensor",
    "channels": None,  # of a convolution over time
    "gates": None,  # beside its inputs
    "taps": None,
    "per_layer": None,  # numbers of a token for each layer
    "per_layer_table": "fsdp",  # those for all layers, in a table
    "single": None,
}

_ROLLOUT: Rules = {**_LEARNER, "embed": None, "per_layer_table": None}


def _with_blocks(rules: Rules) -> Rules:
    """Scales of weights in four bits have a number for each block of an axis; they lie as it."""
    return {**rules, **{f"{name}_blocks": axis for name, axis in rules.items()}}


LEARNER_RULES, ROLLOUT_RULES = _with_blocks(_LEARNER), _with_blocks(_ROLLOUT)


def shardings(mesh: AnyMesh, rules: Rules, axes: PyTree) -> Shardings:
    """Shardings of a tree of weights.

    Args:
        axes: The weights' tree with a tuple of logical axis names, one a dimension, for each leaf.
    """
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _specs(rules, axes))


def _specs(rules: Rules, axes: PyTree) -> PyTree:
    return jax.tree.map(
        lambda names: PartitionSpec(*(rules[name] for name in names)),
        axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def batch_sharding(mesh: AnyMesh) -> NamedSharding:
    """The first axis over the mesh's batch axes, all else whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: AnyMesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def shard_over_batch(function: Callable[..., R], mesh: AnyMesh) -> Callable[..., R]:
    """The function of (weights, *batch) on each part of the batch apart.

    Parts meet only in `in_any_part`. Weights must be whole over the mesh's batch axes; over the
    others they stay split, and a loop with collectives over those must make as many trips in every
    part.
    """

    def mapped(weights: PyTree, *batch: PyTree) -> R:
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
    function: Callable[[PyTree, Array], Array], axes: PyTree, mesh: AnyMesh | None
) -> Callable[[PyTree, Array], Array]:
    """The function of (weights, batch) on each part of the batch and of the weights apart;
    the results of the parts of the weights are summed.

    Args:
        axes: The weights' logical axis names, as for `shardings`; `embed` is whole.
        mesh: None within `shard_over_batch`, whose mesh it then is and where the batch is one
            part's already; or without any mesh.
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


def tensor_parts(mesh: AnyMesh | None) -> int:
    """How many parts `shard_experts` makes of the weights.

    Args:
        mesh: As there.
    """
    shape = (jax.sharding.get_abstract_mesh() if mesh is None else mesh).shape
    return shape.get("tensor", 1)


def shard_heads(function: Callable[..., R], mesh: AnyMesh | None) -> Callable[..., R]:
    """The attention of (q_RKMTQ, k_RKUQ, v_RKUQ, mask_RTU) on each part of R and of K apart.

    For a kernel, which the compiler does not split. The result's arrays begin with R and K.

    Args:
        mesh: None within `shard_over_batch`, whose mesh it then is and where R is one part's
            already; or without any mesh.
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


def constrain(tree: PyTree, sharding: Shardings) -> PyTree:
    """`with_sharding_constraint` over a tree, with one sharding for all or a tree of them."""
    return jax.lax.with_sharding_constraint(tree, sharding)
