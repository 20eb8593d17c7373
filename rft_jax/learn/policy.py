"""The policy-gradient update of a graded batch of completions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from rft_jax.config import PolicyLossConfig
from rft_jax.learn.accumulate import accumulate_gradient
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.learn.losses import (
    IMPORTANCE_WEIGHTS,
    KL_ESTIMATORS,
    POLICY_LOSSES,
    PolicyLoss,
    aggregate,
    denominator,
)
from rft_jax.learn.optimizer import BASE, REFERENCE, TrainState, apply_gradient
from rft_jax.models import Model, Params
from rft_jax.rollout import LogitMask, Prompts, Rollout


class _Example(NamedTuple):
    """What the loss reads, each with leading axis B."""

    prompts: Prompts
    completions: Rollout
    advantage_BG: Array
    mask_BGT: Array
    old_BGT: Array | None  # log-probabilities before the first gradient step; None on that step


class _Tokens(NamedTuple):
    """What the loss shows of each token, [B, G, T]."""

    logprobs: Array
    entropy: Array
    clips: PolicyLoss
    kl: Array


def policy_update(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    prompts: Prompts,
    completions: Rollout,
    advantage_BG: Array,
    valid_BG: Array,
    mask: LogitMask,
    *,
    temperature: float,
    config: PolicyLossConfig,
) -> tuple[TrainState, dict[str, Array]]:
    """`config.gradient_steps` optimiser steps on one batch of completions.

    On the first step the old policy is the new one, gradient stopped, as the learner computes it;
    the sampler's own log-probabilities enter only through the importance weights and the metric
    `logprob_gap`. Counters of the state stay.

    Args:
        advantage_BG: From `advantages`.
        valid_BG: bool; other samples take no part.
        mask: The sampler's logit masks.
        temperature: The sampler's.

    Returns:
        The state and scalar metrics: those of the last gradient step, and the gap of the first.
    """
    mask_BGT = completions.policy_mask_BGT & valid_BG[..., None]
    whole = denominator(mask_BGT, config.aggregation)
    base, reference = state.frozen.get(BASE), state.frozen.get(REFERENCE)

    def logprobs(params: Params, part: _Example) -> tuple[Array, Array]:
        return completion_logprobs(
            model,
            model.adapt(params, base),
            part.prompts,
            part.completions.tokens_BGT,
            part.completions.length_BG,
            mask,
            temperature=temperature,
            logit_chunk=config.logit_chunk,
        )

    def loss(params: Params, part: _Example) -> tuple[Array, _Tokens]:
        new_BGT, entropy_BGT = logprobs(params, part)
        old_BGT = jax.lax.stop_gradient(new_BGT) if part.old_BGT is None else part.old_BGT
        policy = POLICY_LOSSES[config.loss](
            new_BGT, old_BGT, part.advantage_BG, part.mask_BGT, config
        )
        weight_BGT = IMPORTANCE_WEIGHTS[config.importance](
            old_BGT, part.completions.logprobs_BGT, part.mask_BGT, config
        )
        loss_BGT, kl_BGT = policy.loss * weight_BGT, jnp.zeros_like(new_BGT)
        if reference is not None:
            reference_BGT, _ = logprobs(reference, part)
            kl_BGT = KL_ESTIMATORS[config.kl_estimator](new_BGT, reference_BGT, part.mask_BGT)
            loss_BGT = loss_BGT + config.kl_coefficient * kl_BGT
        value = aggregate(loss_BGT, part.mask_BGT, config.aggregation, whole)
        return value, _Tokens(new_BGT, entropy_BGT, policy, kl_BGT)

    example = _Example(prompts, completions, advantage_BG, mask_BGT, None)
    metrics: dict[str, Array] = {}
    for index in range(config.gradient_steps):
        value, tokens, gradient = accumulate_gradient(
            loss, state.params, example, config.micro_batches
        )
        if index == 0:
            example = example._replace(old_BGT=tokens.logprobs)
            gap_BGT = jnp.abs(tokens.logprobs - completions.logprobs_BGT)
            metrics["logprob_gap"] = _mean(gap_BGT, mask_BGT)
        state, norms = apply_gradient(optimizer, state, gradient)
        metrics |= norms | {
            "loss": value,
            "entropy": _mean(tokens.entropy, mask_BGT),
            "kl": _mean(tokens.kl, mask_BGT),
            "clip_fraction_high": _mean(tokens.clips.clipped_high, mask_BGT),
            "clip_fraction_low": _mean(tokens.clips.clipped_low, mask_BGT),
            "clip_fraction_dual": _mean(tokens.clips.clipped_dual, mask_BGT),
        }
    return state, metrics


def _mean(x_BGT: Any, mask_BGT: Array) -> Array:
    return jnp.where(mask_BGT, x_BGT, 0).sum() / jnp.maximum(mask_BGT.sum(), 1)
