"""The policy-gradient update of a graded batch of completions."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config.algorithms import IMPORTANCE_WEIGHTS
from rft_jax.config.update_parts import split_update
from rft_jax.learn.accumulate import accumulate_gradient
from rft_jax.learn.logprobs import CompletionScores, completion_logprobs
from rft_jax.learn.losses import denominator
from rft_jax.learn.objective import GradedBatch, Learner, Objective, PolicyGradient, TokenStatistics
from rft_jax.learn.optimizer import TrainState, apply_gradient
from rft_jax.learn.packed_gradient import pack_batch, packed_gradient
from rft_jax.learn.score_centering import Centering
from rft_jax.learn.token_metrics import masked_mean, sampler_mismatch
from rft_jax.models import Params
from rft_jax.rollout import Prompts, Rollout

# A way of running the policy over a batch: the objective's gradient at the state's weights.
GradientStrategy = Callable[[Learner, Objective, TrainState, GradedBatch], PolicyGradient]


def policy_update(
    learner: Learner,
    state: TrainState,
    prompts: Prompts,
    completions: Rollout,
    advantage_BG: Array,
    valid_BG: Array,
    sampler_params: Params | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """`epochs_per_batch` optimizer steps on one batch of completions.

    With `old_logprobs=learner`, the old policy of the first step is the new one, gradient stopped,
    as the learner computes it; the sampler's own log-probabilities enter through the importance
    weights and the metrics only. With `sampler` these are the old policy's, of every step. Where
    sampling is truncated they are of the truncated distribution, so that ratios, weights and
    metrics know of it. Counters of the state stay.

    Args:
        learner: The static parts.
        state: The weights before.
        prompts: B prompts.
        completions: G of each.
        advantage_BG: From `advantages`.
        valid_BG: bool; other samples take no part.
        sampler_params: What sampled, for score centering.

    Returns:
        The state and scalar metrics: those of the last gradient step, and of the first how far the
        sampler was from the learner.
    """
    config = learner.config
    mask_BGT = completions.policy_mask_BGT & valid_BG[..., None]
    by_sampler = config.old_logprobs == "sampler"
    old_BGT = completions.logprobs_BGT if by_sampler else None
    denominator_BG = denominator(mask_BGT, config.aggregation)
    batch = GradedBatch(prompts, completions, advantage_BG, mask_BGT, denominator_BG, old_BGT)
    objective = Objective(config)
    gradient_of, padding_fraction = _choose_strategy(learner, batch, sampler_params)
    metrics = {"padding_fraction": padding_fraction}
    for epoch in range(config.epochs_per_batch):
        found = gradient_of(learner, objective, state, batch)
        if epoch == 0:
            if not by_sampler:
                # PPO's old policy: the learner's own numbers, not the sampler's, so that a
                # difference between the two is no step of the policy.
                batch = batch._replace(old_BGT=found.tokens.logprob_BGT)
            metrics |= sampler_mismatch(
                completions.logprobs_BGT, found.tokens.logprob_BGT, mask_BGT
            )
        state, norms = apply_gradient(learner.optimizer, state, found.gradient)
        metrics |= norms | {"loss": found.loss} | _describe(found.tokens, mask_BGT)
    return state, metrics


def padded_gradient(
    learner: Learner,
    objective: Objective,
    state: TrainState,
    batch: GradedBatch,
    centering: Centering | None = None,
) -> PolicyGradient:
    """The gradient over rows of T tokens, a completion each, in `gradient_accumulation` parts."""
    config, (base, reference) = learner.config, state.frozen
    B, G = batch.advantage_BG.shape
    parts = config.gradient_accumulation
    split = _split_groups(batch, split_update(parts, B // learner.data_shards).of_group)

    def scores(
        params: Params, part: GradedBatch, centering: Centering | None = None
    ) -> CompletionScores:
        return completion_logprobs(
            learner.model,
            learner.model.adapt(params, base),
            part.prompts,
            part.completions.tokens_BGT,
            part.completions.length_BG,
            learner.mask,
            temperature=learner.temperature,
            logit_chunk=config.logit_chunk,
            centering=centering,
        )

    def loss(params: Params, part: GradedBatch) -> tuple[Array, TokenStatistics]:
        reference_BGT = None if reference is None else scores(reference, part).logprob_BGT
        return objective(scores(params, part, centering), reference_BGT, part)

    value, tokens, gradient = accumulate_gradient(loss, state.params, split, parts)
    tokens = jax.tree.map(lambda x_BGT: x_BGT.reshape(B, G, -1), tokens)
    return PolicyGradient(value, tokens, gradient)


def _split_groups(batch: GradedBatch, number: int) -> GradedBatch:
    """The batch as if every prompt had been drawn so many times, with so fewer completions each.

    What compares completions, advantages and denominators, was made of the whole groups before.
    """
    if number == 1:
        return batch
    prompts = jax.tree.map(lambda x_B: jnp.repeat(x_B, number, axis=0), batch.prompts)

    def split(x_BG: Array) -> Array:
        return x_BG.reshape(-1, x_BG.shape[1] // number, *x_BG.shape[2:])

    groups = jax.tree.map(split, batch._replace(prompts=None))
    return groups._replace(prompts=prompts)


def _choose_strategy(
    learner: Learner, batch: GradedBatch, sampler_params: Params | None
) -> tuple[GradientStrategy, Array]:
    """How the policy is run over the batch, and which part of the places it runs is padding."""
    config, completions = learner.config, batch.completions
    # A completion from which nothing is learned takes no place in a packed row.
    length_BG = jnp.where(batch.mask_BGT.any(axis=-1), completions.length_BG, 0)
    strategy: GradientStrategy = padded_gradient
    if config.score_centering and sampler_params is not None:
        importance = IMPORTANCE_WEIGHTS.find(config.importance)
        centering = Centering(
            sampler_params,
            learner.top_k,
            learner.top_p,
            lambda logp, logq, some: importance(logp, logq, some, config),
        )
        strategy = functools.partial(padded_gradient, centering=centering)
    slots: Array | int = completions.tokens_BGT.size
    if config.pack_rows:
        # Once for all epochs: the layout depends on lengths only.
        width = completions.tokens_BGT.shape[-1]
        packed = pack_batch(
            batch.prompts.length_B, length_BG, width, config.pack_rows, learner.data_shards
        )
        strategy, slots = functools.partial(packed_gradient, packed), packed.slots
    return strategy, 1 - length_BG.sum() / jnp.maximum(slots, 1)


def _describe(tokens: TokenStatistics, mask_BGT: Array) -> dict[str, Array]:
    """Means over the tokens that are learned from."""
    return {
        "entropy": masked_mean(tokens.entropy_BGT, mask_BGT),
        "kl": masked_mean(tokens.kl_BGT, mask_BGT),
        "clip_fraction_high": masked_mean(tokens.clipped_high_BGT, mask_BGT),
        "clip_fraction_low": masked_mean(tokens.clipped_low_BGT, mask_BGT),
        "clip_fraction_dual": masked_mean(tokens.clipped_dual_BGT, mask_BGT),
    }
