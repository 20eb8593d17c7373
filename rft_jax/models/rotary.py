"""Rotary positions (https://arxiv.org/abs/2104.09864) and the ways to stretch them."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.config import LinearRope, Llama3Rope, ProportionalRope, RopeScaling, YarnRope


class Rotation(NamedTuple):
    """Cosines and sines of the positions' angles, float32."""

    cos_BSTQ: Array  # [B, S, T, Q/2]
    sin_BSTQ: Array


def rotary(
    positions_BST: Array, theta: float | None, head_dim: int, scaling: RopeScaling | None
) -> Rotation:
    """The rotation of each position.

    Args:
        positions_BST: int32, counted from the prompt's first token.
        theta: Base of the wavelengths; None: nothing turns.
        head_dim: Q, as far as it turns.
        scaling: How wavelengths are stretched beyond those of pre-training.
    """
    if theta is None:
        still = jnp.zeros((*positions_BST.shape, head_dim // 2))
        return Rotation(still + 1, still)
    angle = positions_BST[..., None] * frequencies(theta, head_dim, scaling)
    factor = scaling.attention_factor if isinstance(scaling, YarnRope) else 1.0
    return Rotation(jnp.cos(angle) * factor, jnp.sin(angle) * factor)


def rotate(x_xQ: Array, cos: Array, sin: Array) -> Array:
    """Rotates the two halves of the last axis against each other, in float32.

    What lies beyond twice the number of cosines stays.
    """
    if (turned := 2 * cos.shape[-1]) < x_xQ.shape[-1]:
        rest = x_xQ[..., turned:]
        return jnp.concatenate([rotate(x_xQ[..., :turned], cos, sin), rest], axis=-1)
    a, b = jnp.split(x_xQ.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x_xQ.dtype)


def frequencies(theta: float, head_dim: int, scaling: RopeScaling | None) -> np.ndarray:
    """Radians per position of each pair of dimensions, float32 [Q/2]."""
    frequency = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    match scaling:
        case LinearRope():
            frequency = frequency / scaling.factor
        case Llama3Rope():
            frequency = _interpolate(frequency, scaling.factor, _llama3_kept(frequency, scaling))
        case YarnRope():
            kept = _yarn_kept(theta, head_dim, scaling)
            frequency = _interpolate(frequency, scaling.factor, kept)
        case ProportionalRope():
            turns = np.arange(len(frequency)) < int(scaling.turned * head_dim // 2)
            frequency = np.where(turns, frequency / scaling.factor, 0)
    return frequency.astype(np.float32)


def _interpolate(frequency: np.ndarray, factor: float, kept: np.ndarray) -> np.ndarray:
    """`kept` of each frequency, and the rest of it divided by the factor."""
    return frequency * (kept + (1 - kept) / factor)


def _llama3_kept(frequency: np.ndarray, scaling: Llama3Rope) -> np.ndarray:
    turns = scaling.original_positions * frequency / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    return np.clip((turns - low) / (high - low), 0, 1)


def _yarn_kept(theta: float, head_dim: int, scaling: YarnRope) -> np.ndarray:
    def pair(turns: float) -> float:
        """The pair of dimensions that makes so many turns over the original positions."""
        ratio = scaling.original_positions / (turns * 2 * math.pi)
        return head_dim * math.log(ratio) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return 1 - np.clip((np.arange(head_dim // 2) - low) / max(high - low, 1e-3), 0, 1)
