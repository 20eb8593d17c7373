"""Advantages: how much better a sample was than the others of its prompt.

Entered through `advantages`, a pure function of the graded batch, on the device. A stage's
`advantage` says what a reward is compared with, `scale_rewards` what the difference is divided by;
a function of your own takes the place of the first (see `learn.losses` for an example):

    @register_advantage("above_half")
    def above_half(reward, valid, config):
        return reward - 0.5
"""

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import PolicyLossConfig
from rft_jax.config.algorithms import ADVANTAGES

EPSILON = 1e-6  # Tunix and verl; added to what advantages are divided by

register_advantage = ADVANTAGES.register


def advantages(reward_BG: Array, valid_BG: Array, config: PolicyLossConfig) -> Array:
    """Advantages of B groups of G samples; constants with respect to everything.

    What `config.advantage` gives, divided according to `config.scale_rewards`. With m and s the
    mean and the standard deviation (ddof 1) of a group's valid rewards, the divisor is for

    - `group`: s + 1e-6; GRPO, https://arxiv.org/abs/2402.03300.
    - `batch`: S + 1e-6, S the standard deviation (ddof 1) of all valid rewards of the batch;
      https://arxiv.org/abs/2508.08221, TRL's `scale_rewards="batch"`.
    - `mean`: m + 1e-6, for rewards from 0; MaxRL, https://arxiv.org/abs/2602.02710.
    - `none`: 1; Dr. GRPO, https://arxiv.org/abs/2503.20783.

    Args:
        reward_BG: Float rewards; where `valid_BG` is False anything, NaN included.
        valid_BG: bool; the other samples enter no mean and no standard deviation.
        config: As above.

    Returns:
        advantage_BG, float32. Exactly 0 for invalid samples, and for all samples of a group with
        fewer than two valid ones or with equal rewards (whose mean may differ from them by a
        rounding error, which a division by s + 1e-6 would blow up).

    Raises:
        ValueError: For an unknown `scale_rewards`; `InputError`, one too, for an unknown advantage
            or one that returns another shape.
    """
    reward_BG = jnp.where(valid_BG, jax.lax.stop_gradient(reward_BG).astype(jnp.float32), 0)
    advantage_BG = ADVANTAGES.find(config.advantage)(reward_BG, valid_BG, config)
    ADVANTAGES.check_shape(config.advantage, jnp.shape(advantage_BG), reward_BG.shape)
    match config.scale_rewards:
        case "group":
            advantage_BG = advantage_BG / (_group_std(reward_BG, valid_BG) + EPSILON)
        case "batch":
            advantage_BG = advantage_BG / (_std(reward_BG, valid_BG) + EPSILON)
        case "mean":
            advantage_BG = advantage_BG / (_group_mean(reward_BG, valid_BG) + EPSILON)
        case "none":
            pass
        case _:
            raise ValueError(f"unknown scale_rewards {config.scale_rewards!r}")
    teaches_BG = valid_BG & unequal_rewards(reward_BG, valid_BG)[:, None]
    return jnp.where(teaches_BG, advantage_BG, 0).astype(jnp.float32)


@register_advantage("group_mean")
def group_mean(reward: Array, valid: Array, config: PolicyLossConfig) -> Array:
    """r - m: the reward minus the mean of its group, [B, G].

    Args:
        reward: float32[B, G]; 0 where `valid` is False.
        valid: bool[B, G].

    References:
        GRPO, https://arxiv.org/abs/2402.03300
    """
    del config
    return jnp.where(valid, reward - _group_mean(reward, valid), 0)


@register_advantage("leave_one_out")
def leave_one_out(reward: Array, valid: Array, config: PolicyLossConfig) -> Array:
    """r minus the mean of the other n - 1 of its group, which is n / (n - 1) * (r - m), [B, G].

    Args:
        reward: As for `group_mean`.
        valid: Likewise.

    References:
        RLOO, https://arxiv.org/abs/2402.14740, which sets `scale_rewards=none`.
    """
    count_B1 = valid.sum(axis=1, keepdims=True)
    return group_mean(reward, valid, config) * (count_B1 / jnp.maximum(count_B1 - 1, 1))


def unequal_rewards(reward_BG: Array, valid_BG: Array) -> Array:
    """bool[B]: which groups have valid samples of different rewards, and so advantages."""
    highest_B = jnp.where(valid_BG, reward_BG, -jnp.inf).max(axis=1)
    lowest_B = jnp.where(valid_BG, reward_BG, jnp.inf).min(axis=1)
    return highest_B > lowest_B


def _group_mean(reward_BG: Array, valid_BG: Array) -> Array:
    """The mean of each group's valid rewards, [B, 1]; 0 without any."""
    count_B1 = valid_BG.sum(axis=1, keepdims=True)
    return reward_BG.sum(axis=1, keepdims=True) / jnp.maximum(count_B1, 1)


def _group_std(reward_BG: Array, valid_BG: Array) -> Array:
    """Each group's standard deviation (ddof 1) of valid rewards, [B, 1]."""
    centered_BG = jnp.where(valid_BG, reward_BG - _group_mean(reward_BG, valid_BG), 0)
    others_B1 = jnp.maximum(valid_BG.sum(axis=1, keepdims=True) - 1, 1)
    return jnp.sqrt((centered_BG**2).sum(axis=1, keepdims=True) / others_B1)


def _std(x: Array, valid: Array) -> Array:
    """Standard deviation (ddof 1) of the valid elements, a scalar; 0 for fewer than two."""
    count = valid.sum()
    mean = jnp.where(valid, x, 0).sum() / jnp.maximum(count, 1)
    squares = jnp.where(valid, (x - mean) ** 2, 0).sum()
    return jnp.sqrt(squares / jnp.maximum(count - 1, 1))
