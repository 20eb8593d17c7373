"""Answers to one prompt, for people and other programs."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from rft_jax.config import RolloutConfig
from rft_jax.evaluation.evaluator import EXACT
from rft_jax.models import Params, merge
from rft_jax.rollout import Prompts, Rollout, completion_keys, rollout
from rft_jax.runs.reopen import open_model
from rft_jax.step import logit_mask
from rft_jax.utils.compilation_cache import use_compilation_cache
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject


def sample_model(
    path: Path,
    prompt: str,
    *,
    max_tokens: int | None,
    temperature: float,
    seed: int,
    samples: int,
) -> Iterator[JsonObject]:
    """Samples answers to one user message.

    Args:
        path: As for `run.open_model`.
        max_tokens: The longest completion; None: as the run's reinforcement stage has it.
        temperature: 0 decodes greedily.

    Yields:
        For each sample its text, thought, token ids and stop reason ("stop" or "length").

    Raises:
        InputError: If there is no such model or an option cannot work.
    """
    if samples < 1 or (max_tokens is not None and max_tokens < 1):
        raise InputError("samples and max_tokens must be at least 1")
    if not 0 <= temperature < math.inf:
        raise InputError("temperature must be a number from 0")
    if any("\ud800" <= character <= "\udfff" for character in prompt):
        raise InputError("the prompt is not UTF-8; correct its encoding")
    run, stage, step = opened = open_model(path)
    use_compilation_cache(run.config.compilation_cache)
    model, tokenizer = run.model(stage), run.tokenizer
    config = opened.sampling or RolloutConfig()
    length = max_tokens or config.max_completion_tokens
    config = dataclasses.replace(
        config,
        max_completion_tokens=length,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        slots=0,
        **EXACT,
    )
    mask = logit_mask(tokenizer, min(config.thinking_tokens, max(length - 2, 0)))
    tokens = tokenizer.encode_prompt([{"role": "user", "content": prompt}])
    prompts = Prompts(jnp.asarray([tokens], jnp.int32), jnp.asarray([len(tokens)], jnp.int32))
    zero = jnp.zeros((1,), jnp.int32)
    keys = completion_keys(jnp.uint32(seed), jnp.int32(0), zero, zero, samples)

    @jax.jit
    def run_rollout(params: Params) -> Rollout:
        copy = merge(params, model.dtype)
        stops = {"stop_ids": tokenizer.stop_ids, "pad_id": tokenizer.pad_id}
        return rollout(model, copy, prompts, keys, mask, config, **stops)

    output = jax.device_get(run_rollout(run.load_params(stage, step)))
    for g in range(samples):
        ids = output.tokens_BGT[0, g, : output.length_BG[0, g]].tolist()
        answer = slice(output.answer_start_BG[0, g], output.answer_end_BG[0, g])
        text = tokenizer.decode(ids[answer])
        yield {
            "text": text.lstrip("\n") if tokenizer.answer_separator else text,
            "thought": tokenizer.decode(ids[: output.thinking_tokens_BG[0, g]]),
            "token_ids": ids,
            "stop_reason": "stop" if output.stopped_BG[0, g] else "length",
        }
