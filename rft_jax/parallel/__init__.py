"""Meshes and the tables that map logical array axes to mesh axes."""

from rft_jax.parallel.distributed import distributed_session
from rft_jax.parallel.hosts import (
    AsyncMax,
    enter_on_all_hosts,
    first_host_first,
    from_local,
    gather_objects,
    is_first,
    local_rows,
    raise_on_all_hosts,
    to_host,
)
from rft_jax.parallel.mesh import BATCH_AXES, AnyMesh, batch_parts, make_mesh
from rft_jax.parallel.rules import (
    LEARNER_RULES,
    ROLLOUT_RULES,
    Shardings,
    batch_sharding,
    constrain,
    in_any_part,
    replicated,
    shard_experts,
    shard_heads,
    shard_over_batch,
    shardings,
    tensor_parts,
)

__all__ = [
    "BATCH_AXES",
    "LEARNER_RULES",
    "ROLLOUT_RULES",
    "AnyMesh",
    "AsyncMax",
    "Shardings",
    "batch_parts",
    "batch_sharding",
    "constrain",
    "first_host_first",
    "from_local",
    "gather_objects",
    "in_any_part",
    "is_first",
    "distributed_session",
    "local_rows",
    "make_mesh",
    "shard_heads",
    "shard_over_batch",
    "shard_experts",
    "tensor_parts",
    "enter_on_all_hosts",
    "replicated",
    "shardings",
    "to_host",
    "raise_on_all_hosts",
]
