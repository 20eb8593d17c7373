"""Advantages: how much better a sample was than the others of its prompt.

Entered through `advantages`, a pure function of the graded batch, on the device. A stage's
`reward_parts` says which rewards are compared, `advantage` with what, `scale_rewards` what the
difference is divided by; `whiten_advantages` comes last. A function of your own takes the place of
`advantage` (see `learn.losses` for an example):

    @register_advantage("above_half")
    def above_half(reward, valid, config):
        return reward - 0.5
"""

import functools
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import PolicyLossSettings
from rft_jax.config.algorithms import ADVANTAGES

EPSILON = 1e-6  # Tunix and verl; added to what advantages are divided by

register_advantage = ADVANTAGES.register


def advantages(
    reward_BG: Array,
    valid_BG: Array,
    config: PolicyLossSettings,
    parts_BG: Sequence[Array] = (),
    tokens_BG: Array | None = None,
) -> Array:
    """Advantages of B groups of G samples; constants with respect to everything.

    The sum, over the rewards that are compared, of what `config.advantage` gives, divided according
    to `config.scale_rewards`; whitened, if that is asked for. With m and s the mean and the
    standard deviation (ddof 1) of a group's valid rewards, the divisor is for

    - `group`: s + 1e-6; GRPO, https://arxiv.org/abs/2402.03300.
    - `batch`: S + 1e-6, S the standard deviation (ddof 1) of all valid rewards of the batch;
      https://arxiv.org/abs/2508.08221, TRL's `scale_rewards="batch"`.
    - `mean`: m + 1e-6, for rewards from 0; MaxRL, https://arxiv.org/abs/2602.02710.
    - `none`: 1; Dr. GRPO, https://arxiv.org/abs/2503.20783.

    With `reward_parts=separate` each part of a `multi` is a reward of its own, so that answers with
    the same sum of parts differ: GDPO, https://arxiv.org/abs/2601.05242.

    Args:
        reward_BG: Float rewards; where `valid_BG` is False anything, NaN included.
        valid_BG: bool; the other samples enter no mean and no standard deviation.
        config: As above.
        parts_BG: The scores that the rewards were made of, each as `reward_BG`.
        tokens_BG: int32, the policy's tokens in each sample, for `whiten_advantages`; None: as many
            in each.

    Returns:
        advantage_BG, float32. Exactly 0 for invalid samples, and for all samples of a group with
        fewer than two valid ones or with equal rewards (whose mean may differ from them by a
        rounding error, which a division by s + 1e-6 would blow up).

    Raises:
        ValueError: For an unknown `scale_rewards`; `InputError`, one too, for an unknown advantage
            or one that returns another shape.
    """
    rewards = [
        jnp.where(valid_BG, jax.lax.stop_gradient(reward_BG).astype(jnp.float32), 0)
        for reward_BG in _compared(reward_BG, config, parts_BG)
    ]
    advantage_BG = functools.reduce(
        operator.add, [_scaled_advantage(reward_BG, valid_BG, config) for reward_BG in rewards]
    )
    teaches_BG = valid_BG & teaching_groups(reward_BG, valid_BG, config, parts_BG)[:, None]
    if config.whiten_advantages:
        counts_BG = jnp.ones_like(valid_BG, jnp.int32) if tokens_BG is None else tokens_BG
        centered_BG = jnp.where(teaches_BG, advantage_BG, 0)
        advantage_BG = whiten(centered_BG, jnp.where(valid_BG, counts_BG, 0))
    return jnp.where(teaches_BG, advantage_BG, 0).astype(jnp.float32)


def teaching_groups(
    reward_BG: Array,
    valid_BG: Array,
    config: PolicyLossSettings,
    parts_BG: Sequence[Array] = (),
) -> Array:
    """bool[B]: which groups have unequal rewards, of those that are compared, and so advantages."""
    return functools.reduce(
        operator.or_,
        [unequal_rewards(r_BG, valid_BG) for r_BG in _compared(reward_BG, config, parts_BG)],
    )


def whiten(advantage_BG: Array, tokens_BG: Array) -> Array:
    """(A - mean) / sqrt(variance + 1e-8), of A over the tokens of the batch, [B, G].

    Each token has its sample's advantage, so that a sample counts by its length; the variance has
    the number of tokens less 1 in its denominator.

    Args:
        advantage_BG: float32.
        tokens_BG: int32, the policy's tokens in each sample; 0 for one that does not count.

    References:
        REINFORCE++, https://arxiv.org/abs/2501.03262; in the form of verl's `masked_whiten`.
    """
    count = tokens_BG.sum()
    mean = (tokens_BG * advantage_BG).sum() / jnp.maximum(count, 1)
    squares = (tokens_BG * (advantage_BG - mean) ** 2).sum()
    return (advantage_BG - mean) * jax.lax.rsqrt(squares / jnp.maximum(count - 1, 1) + 1e-8)


@register_advantage("group_mean")
def group_mean(reward: Array, valid: Array, config: PolicyLossSettings) -> Array:
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
def leave_one_out(reward: Array, valid: Array, config: PolicyLossSettings) -> Array:
    """r minus the mean of the other n - 1 of its group, which is n / (n - 1) * (r - m), [B, G].

    Args:
        reward: As for `group_mean`.
        valid: Likewise.

    References:
        RLOO, https://arxiv.org/abs/2402.14740, which sets `scale_rewards=none`.
    """
    count_B1 = valid.sum(axis=1, keepdims=True)
    return group_mean(reward, valid, config) * (count_B1 / jnp.maximum(count_B1 - 1, 1))


@register_advantage("max_at_k")
def max_at_k(reward: Array, valid: Array, config: PolicyLossSettings) -> Array:
    """What a sample adds to the best of k, [B, G]; with rewards of 0 and 1, to pass@k.

    The mean, over all choices of k samples of the group with this one among them, of the highest
    reward, minus the same over all choices of k among the others. The first term times k / n gives
    the unbiased gradient of the expected best of k; the second, which does not depend on the
    sample, takes variance from it, and is 1 - C(n - 1 - c, k) / C(n - 1, k) where c of n - 1 others
    are right. With k = 1 it is `leave_one_out`. Zero for groups of at most k valid samples.

    A reward is the highest of the choice where the other k - 1 are among those below it. Equal
    rewards are put in the order of their samples, which changes no maximum.

    Args:
        reward: As for `group_mean`; may be anything between, such as partial credit.
        valid: Likewise.

    References:
        max@k, https://arxiv.org/abs/2510.23393; the baseline, https://arxiv.org/abs/2505.15201.
    """
    k, G = config.best_of, reward.shape[1]
    order_G = jnp.arange(G)
    earlier_GG = order_G[:, None] > order_G  # [i, j]: j comes before i
    value_BG = jnp.where(valid, reward, jnp.inf)
    before_BGG = value_BG[:, None] < value_BG[:, :, None]
    before_BGG |= (value_BG[:, None] == value_BG[:, :, None]) & earlier_GG
    before_BGG &= valid[:, None]
    rank_BG = before_BGG.sum(axis=-1)  # valid samples below

    # [b, i, j] from here on: the choices in which j is the highest. i is one of those below j where
    # j comes after i, and may be among the k - 1 others.
    below_BGG = rank_BG[:, None] - before_BGG.swapaxes(1, 2)
    is_self_GG = order_G[:, None] == order_G
    with_other_BGG = jnp.where(before_BGG.swapaxes(1, 2), _choose(G, k - 2)[below_BGG], 0)
    with_BGG = jnp.where(is_self_GG, _choose(G, k - 1)[rank_BG][:, None], with_other_BGG)
    without_BGG = jnp.where(is_self_GG, 0, _choose(G, k - 1)[below_BGG])

    others_B1 = jnp.maximum(valid.sum(axis=1, keepdims=True) - 1, 0)
    reward_B1G = jnp.where(valid, reward, 0)[:, None]
    best_with_BG = (with_BGG * reward_B1G).sum(-1) / jnp.maximum(_choose(G, k - 1)[others_B1], 1)
    best_without_BG = (without_BGG * reward_B1G).sum(-1) / jnp.maximum(_choose(G, k)[others_B1], 1)
    return jnp.where(valid & (others_B1 >= k), best_with_BG - best_without_BG, 0)


def _choose(most: int, k: int) -> Array:
    """Binomial coefficients C(n, k) for n = 0 .. most, float32; 0 for a negative k."""
    return jnp.asarray([math.comb(n, k) if k >= 0 else 0 for n in range(most + 1)], jnp.float32)


def _compared(
    reward_BG: Array, config: PolicyLossSettings, parts_BG: Sequence[Array]
) -> Sequence[Array]:
    """The rewards of which each has an advantage."""
    return parts_BG if config.reward_parts == "separate" and parts_BG else (reward_BG,)


def _scaled_advantage(reward_BG: Array, valid_BG: Array, config: PolicyLossSettings) -> Array:
    """The advantage for one reward, which is 0 where it is not valid."""
    advantage_BG = ADVANTAGES.find(config.advantage)(reward_BG, valid_BG, config)
    ADVANTAGES.check_shape(config.advantage, jnp.shape(advantage_BG), reward_BG.shape)
    match config.scale_rewards:
        case "group":
            return advantage_BG / (_group_std(reward_BG, valid_BG) + EPSILON)
        case "batch":
            return advantage_BG / (_std(reward_BG, valid_BG) + EPSILON)
        case "mean":
            return advantage_BG / (_group_mean(reward_BG, valid_BG) + EPSILON)
        case "none":
            return advantage_BG
        case _:
            raise ValueError(f"unknown scale_rewards {config.scale_rewards!r}")


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
