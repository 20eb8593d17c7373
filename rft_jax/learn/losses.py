"""Policy losses per token, importance weights, KL estimators and how tokens are averaged.

    result = ppo_clip(new, old, advantage, mask, config)
    loss_tokens = result.loss * truncated_importance_weight(old, sampler, mask, config)
    loss_tokens += config.kl_coefficient * k3(new, reference, mask)
    loss = aggregate(loss_tokens, mask, denominator(mask, config.aggregation))

Everywhere: `new` [..., T] are the log-probabilities (nats) that the gradient flows through, `old`
those at the start of the step, `sampler` the sampler's, `reference` the reference policy's; `mask`
[..., T] is bool, True for the policy's own tokens of valid samples; `advantage` [...] is one number
a sequence; `config` is the stage's `PolicyLossSettings`. Leading axes are arbitrary ([B, G] in the
update). Where `mask` is False anything may stand, infinities and NaN included: it reaches neither a
loss nor a gradient.

Log-ratios are clamped to [-20, 20], as in verl, so that exp() stays finite; beyond, the gradient
is zero. Values and gradients are those of the independent implementations recorded in
tests/data_files.

A loss of your own is a function of the same parameters. In `my_losses.py`:

    import jax.numpy as jnp
    from rft_jax.learn.losses import PolicyLoss, register_policy_loss

    @register_policy_loss("asymmetric_reinforce")
    def asymmetric_reinforce(new, old, advantage, mask, config):
        # -A log p, with half the weight where A < 0
        weight = jnp.where(advantage < 0, 0.5 * advantage, advantage)
        return PolicyLoss(-weight[..., None] * new)

`rft train --config.stages.rft.policy_loss.loss=my_losses:asymmetric_reinforce` trains with it; an
experiment file may import it and set `loss=asymmetric_reinforce` or, once it is registered, its
name. The update passes zeros where the mask is False and ignores what is returned there. Functions
for `advantage` (`register_advantage` in `learn.advantages`), `importance` and `kl_estimator` are
given in the same way, with the parameters of those that ship.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import PolicyLossSettings
from rft_jax.config.algorithms import IMPORTANCE_WEIGHTS, KL_ESTIMATORS, POLICY_LOSSES

register_policy_loss = POLICY_LOSSES.register
register_importance_weight = IMPORTANCE_WEIGHTS.register
register_kl_estimator = KL_ESTIMATORS.register

MAX_LOG_RATIO = 20.0
MAX_DPPO_RATIO = 20.0  # https://arxiv.org/abs/2602.04879: a large one


class PolicyLoss(NamedTuple):
    """A policy loss and which tokens its clips silenced, all [..., T].

    The loss counts only where the mask is True; the indicators are False elsewhere, and None where
    a loss has no such clip. A clipped token carries no gradient, except under CISPO, where only its
    weight is bounded.
    """

    loss: Array  # float32
    clipped_high: Array | None = None  # bool; ratio above the range
    clipped_low: Array | None = None  # bool; ratio below the range
    clipped_dual: Array | None = None  # bool; negative advantage, ratio above the dual clip


@register_policy_loss("ppo_clip")
def ppo_clip(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """PPO's clipped surrogate with an asymmetric range and an optional dual clip.

    -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), ratio = exp(new - old); for A < 0 at
    most -dual_clip A, where that is set.

    References:
        PPO, https://arxiv.org/abs/1707.06347; the asymmetric range, DAPO,
        https://arxiv.org/abs/2503.14476; the dual clip, https://arxiv.org/abs/1912.09729.
    """
    ratio = jnp.exp(_log_ratio(new, old, mask))
    return _clipped_surrogate(ratio, advantage, mask, config, config.dual_clip)


@register_policy_loss("gspo")
def gspo(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """Group sequence policy optimization: one ratio a sequence, clipped as a whole.

    The clipped surrogate of `ppo_clip`, without a dual clip, of the ratio exp(mean of new - old),
    the geometric mean of the tokens' ratios. It is written per token (GSPO-token in
    the paper), with the same gradient, so that a token's importance weight weighs that token's
    gradient. The paper averages with `sequence_mean`; its range is narrow, 3e-4 and
    4e-4, as the ratio of a sequence strays far less from 1 than that of a token.

    References:
        https://arxiv.org/abs/2507.18071
    """
    log_ratio = _log_ratio(new, old, mask)
    length = jnp.maximum(mask.sum(axis=-1, keepdims=True), 1)
    mean = jax.lax.stop_gradient(log_ratio.sum(axis=-1, keepdims=True) / length)
    ratio = jnp.exp(mean + log_ratio - jax.lax.stop_gradient(log_ratio))
    return _clipped_surrogate(ratio, advantage, mask, config, None)


@register_policy_loss("cispo")
def cispo(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """CISPO: REINFORCE weighted by a clipped, constant ratio; no token loses its gradient.

    -stop_gradient(clip(ratio, 1 - clip_low, 1 + clip_high)) A new, ratio = exp(new - old); without
    `two_sided` there is no lower bound, as in the paper.

    References:
        MiniMax-M1, https://arxiv.org/abs/2506.13585
    """
    ratio = jax.lax.stop_gradient(jnp.exp(_log_ratio(new, old, mask)))
    low, high = 1 - config.clip_low if config.two_sided else 0.0, 1 + config.clip_high
    loss = -jnp.clip(ratio, low, high) * advantage[..., None] * jnp.where(mask, new, 0)
    return PolicyLoss(
        loss=loss,
        clipped_high=mask & (ratio > high),
        clipped_low=mask & (ratio < low),
    )


@register_policy_loss("sapo")
def sapo(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """Soft adaptive policy optimization: a gate instead of a clip.

    -4 / t sigmoid(t (ratio - 1)) A, ratio = exp(new - old), where the temperature t is
    `gate_positive` for A > 0 and `gate_negative` else: the gradient is that of -ratio A at 1 and
    fades with the distance from there, on both sides. The paper averages with `sequence_mean`.

    References:
        https://arxiv.org/abs/2511.20347
    """
    ratio, advantage = jnp.exp(_log_ratio(new, old, mask)), advantage[..., None]
    temperature = jnp.where(advantage > 0, config.gate_positive, config.gate_negative)
    return PolicyLoss(-jax.nn.sigmoid(temperature * (ratio - 1)) * (4 / temperature) * advantage)


@register_policy_loss("dppo_tv")
def dppo_tv(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """DPPO: tokens whose probability moved too far, in the direction of A, are left out.

    -stop_gradient(ratio) A new where p - q <= clip_high (A > 0) or q - p <= clip_low (A < 0), else
    0; p = exp(new), q = exp(old). |p - q| is the total variation of the two policies, of this token
    against all others. A ratio's clip leaves rare tokens no room and frequent ones too much.

    References:
        https://arxiv.org/abs/2602.04879, the binary form
    """
    moved = jnp.exp(jnp.where(mask, new, 0)) - jnp.exp(jnp.where(mask, old, 0))
    return _divergence_masked(new, old, advantage, mask, moved, config)


@register_policy_loss("dppo_kl")
def dppo_kl(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """DPPO by KL: as `dppo_tv`, with KL(q || p) of this token against all others as the distance.

    q (old - new) + (1 - q) log((1 - q) / (1 - p)), each difference from 1 plus 1e-8.

    References:
        https://arxiv.org/abs/2602.04879, the binary form
    """
    new_, old_ = jnp.where(mask, new, 0), jnp.where(mask, old, 0)
    p, q = jnp.exp(new_), jnp.exp(old_)
    divergence = q * (old_ - new_) + (1 - q) * jnp.log((1 - q + 1e-8) / (1 - p + 1e-8))
    return _divergence_masked(new, old, advantage, mask, jnp.sign(p - q) * divergence, config)


@register_policy_loss("reinforce")
def reinforce(
    new: Array, old: Array, advantage: Array, mask: Array, config: PolicyLossSettings
) -> PolicyLoss:
    """-A new: the policy gradient itself, without a ratio.

    References:
        REINFORCE, https://doi.org/10.1007/BF00992696; for completions, RLOO,
        https://arxiv.org/abs/2402.14740.
    """
    del old, config
    return PolicyLoss(-advantage[..., None] * jnp.where(mask, new, 0))


@register_importance_weight("none")
def no_importance_weight(
    old: Array, sampler: Array, mask: Array, config: PolicyLossSettings
) -> Array:
    """1 for every token."""
    del sampler, mask, config
    return jnp.ones_like(old)


@register_importance_weight("tis")
def truncated_importance_weight(
    old: Array, sampler: Array, mask: Array, config: PolicyLossSettings
) -> Array:
    """min(exp(old - sampler), tis_cap) per token, a constant.

    It corrects for a sampler unlike the learner.

    References:
        Truncated importance sampling (TIS), https://fengyao.notion.site/off-policy-rl
    """
    return jnp.minimum(_importance_ratio(old, sampler, mask), config.tis_cap)


@register_importance_weight("icepop")
def icepop_weight(old: Array, sampler: Array, mask: Array, config: PolicyLossSettings) -> Array:
    """exp(old - sampler) within [icepop_low, icepop_high], else 0, per token, a constant.

    References:
        Ring-1T, https://arxiv.org/abs/2510.18855
    """
    ratio = _importance_ratio(old, sampler, mask)
    return jnp.where((ratio >= config.icepop_low) & (ratio <= config.icepop_high), ratio, 0)


@register_kl_estimator("k1")
def k1(new: Array, reference: Array, mask: Array) -> Array:
    """new - reference: unbiased for KL(new || reference), of high variance; for monitoring.

    As a term of the loss it does nothing: on policy its gradient is that of `new` alone, whose
    expectation is zero.

    References:
        http://joschu.net/blog/kl-approx.html, https://arxiv.org/abs/2506.09477
    """
    return _log_ratio(new, reference, mask)


@register_kl_estimator("k1_in_reward")
def k1_in_reward(new: Array, reference: Array, mask: Array) -> Array:
    """k1 subtracted from the reward: its value, with the gradient of lower advantages.

    A token's advantage is lower by the k1 of itself and of all tokens after it,
    A_t - kl_coefficient sum_{i >= t} k1_i, as REINFORCE++ has it. As a term of the loss that is
    sg(k1_t) + sg(sum_{i >= t} k1_i) (k1_t - sg(k1_t)). On policy its gradient, in expectation, is
    that of KL(new || reference) of whole sequences, where k2's is that of each token alone. The
    advantages were scaled or whitened before, without it.

    References:
        https://arxiv.org/abs/2501.03262, the form without a group's baseline
    """
    log_ratio = _log_ratio(new, reference, mask)
    penalty = jax.lax.stop_gradient(log_ratio)
    from_here_on = jax.lax.cumsum(penalty, axis=penalty.ndim - 1, reverse=True)
    return penalty + from_here_on * (log_ratio - penalty)


@register_kl_estimator("k2")
def k2(new: Array, reference: Array, mask: Array) -> Array:
    """(new - reference)^2 / 2: biased for KL(new || reference), but not its gradient on policy.

    References:
        As for `k1`.
    """
    return _log_ratio(new, reference, mask) ** 2 / 2


@register_kl_estimator("k3")
def k3(new: Array, reference: Array, mask: Array) -> Array:
    """exp(d) - d - 1, d = reference - new: unbiased for KL(new || reference), never negative.

    On policy its gradient, in expectation, is that of KL(reference || new): zero at the same place,
    and what GRPO uses.

    References:
        As for `k1`; GRPO, https://arxiv.org/abs/2402.03300.
    """
    log_ratio = _log_ratio(reference, new, mask)
    return jnp.expm1(log_ratio) - log_ratio


def likelihood_ratio(new: Array, old: Array, mask: Array) -> Array:
    """exp(new - old), with its gradient, which a KL estimate is multiplied by (`unbiased_kl`).

    The expectation of an estimate over tokens of the old policy is over another policy than the one
    that its gradient is taken of. Times the ratio, `k1` and `k3` are unbiased for KL(new ||
    reference), and so are their gradients: that of k3 alone is KL(reference || new)'s.

    References:
        DeepSeek-V3.2, https://arxiv.org/abs/2512.02556
    """
    return jnp.exp(_log_ratio(new, old, mask))


def denominator(mask: Array, aggregation: str) -> Array:
    """What `aggregate` divides the tokens of each sequence by, from the mask of the whole batch.

    Sequences without a token of the policy (an invalid grade, a masked truncation) do not count,
    as in verl: a sample that was not graded is left out of the mean, not a vote for standing
    still.

    Args:
        mask: bool [..., T], of the batch, not of a micro-batch.
        aggregation: `token_mean` (DAPO, https://arxiv.org/abs/2503.14476): the number of tokens,
            for their mean. `sequence_mean` (GRPO, https://arxiv.org/abs/2402.03300): that of
            sequences times the sequence's own tokens, for the mean of sequences' means.
            `prompt_mean` (ScaleRL, https://arxiv.org/abs/2510.13786): that of groups [..., G, T]
            times the group's own tokens, for the mean of groups' means. `constant` (Dr. GRPO,
            https://arxiv.org/abs/2503.20783): that of sequences times T. `sequence_sum`: that of
            sequences, for the mean of their sums.

    Returns:
        float32 [...], at least 1.

    Raises:
        ValueError: For an unknown aggregation.
    """
    tokens, sequences = mask.sum(axis=-1), mask.any(axis=-1).sum()
    match aggregation:
        case "token_mean":
            count = tokens.sum()
        case "sequence_mean":
            count = sequences * jnp.maximum(tokens, 1)
        case "sequence_sum":
            count = sequences
        case "prompt_mean":
            of_group = tokens.sum(axis=-1, keepdims=True)
            count = (of_group > 0).sum() * jnp.maximum(of_group, 1)
        case "constant":
            count = sequences * mask.shape[-1]
        case _:
            raise ValueError(f"unknown aggregation {aggregation!r}")
    at_least_one = jnp.maximum(count, 1).astype(jnp.float32)
    return jnp.broadcast_to(at_least_one, mask.shape[:-1])


def aggregate(loss: Array, mask: Array, denominator: Array) -> Array:
    """The batch's loss, or that of some of its sequences: the parts add up to the whole.

    Args:
        loss: [..., T] per token.
        mask: bool [..., T].
        denominator: Those of the sequences, from the function of that name.

    Returns:
        A scalar.
    """
    return (jnp.where(mask, loss, 0) / denominator[..., None]).sum()


def _divergence_masked(
    new: Array,
    old: Array,
    advantage: Array,
    mask: Array,
    moved: Array,
    config: PolicyLossSettings,
) -> PolicyLoss:
    """DPPO's loss; `moved` is how far the probability rose, negative where it fell."""
    ratio = jnp.minimum(jnp.exp(_log_ratio(new, old, mask)), MAX_DPPO_RATIO)
    advantage, moved = advantage[..., None], jax.lax.stop_gradient(moved)
    high = mask & (advantage > 0) & (moved > config.clip_high)
    low = mask & (advantage <= 0) & (moved < -config.clip_low)
    loss = -jax.lax.stop_gradient(ratio) * advantage * jnp.where(mask, new, 0)
    return PolicyLoss(jnp.where(high | low, 0, loss), clipped_high=high, clipped_low=low)


def _log_ratio(logprob: Array, base: Array, mask: Array) -> Array:
    """logprob - base, clamped; 0 and without gradient where the mask is False."""
    return jnp.clip(jnp.where(mask, logprob - base, 0), -MAX_LOG_RATIO, MAX_LOG_RATIO)


def _importance_ratio(old: Array, sampler: Array, mask: Array) -> Array:
    return jax.lax.stop_gradient(jnp.exp(_log_ratio(old, sampler, mask)))


def _clipped_surrogate(
    ratio: Array,
    advantage: Array,
    mask: Array,
    config: PolicyLossSettings,
    dual_clip: float | None,
) -> PolicyLoss:
    advantage = advantage[..., None]
    low, high = 1 - config.clip_low, 1 + config.clip_high
    loss = -jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
    clipped_dual = None
    if dual_clip is not None:
        clipped_dual = mask & (advantage < 0) & (ratio > dual_clip)
        loss = jnp.where(clipped_dual, -dual_clip * advantage, loss)
    return PolicyLoss(
        loss=loss,
        clipped_high=mask & (advantage > 0) & (ratio > high),
        clipped_low=mask & (advantage < 0) & (ratio < low),
        clipped_dual=clipped_dual,
    )
