"""Policy losses per token, importance weights, KL estimators and how tokens are averaged.

    result = POLICY_LOSSES[config.loss](new, old, advantage, mask, config)
    loss_tokens = result.loss * IMPORTANCE_WEIGHTS[config.importance](old, roll, mask, config)
    loss_tokens += config.kl_coefficient * KL_ESTIMATORS[config.kl_estimator](new, ref, mask)
    loss = aggregate(loss_tokens, mask, config.aggregation, denominator(mask, config.aggregation))

Everywhere: `new` [..., T] are the log-probabilities (nats) that the gradient flows through, `old`
those at the start of the step, `roll` the sampler's, `ref` the reference policy's; `mask` [..., T]
is bool, True for the policy's own tokens of valid samples; `advantage` [...] is one number a
sequence. Leading axes are arbitrary ([B, G] in the update). Where `mask` is False anything may
stand, infinities and NaN included: it reaches neither a loss nor a gradient.

Log-ratios are clamped to [-20, 20], as in verl, so that exp() stays finite; beyond, the gradient
is zero. Values and gradients are those of the independent implementations recorded in
tests/data_files.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import PolicyLossConfig

MAX_LOG_RATIO = 20.0


class PolicyLoss(NamedTuple):
    """A policy loss and which tokens its clips silenced, all [..., T].

    The loss counts only where the mask is True; the indicators are False elsewhere. A clipped
    token carries no gradient, except under CISPO, where only its weight is bounded.
    """

    loss: Array  # float32
    clipped_high: Array  # bool; ratio above the range
    clipped_low: Array  # bool; ratio below the range
    clipped_dual: Array  # bool; negative advantage, ratio above the dual clip


def ppo_clip(
    new: Array,
    old: Array,
    advantage: Array,
    mask: Array,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate with an asymmetric range and an optional dual clip.

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A); for A < 0 at most -dual_clip A.

    Args:
        clip_low, clip_high: Offsets of the range from 1.
        dual_clip: Above 1; None for none.

    References:
        PPO, https://arxiv.org/abs/1707.06347; the asymmetric range, DAPO,
        https://arxiv.org/abs/2503.14476; the dual clip, https://arxiv.org/abs/1912.09729.
    """
    ratio = jnp.exp(_log_ratio(new, old, mask))
    return _clipped_surrogate(ratio, advantage, mask, clip_low, clip_high, dual_clip)


def gspo(
    new: Array,
    old: Array,
    advantage: Array,
    mask: Array,
    *,
    clip_low: float,
    clip_high: float,
) -> PolicyLoss:
    """Group sequence policy optimization: one ratio a sequence, clipped as a whole.

    The ratio is the geometric mean of the tokens' ratios. It is written per token (GSPO-token,
    section 4.3 of the paper), with the same gradient, so that a token's importance weight weighs
    that token's gradient. The paper averages with `sequence_mean`; its range is narrow, 3e-4 and
    4e-4, as the ratio of a sequence strays far less from 1 than that of a token.

    References:
        https://arxiv.org/abs/2507.18071
    """
    log_ratio = _log_ratio(new, old, mask)
    length = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    mean = jax.lax.stop_gradient(log_ratio.sum(axis=-1, keepdims=True) / length)
    ratio = jnp.exp(mean + log_ratio - jax.lax.stop_gradient(log_ratio))
    return _clipped_surrogate(ratio, advantage, mask, clip_low, clip_high, None)


def cispo(
    new: Array,
    old: Array,
    advantage: Array,
    mask: Array,
    *,
    ratio_high: float,
    ratio_low: float | None = None,
) -> PolicyLoss:
    """CISPO: REINFORCE weighted by a clipped, constant ratio; no token loses its gradient.

    -stop_gradient(clip(ratio, ratio_low, ratio_high)) A new.

    Args:
        ratio_high: The greatest weight itself, not an offset from 1.
        ratio_low: The least weight; None for none, as in the paper.

    References:
        MiniMax-M1, https://arxiv.org/abs/2506.13585
    """
    ratio = jax.lax.stop_gradient(jnp.exp(_log_ratio(new, old, mask)))
    low = 0.0 if ratio_low is None else ratio_low
    loss = -jnp.clip(ratio, low, ratio_high) * advantage[..., None] * jnp.where(mask, new, 0)
    return PolicyLoss(
        loss=loss,
        clipped_high=mask & (ratio > ratio_high),
        clipped_low=mask & (ratio < low),
        clipped_dual=jnp.zeros_like(mask),
    )


PolicyLossFunction = Callable[[Array, Array, Array, Array, PolicyLossConfig], PolicyLoss]

POLICY_LOSSES: dict[str, PolicyLossFunction] = {
    "ppo_clip": lambda new, old, advantage, mask, config: ppo_clip(
        new,
        old,
        advantage,
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    ),
    "gspo": lambda new, old, advantage, mask, config: gspo(
        new, old, advantage, mask, clip_low=config.clip_low, clip_high=config.clip_high
    ),
    "cispo": lambda new, old, advantage, mask, config: cispo(
        new,
        old,
        advantage,
        mask,
        ratio_high=1 + config.clip_high,
        ratio_low=1 - config.clip_low if config.two_sided else None,
    ),
}


def truncated_importance_weight(old: Array, roll: Array, mask: Array, *, cap: float) -> Array:
    """min(exp(old - roll), cap) per token, a constant: corrects for a sampler unlike the learner.

    References:
        Truncated importance sampling (TIS), https://fengyao.notion.site/off-policy-rl
    """
    return jnp.minimum(_importance_ratio(old, roll, mask), cap)


def icepop_weight(old: Array, roll: Array, mask: Array, *, low: float, high: float) -> Array:
    """exp(old - roll) within [low, high], else 0, per token, a constant.

    References:
        Ring-1T, https://arxiv.org/abs/2510.18855
    """
    ratio = _importance_ratio(old, roll, mask)
    return jnp.where((ratio >= low) & (ratio <= high), ratio, 0)


ImportanceWeight = Callable[[Array, Array, Array, PolicyLossConfig], Array]

IMPORTANCE_WEIGHTS: dict[str, ImportanceWeight] = {
    "none": lambda old, roll, mask, config: jnp.ones_like(old),
    "tis": lambda old, roll, mask, config: truncated_importance_weight(
        old, roll, mask, cap=config.tis_cap
    ),
    "icepop": lambda old, roll, mask, config: icepop_weight(
        old, roll, mask, low=config.icepop_low, high=config.icepop_high
    ),
}


def k1(new: Array, ref: Array, mask: Array) -> Array:
    """new - ref: unbiased for KL(new || ref), of high variance; for monitoring.

    As a term of the loss it does nothing: on policy its gradient is that of `new` alone, whose
    expectation is zero.

    References:
        http://joschu.net/blog/kl-approx.html, https://arxiv.org/abs/2506.09477
    """
    return _log_ratio(new, ref, mask)


def k2(new: Array, ref: Array, mask: Array) -> Array:
    """(new - ref)^2 / 2: biased for KL(new || ref), but on policy its gradient is unbiased.

    References:
        As for `k1`.
    """
    return _log_ratio(new, ref, mask) ** 2 / 2


def k3(new: Array, ref: Array, mask: Array) -> Array:
    """exp(ref - new) - (ref - new) - 1: unbiased for KL(new || ref), never negative.

    On policy its gradient, in expectation, is that of KL(ref || new): zero at the same place, and
    what GRPO uses.

    References:
        As for `k1`; GRPO, https://arxiv.org/abs/2402.03300.
    """
    log_ratio = _log_ratio(ref, new, mask)
    return jnp.expm1(log_ratio) - log_ratio


KL_ESTIMATORS: dict[str, Callable[[Array, Array, Array], Array]] = {"k1": k1, "k2": k2, "k3": k3}


def denominator(mask: Array, aggregation: str) -> Array:
    """What `aggregate` divides by, from the mask of the whole batch.

    Sequences without a token of the policy (an invalid grade, a masked truncation) do not count,
    as in verl: a sample that was not graded is left out of the mean, not a vote for standing
    still.

    Args:
        mask: bool [..., T], of the batch, not of a micro-batch.
        aggregation: `token_mean`: the number of tokens. `sequence_mean`, `sequence_sum`: the
            number of sequences. `constant`: that times T.

    Returns:
        A float32 scalar, at least 1.

    Raises:
        ValueError: for an unknown aggregation.
    """
    sequences = mask.any(axis=-1).sum()
    match aggregation:
        case "token_mean":
            count = mask.sum()
        case "sequence_mean" | "sequence_sum":
            count = sequences
        case "constant":
            count = sequences * mask.shape[-1]
        case _:
            raise ValueError(f"unknown aggregation {aggregation!r}")
    return jnp.maximum(count, 1).astype(jnp.float32)


def aggregate(loss: Array, mask: Array, aggregation: str, denominator: Array) -> Array:
    """The batch's loss, or a micro-batch's share of it: the shares add up to the whole.

    Args:
        loss: [..., T] per token.
        mask: bool [..., T].
        aggregation: `token_mean` (DAPO, https://arxiv.org/abs/2503.14476): mean over all tokens.
            `sequence_mean` (GRPO, https://arxiv.org/abs/2402.03300): mean over sequences of their
            tokens' mean. `constant` (Dr. GRPO, https://arxiv.org/abs/2503.20783): sum over all
            tokens by the number of sequences and T. `sequence_sum`: mean over sequences of their
            tokens' sum.
        denominator: From the function of that name, of the whole batch.

    Returns:
        A scalar.
    """
    loss = jnp.where(mask, loss, 0)
    if aggregation == "sequence_mean":
        loss = loss / jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    return loss.sum() / denominator


def _log_ratio(logprob: Array, base: Array, mask: Array) -> Array:
    """logprob - base, clamped; 0 and without gradient where the mask is False."""
    return jnp.clip(jnp.where(mask, logprob - base, 0), -MAX_LOG_RATIO, MAX_LOG_RATIO)


def _importance_ratio(old: Array, roll: Array, mask: Array) -> Array:
    return jax.lax.stop_gradient(jnp.exp(_log_ratio(old, roll, mask)))


def _clipped_surrogate(
    ratio: Array,
    advantage: Array,
    mask: Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> PolicyLoss:
    advantage = advantage[..., None]
    loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantage)
    clipped_dual = jnp.zeros_like(mask)
    if dual_clip is not None:
        clipped_dual = mask & (advantage < 0) & (ratio > dual_clip)
        loss = jnp.where(clipped_dual, -dual_clip * advantage, loss)
    return PolicyLoss(
        loss=loss,
        clipped_high=mask & (advantage > 0) & (ratio > 1 + clip_high),
        clipped_low=mask & (advantage < 0) & (ratio < 1 - clip_low),
        clipped_dual=clipped_dual,
    )
