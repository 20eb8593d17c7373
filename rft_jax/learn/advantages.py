"""Advantages: how much better a sample was than the others of its prompt.

Entered through `advantages`, a pure function of the graded batch, on the device.
"""

import jax
import jax.numpy as jnp
from jax import Array

STD_EPSILON = 1e-6  # Tunix and verl; with ddof 1


def advantages(reward_BG: Array, valid_BG: Array, baseline: str) -> Array:
    """Advantages of B groups of G samples; constants with respect to everything.

    With m and s the mean and the standard deviation (ddof 1) of a group's n valid rewards r:

    - `group`: (r - m) / (s + 1e-6); GRPO, https://arxiv.org/abs/2402.03300.
    - `batch`: (r - m) / (S + 1e-6), S the standard deviation (ddof 1) of all valid rewards of the
      batch; https://arxiv.org/abs/2508.08221, TRL's `scale_rewards="batch"`.
    - `none`: r - m; Dr. GRPO, https://arxiv.org/abs/2503.20783.
    - `leave_one_out`: r minus the mean of the other n - 1, which is n / (n - 1) * (r - m); RLOO,
      https://arxiv.org/abs/2402.14740.

    Args:
        reward_BG: float rewards; where `valid_BG` is False anything, NaN included.
        valid_BG: bool; the other samples enter no mean and no standard deviation.
        baseline: As above.

    Returns:
        advantage_BG, float32. Exactly 0 for invalid samples, and for all samples of a group with
        fewer than two valid ones or with equal rewards (whose mean may differ from them by a
        rounding error, which a division by s + 1e-6 would blow up).

    Raises:
        ValueError: for an unknown baseline.
    """
    reward_BG = jnp.where(valid_BG, jax.lax.stop_gradient(reward_BG).astype(jnp.float32), 0)
    count_B1 = valid_BG.sum(axis=1, keepdims=True)
    mean_B1 = reward_BG.sum(axis=1, keepdims=True) / jnp.maximum(count_B1, 1)
    centred_BG = jnp.where(valid_BG, reward_BG - mean_B1, 0)
    others_B1 = jnp.maximum(count_B1 - 1, 1)
    match baseline:
        case "group":
            std_B1 = jnp.sqrt((centred_BG**2).sum(axis=1, keepdims=True) / others_B1)
            advantage_BG = centred_BG / (std_B1 + STD_EPSILON)
        case "batch":
            advantage_BG = centred_BG / (_std(reward_BG, valid_BG) + STD_EPSILON)
        case "none":
            advantage_BG = centred_BG
        case "leave_one_out":
            advantage_BG = centred_BG * (count_B1 / others_B1)
        case _:
            raise ValueError(f"unknown baseline {baseline!r}")
    return jnp.where(valid_BG & unequal_rewards(reward_BG, valid_BG)[:, None], advantage_BG, 0)


def unequal_rewards(reward_BG: Array, valid_BG: Array) -> Array:
    """bool[B]: which groups have valid samples of different rewards, and so advantages."""
    highest_B = jnp.where(valid_BG, reward_BG, -jnp.inf).max(axis=1)
    lowest_B = jnp.where(valid_BG, reward_BG, jnp.inf).min(axis=1)
    return highest_B > lowest_B


def _std(x: Array, valid: Array) -> Array:
    """Standard deviation (ddof 1) of the valid elements, a scalar; 0 for fewer than two."""
    count = valid.sum()
    mean = jnp.where(valid, x, 0).sum() / jnp.maximum(count, 1)
    squares = jnp.where(valid, (x - mean) ** 2, 0).sum()
    return jnp.sqrt(squares / jnp.maximum(count - 1, 1))
