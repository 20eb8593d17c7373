"""Metrics of completions that are means over tokens: how far what samples is from what learns."""

import jax.numpy as jnp
from jax import Array

from rft_jax.learn.losses import k1, k3


def masked_mean(x_BGT: Array, mask_BGT: Array) -> Array:
    """The mean where the mask is True; 0 if it is True nowhere."""
    return jnp.where(mask_BGT, x_BGT, 0).sum() / jnp.maximum(mask_BGT.sum(), 1)


def sampler_mismatch(sampler_BGT: Array, learner_BGT: Array, mask_BGT: Array) -> dict[str, Array]:
    """How far what samples is from what learns, before the first update.

    Tokens are the sampler's, so that the means of k1 and k3 estimate KL(sampler || learner): the
    first has a sign and more variance, the second is never negative.

    Args:
        sampler_BGT: Log-probabilities of the tokens where they were sampled.
        learner_BGT: Those of the learner.
        mask_BGT: bool, the tokens that are learned from.
    """
    return {
        "sampler_learner_logprob_gap": masked_mean(jnp.abs(learner_BGT - sampler_BGT), mask_BGT),
        "kl_sampler_learner_k1": masked_mean(k1(sampler_BGT, learner_BGT, mask_BGT), mask_BGT),
        "kl_sampler_learner_k3": masked_mean(k3(sampler_BGT, learner_BGT, mask_BGT), mask_BGT),
    }
