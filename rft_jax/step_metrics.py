"""The metrics of a step's samples: pure functions of arrays, part of the compiled step."""

import jax.numpy as jnp
from jax import Array

from rft_jax.graders import ANSWER, Grade
from rft_jax.learn.advantages import unequal_rewards
from rft_jax.rollout import Rollout


def grade_metrics(completions: Rollout, overflow_BG: Array, grade: Grade) -> dict[str, Array]:
    """Means over the valid samples: reward, sub-scores, errors and lengths.

    In `reward_mean_all` those that are not valid count as 0.

    Args:
        completions: The rollout of B prompts, G completions each.
        overflow_BG: Whether an answer's text was longer than its array.
        grade: That of the same completions, [B, G].
    """

    def mean(x_BG: Array) -> Array:
        total = jnp.where(grade.valid, x_BG.astype(jnp.float32), 0).sum()
        return total / jnp.maximum(grade.valid.sum(), 1)

    return {
        "reward_mean": mean(grade.reward),
        "reward_mean_all": jnp.where(grade.valid, grade.reward, 0).mean(),
        "reward_std": jnp.sqrt(jnp.maximum(mean(grade.reward**2) - mean(grade.reward) ** 2, 0)),
        "valid_fraction": grade.valid.mean(),
        "zero_std_groups_fraction": 1 - unequal_rewards(grade.reward, grade.valid).mean(),
        **completion_metrics(completions),
        "overlong_answers_fraction": overflow_BG.mean(),
        **{f"scores/{name}": mean(score) for name, score in grade.scores.items()},
        **{
            _detail_name(name): mean(value)
            for name, value in grade.details.items()
            if not name.endswith(ANSWER)
        },
        **{f"errors/{name}_mean": flag.mean() for name, flag in grade.errors.items()},
        **{f"errors/{name}_count": flag.sum() for name, flag in grade.errors.items()},
    }


def completion_metrics(completions: Rollout) -> dict[str, Array]:
    """How long completions are, in tokens, and how many were cut."""
    return {
        "completion_tokens": completions.length_BG.sum(),
        "completion_tokens_mean": completions.length_BG.mean(),
        "reasoning_tokens_mean": completions.thinking_tokens_BG.mean(),
        "truncated_fraction": 1 - completions.stopped_BG.mean(),
    }


def _detail_name(name: str) -> str:
    """Seconds are no result of the run: they join the row's `timing`."""
    if name.endswith("/seconds"):
        return f"timing/{name.removesuffix('/seconds')}/execution_latency_mean"
    return f"details/{name}"
