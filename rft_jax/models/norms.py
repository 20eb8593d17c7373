"""Root-mean-square norms (https://arxiv.org/abs/1910.07467), computed in float32."""

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import ModelConfig


def rms_norm(x_xD: Array, weight_D: Array, config: ModelConfig) -> Array:
    """The norm over the last axis, with the family's scale."""
    scale_D = weight_D.astype(jnp.float32) + (1 if config.norm_weight_offset else 0)
    return (_normed(x_xD, config) * scale_D).astype(x_xD.dtype)


def plain_rms_norm(x_xD: Array, config: ModelConfig) -> Array:
    """The norm over the last axis, without a scale."""
    return _normed(x_xD, config).astype(x_xD.dtype)


def _normed(x_xD: Array, config: ModelConfig) -> Array:
    x = x_xD.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps)
