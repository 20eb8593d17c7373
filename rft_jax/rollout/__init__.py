"""Sampling: completions of prompts under the policy; and the judge that reads them."""

from rft_jax.rollout.generate import Prompts, Rollout, rollout
from rft_jax.rollout.judge import FrozenJudge
from rft_jax.rollout.logit_masks import LogitMask, make_logit_mask
from rft_jax.rollout.sampling import completion_keys

__all__ = [
    "FrozenJudge",
    "LogitMask",
    "Prompts",
    "Rollout",
    "completion_keys",
    "make_logit_mask",
    "rollout",
]
