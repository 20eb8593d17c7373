"""The decoder, its key/value caches and its weights as a plain tree."""

from rft_jax.models.cache import Cache, Prefix
from rft_jax.models.int8 import quantize_weights, quantized_axes
from rft_jax.models.lora import base, merge, split
from rft_jax.models.model import Model, Params, build_model, for_platform
from rft_jax.models.partition import check_partition
from rft_jax.models.weight_axes import over_matrices

__all__ = [
    "Cache",
    "Model",
    "Params",
    "Prefix",
    "base",
    "build_model",
    "check_partition",
    "for_platform",
    "merge",
    "over_matrices",
    "quantize_weights",
    "quantized_axes",
    "split",
]
