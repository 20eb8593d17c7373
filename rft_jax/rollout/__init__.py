"""Sampling: completions of prompts under the policy."""

from rft_jax.rollout.logit_masks import LogitMask
from rft_jax.rollout.rollout import Prompts, Rollout, rollout
from rft_jax.rollout.sampling import completion_keys

__all__ = ["LogitMask", "Prompts", "Rollout", "completion_keys", "rollout"]
