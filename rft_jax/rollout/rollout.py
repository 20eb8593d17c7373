"""Sampling completions: `rollout` is a pure function of weights, prompts and keys.

Each prompt is run once; its G samples share the resulting prefix. One loop iteration samples a
token for every completion and runs the decoder on it; the loop ends when all have stopped.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import RolloutConfig
from rft_jax.models import Cache, Model, Params, init_cache
from rft_jax.rollout import logit_masks
from rft_jax.rollout.logit_masks import LogitMask, MaskState
from rft_jax.rollout.sampling import sample, token_uniform


class Prompts(NamedTuple):
    """Encoded prompts."""

    tokens_BP: Array  # int32, padded on the right
    length_B: Array  # int32


class Rollout(NamedTuple):
    """Completions of B prompts, G each; the stop token is part of a completion.

    Where `tokens_BGT` lies beyond `length_BG` it holds the pad token. `policy_mask_BGT` is True for
    tokens that the policy decided: not for forced ones, not for padding.
    """

    tokens_BGT: Array  # int32
    policy_mask_BGT: Array  # bool
    logprobs_BGT: Array  # float32, under the policy that sampled; 0 where the mask is False
    turn_BGT: Array  # int8, the turn of the conversation; all 0 in single-turn tasks
    length_BG: Array  # int32
    stopped_BG: Array  # bool: ended by a stop token; otherwise cut at T
    thinking_tokens_BG: Array  # int32, before the marker, or before the stop if it never came
    has_answer_BG: Array  # bool: the marker was passed, or the format has none
    answer_start_BG: Array  # int32, index of the answer's first token
    answer_end_BG: Array  # int32, one past its last, without the stop token


class _Loop(NamedTuple):
    position: Array
    hidden_BGD: Array
    cache: Cache
    state: MaskState
    running_BG: Array
    tokens_BGT: Array
    policy_mask_BGT: Array
    logprobs_BGT: Array


def rollout(
    model: Model,
    params: Params,
    prompts: Prompts,
    keys_BG: Array,
    mask: LogitMask,
    config: RolloutConfig,
    *,
    stop_ids: tuple[int, ...],
    pad_id: int,
) -> Rollout:
    """Samples G completions for each of B prompts.

    Args:
        model: The decoder.
        params: Its weights as the rollout wants them: cast and sharded once, before the loop.
        prompts: The prompts.
        keys_BG: From `completion_keys`; their shape says how many samples.
        mask: What may be sampled, and the thinking format.
        config: Lengths, temperature and truncation; temperature 0 decodes greedily.
        stop_ids: Tokens that end a completion.
        pad_id: Fills the rest of the array.
    """
    group, T = keys_BG.shape[1], config.completion_tokens
    last_BD, prefix = model.prefill(params, prompts.tokens_BP, prompts.length_B)
    prefix = prefix.in_int8() if config.int8_cache else prefix
    stops = jnp.asarray(stop_ids, jnp.int32)

    def unfinished(loop: _Loop) -> Array:
        return (loop.position < T) & loop.running_BG.any()

    def step(loop: _Loop) -> _Loop:
        logits_BGV = model.logits(params, loop.hidden_BGD)
        logits_BGV = logit_masks.policy_logits(mask, loop.state, logits_BGV, config.temperature)
        token_BG, logprob_BG = sample(
            logits_BGV,
            token_uniform(keys_BG, loop.position),
            greedy=config.temperature == 0,
            top_k=config.top_k,
            top_p=config.top_p,
        )
        forced_BG = logit_masks.forced(mask, loop.state)
        if mask.end_of_think_id is not None:
            token_BG = jnp.where(forced_BG, mask.end_of_think_id, token_BG)
        token_BG = jnp.where(loop.running_BG, token_BG, pad_id)
        decided_BG = loop.running_BG & ~forced_BG
        stop_BG = decided_BG & (token_BG[..., None] == stops).any(axis=-1)
        state = logit_masks.advance(mask, loop.state, token_BG)
        hidden_BGD, cache = model.decode(
            params,
            token_BG,
            prompts.length_B[:, None] + loop.position + jnp.zeros_like(token_BG),
            prefix,
            loop.cache,
        )
        at = loop.position
        return _Loop(
            position=at + 1,
            hidden_BGD=hidden_BGD,
            cache=cache,
            state=state,
            running_BG=loop.running_BG & ~stop_BG,
            tokens_BGT=loop.tokens_BGT.at[..., at].set(token_BG),
            policy_mask_BGT=loop.policy_mask_BGT.at[..., at].set(decided_BG),
            logprobs_BGT=loop.logprobs_BGT.at[..., at].set(jnp.where(decided_BG, logprob_BG, 0)),
        )

    shape = (last_BD.shape[0], group)
    loop = jax.lax.while_loop(
        unfinished,
        step,
        _Loop(
            position=jnp.zeros((), jnp.int32),
            hidden_BGD=jnp.broadcast_to(last_BD[:, None], (*shape, last_BD.shape[1])),
            cache=init_cache(prefix, group, T),
            state=logit_masks.start(mask, shape),
            running_BG=jnp.ones(shape, bool),
            tokens_BGT=jnp.full((*shape, T), pad_id, jnp.int32),
            policy_mask_BGT=jnp.zeros((*shape, T), bool),
            logprobs_BGT=jnp.zeros((*shape, T), jnp.float32),
        ),
    )
    return _finish(loop, mask)


def _finish(loop: _Loop, mask: LogitMask) -> Rollout:
    """Where thought, answer and completion end."""
    T = loop.tokens_BGT.shape[-1]
    marker_BGT = jnp.zeros_like(loop.policy_mask_BGT)
    if mask.end_of_think_id is not None:
        marker_BGT = loop.tokens_BGT == mask.end_of_think_id
    written_BGT = loop.policy_mask_BGT | marker_BGT  # a forced token is a marker
    length_BG = written_BGT.sum(axis=-1, dtype=jnp.int32)
    stopped_BG = ~loop.running_BG
    has_answer_BG = marker_BGT.any(axis=-1) | (mask.end_of_think_id is None)
    before_BGT = jnp.cumsum(marker_BGT, axis=-1) == 0
    before_BG = (before_BGT & written_BGT).sum(axis=-1, dtype=jnp.int32)
    thinking = mask.end_of_think_id is not None
    end_BG = length_BG - stopped_BG
    start_BG = jnp.minimum(before_BG + 1, end_BG) if thinking else jnp.zeros_like(length_BG)
    return Rollout(
        tokens_BGT=loop.tokens_BGT,
        policy_mask_BGT=loop.policy_mask_BGT,
        logprobs_BGT=loop.logprobs_BGT,
        turn_BGT=jnp.zeros((*length_BG.shape, T), jnp.int8),
        length_BG=length_BG,
        stopped_BG=stopped_BG,
        thinking_tokens_BG=jnp.minimum(before_BG, end_BG) if thinking else jnp.zeros_like(end_BG),
        has_answer_BG=has_answer_BG,
        answer_start_BG=jnp.where(has_answer_BG, start_BG, end_BG),
        answer_end_BG=end_BG,
    )
