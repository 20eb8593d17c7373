"""Meshes and the tables that map logical array axes to mesh axes."""

from rft_jax.parallel.distributed import joined
from rft_jax.parallel.hosts import (
    LateMaximum,
    first_alone,
    from_local,
    gather_objects,
    is_first,
    local_rows,
    open_on_all,
    to_host,
    together,
)
from rft_jax.parallel.mesh import BATCH_AXES, batch_parts, check_batch, check_stage, make_mesh
from rft_jax.parallel.rules import (
    LEARNER_RULES,
    ROLLOUT_RULES,
    Shardings,
    batch_sharding,
    constrain,
    in_any_part,
    on_each_head,
    on_each_part,
    on_each_share,
    replicated,
    shardings,
)

__all__ = [
    "BATCH_AXES",
    "LEARNER_RULES",
    "ROLLOUT_RULES",
    "LateMaximum",
    "Shardings",
    "batch_parts",
    "batch_sharding",
    "check_batch",
    "check_stage",
    "constrain",
    "first_alone",
    "from_local",
    "gather_objects",
    "in_any_part",
    "is_first",
    "joined",
    "local_rows",
    "make_mesh",
    "on_each_head",
    "on_each_part",
    "on_each_share",
    "open_on_all",
    "replicated",
    "shardings",
    "to_host",
    "together",
]
