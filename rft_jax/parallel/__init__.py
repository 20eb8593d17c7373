"""Meshes and the tables that map logical array axes to mesh axes."""

from rft_jax.parallel.mesh import BATCH_AXES, batch_parts, check_batch, make_mesh
from rft_jax.parallel.rules import (
    LEARNER_RULES,
    ROLLOUT_RULES,
    Shardings,
    batch_sharding,
    constrain,
    replicated,
    shardings,
)

__all__ = [
    "BATCH_AXES",
    "LEARNER_RULES",
    "ROLLOUT_RULES",
    "Shardings",
    "batch_parts",
    "batch_sharding",
    "check_batch",
    "constrain",
    "make_mesh",
    "replicated",
    "shardings",
]
