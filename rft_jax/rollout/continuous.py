"""Continuous batching: a slot whose completion has ended takes another sample from the queue.

(Orca, https://www.usenix.org/conference/osdi22/presentation/yu, inside of one compiled loop.) Slots
come in lanes, whose slots share the keys and values of two prompts: while the last samples of one
prompt are decoded, slots that are free begin with those of the next. So a decoded token reads two
prompts for each lane, where with slots on their own it would read one for each slot.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models import Prefix
from rft_jax.rollout.decode import (
    DecodeContext,
    DecodeSlots,
    PromptSamples,
    SampledTokens,
    decode,
    decode_while,
    empty_record,
    init_slots,
)

PROMPTS_PER_LANE = 2  # for prompts in a lane, Z
NONE = -1


class _Loop(NamedTuple):
    """C lanes of M slots, and a queue of B prompts with G samples each."""

    slots: DecodeSlots
    prompt_CM: Array  # int32, that of the slot's completion; NONE before the first
    sample_CM: Array  # int32
    prompt_CZ: Array  # int32, prompts whose keys and values the lane has; NONE before the first
    kv_LCKXQ: Any  # those, side by side: X = Z x P; unrolled as the queue's prefix is
    newest_C: Array  # int32, place of the prompt that came last
    begun_C: Array  # int32, how many of its samples slots have taken
    taken: Array  # int32, prompts that lanes have taken
    record_BGT: SampledTokens


def lanes(count: int, prompts: int, group: int) -> tuple[int, int]:
    """How many lanes so many slots make, C, and the slots of each, M."""
    width = math.gcd(count, max(PROMPTS_PER_LANE, group // 2))
    return min(count // width, prompts), width


def most_tokens(count: int, prompts: int, group: int, tokens: int) -> int:
    """The most that a slot decodes until B x G completions of up to T tokens have ended.

    After T tokens every slot has gone on to another sample, so that a lane takes a prompt at the
    latest when G / M times T tokens have passed since the last. It looks for one once a token.
    """
    C, M = lanes(count, prompts, group)
    return (tokens + 1) * (math.ceil(prompts / C) * math.ceil(group / M) + 1)


def decode_queue(
    decoder: DecodeContext, queue: PromptSamples, count: int, in_any_part: Callable[[Array], Array]
) -> SampledTokens:
    """Completes all pairs of a queue in fewer slots than there are pairs.

    Args:
        decoder: The model, and how it is sampled from.
        queue: B prompts, G samples of each.
        count: Of slots.
        in_any_part: Whether a flag is set in any of the queues that are completed side by side;
            all go on until the last is empty.

    Returns:
        The record [B, G, T].
    """
    B, G = queue.keys_CM.shape
    C, M = lanes(count, B, G)

    def unfinished(loop: _Loop) -> Array:
        waiting = (loop.taken != B) | (loop.begun_C != G).any()
        return in_any_part(waiting | loop.slots.running_CM.any())

    def step(loop: _Loop) -> _Loop:
        loop = _begin_samples(decoder, queue, _take_prompts(queue, loop))
        slots, new_CM = decode(decoder, _in_slots(queue, loop), loop.slots)
        return loop._replace(slots=slots, record_BGT=_write(loop, new_CM))

    tokens = decoder.config.max_completion_tokens
    bound = most_tokens(count, B, G, tokens)
    return decode_while(unfinished, step, _empty(decoder, queue, C, M), tokens, bound).record_BGT


def _empty(decoder: DecodeContext, queue: PromptSamples, C: int, M: int) -> _Loop:
    """Nothing in the slots, all in the queue."""
    _, G = queue.keys_CM.shape
    axis = queue.prefix.batch_axis

    def places(x_LBKPx: Array) -> Array:
        _, K, P, *rest = x_LBKPx.shape[axis:]
        return jnp.zeros((*x_LBKPx.shape[:axis], C, K, PROMPTS_PER_LANE * P, *rest), x_LBKPx.dtype)

    loop = _Loop(
        slots=None,
        prompt_CM=jnp.full((C, M), NONE),
        sample_CM=jnp.zeros((C, M), jnp.int32),
        prompt_CZ=jnp.full((C, PROMPTS_PER_LANE), NONE),
        kv_LCKXQ=jax.tree.map(places, _keys_and_values(queue)),
        newest_C=jnp.zeros(C, jnp.int32),
        begun_C=jnp.full(C, G),
        taken=jnp.zeros((), jnp.int32),
        record_BGT=empty_record(decoder, queue.keys_CM),
    )
    slots = init_slots(decoder, _in_slots(queue, loop))
    return loop._replace(slots=slots._replace(running_CM=jnp.zeros((C, M), bool)))


def _take_prompts(queue: PromptSamples, loop: _Loop) -> _Loop:
    """Lanes whose newest prompt has no samples left take another in the place of the one before, if
    all completions of that have ended."""
    (B, G), P = queue.keys_CM.shape, queue.prefix.place_P.size
    newest_C1 = jnp.take_along_axis(loop.prompt_CZ, loop.newest_C[:, None], axis=1)
    older_CM = loop.slots.running_CM & (loop.prompt_CM != newest_C1)
    takes_C = (loop.begun_C == G) & ~older_CM.any(axis=1)
    prompt_C = loop.taken + jnp.cumsum(takes_C, dtype=jnp.int32) - 1
    takes_C &= prompt_C < B
    newest_C = jnp.where(takes_C, 1 - loop.newest_C, loop.newest_C)

    def move(lane: Array, kv_LCKXQ: Any) -> Any:
        def copy(x_LBKPx: Array, x_LCKXx: Array) -> Array:
            axis = queue.prefix.batch_axis
            one = jax.lax.dynamic_index_in_dim(x_LBKPx, prompt_C[lane], axis)
            at = (*(0,) * axis, lane, 0, newest_C[lane] * P, 0)
            return jax.lax.dynamic_update_slice(x_LCKXx, one, at[: one.ndim])

        return jax.tree.map(copy, _keys_and_values(queue), kv_LCKXQ)

    placed_CZ = takes_C[:, None] & (jnp.arange(PROMPTS_PER_LANE) == newest_C[:, None])
    return loop._replace(
        prompt_CZ=jnp.where(placed_CZ, prompt_C[:, None], loop.prompt_CZ),
        kv_LCKXQ=_for_each(takes_C, move, loop.kv_LCKXQ),
        newest_C=newest_C,
        begun_C=jnp.where(takes_C, 0, loop.begun_C),
        taken=loop.taken + takes_C.sum(dtype=jnp.int32),
    )


def _begin_samples(decoder: DecodeContext, queue: PromptSamples, loop: _Loop) -> _Loop:
    """Free slots begin with the next samples of their lane's newest prompt."""
    slots, G = loop.slots, queue.keys_CM.shape[1]
    free_CM = ~slots.running_CM
    sample_CM = loop.begun_C[:, None] + jnp.cumsum(free_CM, axis=1, dtype=jnp.int32) - 1
    begins_CM = free_CM & (sample_CM < G)
    newest_C1 = jnp.take_along_axis(loop.prompt_CZ, loop.newest_C[:, None], axis=1)
    loop = loop._replace(
        prompt_CM=jnp.where(begins_CM, newest_C1, loop.prompt_CM),
        sample_CM=jnp.where(begins_CM, sample_CM, loop.sample_CM),
        begun_C=loop.begun_C + begins_CM.sum(axis=1, dtype=jnp.int32),
    )
    fresh = init_slots(decoder, _in_slots(queue, loop))

    def begin(new: Array, old: Array) -> Array:
        return jnp.where(begins_CM.reshape(begins_CM.shape + (1,) * (old.ndim - 2)), new, old)

    length_BG = begin(fresh.cache.length_BG, slots.cache.length_BG)
    slots = slots._replace(
        hidden_CMD=begin(fresh.hidden_CMD, slots.hidden_CMD),
        cache=slots.cache._replace(length_BG=length_BG),
        state=jax.tree.map(begin, fresh.state, slots.state),
        running_CM=slots.running_CM | begins_CM,
    )
    return loop._replace(slots=slots)


def _write(loop: _Loop, new_CM: SampledTokens) -> SampledTokens:
    """The record with a token more of every running completion."""
    record_BGT, slots = loop.record_BGT, loop.slots
    prompt_CM = jnp.where(slots.running_CM, loop.prompt_CM, len(record_BGT.tokens_x))
    place_CM = prompt_CM, loop.sample_CM, slots.cache.length_BG
    return jax.tree.map(lambda x, new: x.at[place_CM].set(new, mode="drop"), record_BGT, new_CM)


def _in_slots(queue: PromptSamples, loop: _Loop) -> PromptSamples:
    """The pairs that are in the slots."""
    mask_CMX = queue.prefix.seen(loop.prompt_CZ, loop.prompt_CM)
    place_X = jnp.tile(queue.prefix.place_P, PROMPTS_PER_LANE)
    prompt_CM = jnp.maximum(loop.prompt_CM, 0)
    return PromptSamples(
        prefix=Prefix(*loop.kv_LCKXQ, mask_CMX[:, :, None], place_X),
        prompt_length_CX=queue.prompt_length_CX[prompt_CM, 0],
        last_CXD=queue.last_CXD[prompt_CM, 0],
        keys_CM=queue.keys_CM[prompt_CM, loop.sample_CM],
    )


def _keys_and_values(queue: PromptSamples) -> Any:
    return queue.prefix.k_LBKPQ, queue.prefix.v_LBKPQ


def _for_each(chosen_X: Array, move: Callable[[Array, Any], Any], target: Any) -> Any:
    """The target after `move(index, target)` for every chosen index, in place."""

    def one(carry: tuple[Array, Any]) -> tuple[Array, Any]:
        left_X, target = carry
        index = jnp.argmax(left_X)
        return left_X.at[index].set(False), move(index, target)

    return jax.lax.while_loop(lambda carry: carry[0].any(), one, (chosen_X, target))[1]
