"""The decoder, its key/value caches and its weights as a plain tree."""

from rft_jax.models.cache import Cache, Prefix, init_cache
from rft_jax.models.model import Model, Params, build_model, compute_dtype, count_parameters
from rft_jax.models.partition import check_partition

__all__ = [
    "Cache",
    "Model",
    "Params",
    "Prefix",
    "build_model",
    "check_partition",
    "compute_dtype",
    "count_parameters",
    "init_cache",
]
