"""The decoder, its key/value caches and its weights as a plain tree."""

from rft_jax.models.cache import Cache, Prefix, init_cache
from rft_jax.models.model import Model, Params, build_model, compute_dtype, count_parameters

__all__ = [
    "Cache",
    "Model",
    "Params",
    "Prefix",
    "build_model",
    "compute_dtype",
    "count_parameters",
    "init_cache",
]
