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
from rft_jax.learn.packed_gradient import pack_batch, packed_gradient
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
    data_shards: int = 1,
) -> tuple[TrainState, dict[str, Array]]:
    """`config.epochs_per_batch` optimizer steps on one batch of completions.

    On the first step the old policy is the new one, gradient stopped, as the learner computes it;
    the sampler's own log-probabilities enter only through the importance weights and the metric
    `sampler_learner_logprob_gap`. Counters of the state stay.

    Args:
        advantage_BG: From `advantages`.
        valid_BG: bool; other samples take no part.
        mask: The sampler's logit masks.
        temperature: The sampler's.
        data_shards: Into how many parts the mesh splits the batch; each is packed by itself.

    Returns:
        The state and scalar metrics: those of the last gradient step, and the gap of the first.
    """
    mask_BGT = completions.policy_mask_BGT & valid_BG[..., None]
    whole = denominator(mask_BGT, config.aggregation)
    base, reference = state.frozen.get(BASE), state.frozen.get(REFERENCE)
    score = {"temperature": temperature, "logit_chunk": config.logit_chunk}

    def adapted(params: Params) -> Params:
        return model.adapt(params, base)

    def logprobs(params: Params, part: _Example) -> tuple[Array, Array]:
        tokens_BGT, length_BG = part.completions.tokens_BGT, part.completions.length_BG
        return completion_logprobs(
            model, adapted(params), part.prompts, tokens_BGT, length_BG, mask, **score
        )

    def objective(
        new_BGT: Array, entropy_BGT: Array, reference_BGT: Array | None, part: _Example
    ) -> tuple[Array, _Tokens]:
        old_BGT = jax.lax.stop_gradient(new_BGT) if part.old_BGT is None else part.old_BGT
        policy = POLICY_LOSSES[config.loss](
            new_BGT, old_BGT, part.advantage_BG, part.mask_BGT, config
        )
        weight_BGT = IMPORTANCE_WEIGHTS[config.importance](
            old_BGT, part.completions.logprobs_BGT, part.mask_BGT, config
        )
        loss_BGT, kl_BGT = policy.loss * weight_BGT, jnp.zeros_like(new_BGT)
        if reference_BGT is not None:
            kl_BGT = KL_ESTIMATORS[config.kl_estimator](new_BGT, reference_BGT, part.mask_BGT)
            loss_BGT = loss_BGT + config.kl_coefficient * kl_BGT
        value = aggregate(loss_BGT, part.mask_BGT, config.aggregation, whole)
        return value, _Tokens(new_BGT, entropy_BGT, policy, kl_BGT)

    def loss(params: Params, part: _Example) -> tuple[Array, _Tokens]:
        reference_BGT = None if reference is None else logprobs(reference, part)[0]
        return objective(*logprobs(params, part), reference_BGT, part)

    def gradient_of(params: Params, example: _Example) -> tuple[Array, _Tokens, Params]:
        if not config.pack_rows:
            return accumulate_gradient(loss, params, example, config.gradient_accumulation)

        def of_part(new_BGT, entropy_BGT, reference_BGT, within_BG):
            part = example._replace(mask_BGT=mask_BGT & within_BG[..., None])
            return objective(new_BGT, entropy_BGT, reference_BGT, part)

        return packed_gradient(
            model,
            adapted,
            params,
            reference,
            prompts,
            packed,
            completions.tokens_BGT,
            mask,
            of_part,
            **score,
        )

    example = _Example(prompts, completions, advantage_BG, mask_BGT, None)
    length_BG = jnp.where(mask_BGT.any(axis=-1), completions.length_BG, 0)
    slots = completions.tokens_BGT.size
    if config.pack_rows:
        width = completions.tokens_BGT.shape[-1]
        packed = pack_batch(prompts.length_B, length_BG, width, config.pack_rows, data_shards)
        slots = packed.slots
    metrics: dict[str, Array] = {"padding_fraction": 1 - length_BG.sum() / jnp.maximum(slots, 1)}
    for index in range(config.epochs_per_batch):
        value, tokens, gradient = gradient_of(state.params, example)
        if index == 0:
            example = example._replace(old_BGT=tokens.logprobs)
            gap_BGT = jnp.abs(tokens.logprobs - completions.logprobs_BGT)
            metrics["sampler_learner_logprob_gap"] = _mean(gap_BGT, mask_BGT)
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
