"""One model on a file of items: samples, their grades, and what was written.

The samples of an item depend on the seed and the item only, so that two models, or two
checkpoints, are compared on the same noise.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.graders import HostGrading, Items
from rft_jax.host_step import make_host_sampler
from rft_jax.models import Params
from rft_jax.parallel import batch_parts, batch_sharding, from_local, local_rows, to_host
from rft_jax.rollout import completion_keys
from rft_jax.runs.batches import bucketed, make_batch
from rft_jax.runs.datasets import PromptData
from rft_jax.step import Batch, Grading, Sampler, Samples, compile_sampler
from rft_jax.strings import ByteString

EXACT = {"int8_weights": False, "int8_cache": False}


class Evaluation(NamedTuple):
    """Per sample results, NumPy arrays [M, S] for M items and S samples of each."""

    reward_MS: np.ndarray
    valid_MS: np.ndarray
    scores: dict[str, np.ndarray]
    details: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]
    completion_tokens_MS: np.ndarray
    reasoning_tokens_MS: np.ndarray
    truncated_MS: np.ndarray
    tokens_MST: np.ndarray  # of the completions
    text: ByteString  # of the answers, [M, S, L]
    has_answer_MS: np.ndarray
    overflow_MS: np.ndarray  # the text was longer than L bytes


def make_evaluator(
    sampler: Sampler,
    grading: Grading,
    host: HostGrading,
    items: PromptData,
    samples: int,
    seed: int,
    at_once: int,
) -> Callable[[Params], Evaluation]:
    """Compiles on first use; the same function then serves every checkpoint. Collective.

    Args:
        sampler: A reinforcement stage's; but here nothing is in eight bits.
        grading: Likewise.
        host: Open, for the grader's nodes that run there.
        items: What is to be answered.
        samples: Samples per item, S.
        seed: The seed of the samples' noise.
        at_once: About how many completions are sampled at once, as many as in a training step.
    """
    sampler = dataclasses.replace(sampler, config=dataclasses.replace(sampler.config, **EXACT))
    sample = _sampler_of(sampler, grading, host, items)

    size = len(items.items)
    shards = batch_parts(sampler.mesh)
    width = -(-min(max(1, at_once // samples), size) // shards) * shards
    sharding = batch_sharding(sampler.mesh)
    here = local_rows(sharding, width)

    @functools.partial(jax.jit, in_shardings=sharding, out_shardings=sharding)
    def keys_of(batch: Batch) -> jax.Array:
        noise = jnp.uint32(seed), jnp.int32(0)
        return completion_keys(*noise, batch.prompt_id_B, batch.draw_B, samples)

    def evaluate(params: Params) -> Evaluation:
        parts = []
        for first in range(0, size, width):
            rows = np.minimum(np.arange(first, first + width), size - 1)
            max_prompt_tokens = bucketed(items, rows, sampler.config)
            batch = make_batch(items, rows[here], np.zeros_like(here), max_prompt_tokens)
            batch = from_local(batch, sharding, width)
            real = min(width, size - first)
            output = sample(params, batch, keys_of(batch), real)
            rollout, grade = output.completed.rollout, output.grade
            found = Evaluation(
                *to_host(
                    (
                        grade.reward,
                        grade.valid,
                        grade.scores,
                        grade.details,
                        grade.errors,
                        rollout.length_BG,
                        rollout.thinking_tokens_BG,
                        ~rollout.stopped_BG,
                        rollout.tokens_BGT,
                        output.completed.text,
                        rollout.has_answer_BG,
                        output.completed.overflow_BG,
                    ),
                    sampler.mesh,
                )
            )
            parts.append(jax.tree.map(lambda leaf, real=real: leaf[:real], found))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return evaluate


def _sampler_of(
    sampler: Sampler, grading: Grading, host: HostGrading, items: PromptData
) -> Callable[[Params, Batch, jax.Array, int], Samples]:
    """Samples and grades a batch, of which the first so many items are real."""
    if grading.grader.needs_host:
        return make_host_sampler(sampler, grading, host, Items(items.items, items.source))
    on_device = compile_sampler(sampler, grading)

    def sample(params: Params, batch: Batch, keys_BG: jax.Array, count: int) -> Samples:
        del count  # grading those that fill the batch up costs nothing
        return on_device(params, batch, keys_BG)

    return sample
