"""Sampling completions: `rollout` is a pure function of weights, prompts and keys.

Each prompt is run once. Then a loop samples a token for every completion and runs the decoder on
it, until all have stopped. The G samples of a prompt share its prefix; or, with fewer slots than
completions, they wait in a queue (`continuous`).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.config import RolloutConfig
from rft_jax.models import Model, Params
from rft_jax.parallel import batch_parts, in_any_part, shard_over_batch
from rft_jax.rollout.continuous import decode_queue, make_pool
from rft_jax.rollout.decode import (
    DecodeContext,
    DecodeSlots,
    PromptSamples,
    SampledTokens,
    decode,
    decode_while,
    empty_record,
    init_slots,
    is_stop,
)
from rft_jax.rollout.logit_masks import LogitMask
from rft_jax.rollout.sampling import Sampling


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
    # float32, under what sampled, after truncation by top-k and top-p; 0 where the mask is False
    logprobs_BGT: Array
    turn_BGT: Array  # int8, the turn of the conversation; all 0 in single-turn tasks
    length_BG: Array  # int32
    stopped_BG: Array  # bool: ended by a stop token; otherwise cut at T
    thinking_tokens_BG: Array  # int32, before the marker, or before the stop if it never came
    has_answer_BG: Array  # bool: the marker was passed, or the format has none
    answer_start_BG: Array  # int32, index of the answer's first token
    answer_end_BG: Array  # int32, one past its last, without the stop token


class _Loop(NamedTuple):
    """What grows."""

    slots: DecodeSlots
    record_BGT: SampledTokens


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
        config: Lengths, slots, temperature and truncation; temperature 0 decodes greedily.
        stop_ids: Tokens that end a completion.
        pad_id: Fills the rest of the array.
    """
    row_sharding = model.row_sharding
    parts = 1 if row_sharding is None else batch_parts(row_sharding.mesh)
    # Slots pay off where each decodes at least two completions; otherwise all are decoded at once.
    slots = config.slots // parts if 2 * config.slots <= keys_BG.size else 0
    # A device has slots and a queue of its own, so that no prompt's keys move to another device.
    apart = parts > 1 and slots > 0
    alone = dataclasses.replace(model, row_sharding=None) if apart else model

    T = config.max_completion_tokens
    sampling = Sampling(config.temperature, config.top_k, config.top_p, T)

    def record(params: Params, prompts: Prompts, keys_BG: Array) -> SampledTokens:
        last_BD, prefix = alone.prefill(params, prompts.tokens_BP, prompts.length_B)
        prefix = prefix.in_int8() if config.int8_cache else prefix
        layers, prefix = alone.prepare_decoding(params, prefix)
        pairs = PromptSamples(prefix, prompts.length_B[:, None], last_BD[:, None], keys_BG)
        pool = make_pool(config.cache_tokens, parts, T) if slots else None
        decoder = DecodeContext(alone, params, layers, mask, sampling, T, stop_ids, pad_id, pool)
        if not slots:
            return _decode_all(decoder, pairs)
        return decode_queue(decoder, pairs, slots, in_any_part if apart else jnp.asarray)

    if row_sharding is not None and apart:
        record = shard_over_batch(record, row_sharding.mesh)
    return _finish(record(params, prompts, keys_BG), mask, stop_ids)


def _decode_all(decoder: DecodeContext, pairs: PromptSamples) -> SampledTokens:
    """Completes B x G pairs side by side."""

    def step(loop: _Loop) -> _Loop:
        at = loop.slots.cache.written  # the same token of all completions, as all began at once
        slots, new_BG = decode(decoder, pairs, loop.slots)
        record_BGT = jax.tree.map(lambda x, new: x.at[..., at].set(new), loop.record_BGT, new_BG)
        return _Loop(slots, record_BGT)

    loop = _Loop(init_slots(decoder, pairs), empty_record(decoder, pairs.keys_CM))
    return decode_while(
        decoder, lambda loop: loop.slots.running_CM.any(), step, loop, decoder.tokens
    ).record_BGT


def _finish(record: SampledTokens, mask: LogitMask, stop_ids: tuple[int, ...]) -> Rollout:
    """Where thought, answer and completion end."""
    tokens_BGT, policy_mask_BGT, logprobs_BGT, written_BGT = record
    marker_BGT = jnp.zeros_like(policy_mask_BGT)
    if mask.end_of_think_id is not None:
        marker_BGT = written_BGT & (tokens_BGT == mask.end_of_think_id)
    length_BG = written_BGT.sum(axis=-1, dtype=jnp.int32)
    stop_BGT = written_BGT & is_stop(tokens_BGT, stop_ids)
    stopped_BG = stop_BGT.any(axis=-1)
    has_answer_BG = marker_BGT.any(axis=-1) | (mask.end_of_think_id is None)
    before_BGT = jnp.cumsum(marker_BGT, axis=-1) == 0
    before_BG = (before_BGT & written_BGT).sum(axis=-1, dtype=jnp.int32)
    thinking = mask.end_of_think_id is not None
    end_BG = length_BG - stopped_BG
    start_BG = jnp.minimum(before_BG + 1, end_BG) if thinking else jnp.zeros_like(length_BG)
    return Rollout(
        tokens_BGT=tokens_BGT,
        policy_mask_BGT=policy_mask_BGT,
        logprobs_BGT=logprobs_BGT,
        turn_BGT=jnp.zeros(tokens_BGT.shape, jnp.int8),
        length_BG=length_BG,
        stopped_BG=stopped_BG,
        thinking_tokens_BG=jnp.minimum(before_BG, end_BG) if thinking else jnp.zeros_like(end_BG),
        has_answer_BG=has_answer_BG,
        answer_start_BG=jnp.where(has_answer_BG, start_BG, end_BG),
        answer_end_BG=end_BG,
    )
