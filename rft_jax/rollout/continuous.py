"""Continuous batching: a slot whose completion has ended takes another sample from the queue.

(Orca, https://www.usenix.org/conference/osdi22/presentation/yu, inside of one compiled loop.) Slots
come in lanes. The slots of a lane share the keys and values of two prompts: while the last samples
of one prompt are decoded, free slots begin with those of the next. So a decoded token reads two
prompts for each lane, where with slots on their own it would read one for each slot.

With a pool (`models.pages`) the cache has room for fewer tokens than all slots at full length.
Where it is full the youngest completions give way: they begin anew once there is room, with the
same noise, so that their tokens are the same but for rounding. The longest go on to their end.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models import Prefix
from rft_jax.models.cache import PromptState, for_each
from rft_jax.models.pages import Pool, page_tokens
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

PROMPTS_PER_LANE = 2  # Z: the one whose last samples are decoded, and the next
NONE = -1


class _Lanes(NamedTuple):
    """What is in C lanes of M slots, of a queue of B prompts with G samples each."""

    prompt_CM: Array  # int32, that of the slot's completion; NONE before the first
    sample_CM: Array  # int32
    waiting_CM: Array  # bool: it has to begin, for which there was no room
    prompt_CZ: Array  # int32, prompts that the lane has; NONE before the first
    states: Mapping[str, PromptState]  # what layers keep of those; unrolled as the queue's are
    newest_C: Array  # int32, which of the Z prompts came last
    begun_C: Array  # int32, how many of its samples slots have taken
    taken: Array  # int32, prompts that lanes have taken


class _Loop(NamedTuple):
    """What goes from token to token."""

    slots: DecodeSlots
    lanes: _Lanes
    record_BGT: SampledTokens


def count_lanes(count: int, prompts: int, group: int) -> tuple[int, int]:
    """How many lanes so many slots make, C, and the slots of each, M."""
    width = math.gcd(count, max(PROMPTS_PER_LANE, group // 2))
    return min(count // width, prompts), width


def make_pool(cache_tokens: int | None, parts: int, tokens: int) -> Pool | None:
    """The pool of one of so many parts of a batch, of completions of up to T tokens.

    It holds one whole completion at least: on more devices than the setting was made for, as an
    evaluation may have, fewer tokens would let none end.
    """
    if cache_tokens is None:
        return None
    size = page_tokens(tokens)
    return Pool(max(-(-(cache_tokens // parts) // size), -(-tokens // size)), size)


def most_tokens(count: int, prompts: int, group: int, tokens: int, pool: Pool | None = None) -> int:
    """The most that a slot decodes until B x G completions of up to T tokens have ended.

    After T tokens every slot has gone on to another sample, so that a lane takes a prompt at the
    latest when G / M times T tokens have passed since the last. It looks for one once a token.

    A pool of m whole completions lets the m oldest go on, so that T tokens end m of them. While
    fewer than m are there, all go on, and lanes that have slots free take a prompt within T tokens.
    """
    C, M = count_lanes(count, prompts, group)
    rounds = math.ceil(prompts / C) * math.ceil(group / M) + 1
    if pool is not None and (whole := pool.whole(tokens)) < C * M:
        free = C - (whole - 1) // M
        rounds = math.ceil(prompts * group / whole) + math.ceil(prompts / free)
        rounds += math.ceil(group / M) + 1
    return (tokens + 1) * rounds


def decode_queue(
    decoder: DecodeContext, queue: PromptSamples, count: int, in_any_part: Callable[[Array], Array]
) -> SampledTokens:
    """Completes all pairs of a queue in fewer slots than there are pairs.

    Args:
        decoder: The model, and how it is sampled from.
        queue: B prompts, G samples of each.
        count: How many slots.
        in_any_part: Whether a flag is set in any of the queues that are completed side by side;
            all go on until the last is empty.

    Returns:
        The record [B, G, T].
    """
    B, G = queue.keys_CM.shape
    C, M = count_lanes(count, B, G)

    def unfinished(loop: _Loop) -> Array:
        waiting = (loop.lanes.taken != B) | (loop.lanes.begun_C != G).any()
        return in_any_part(waiting | _in_use(loop).any())

    def step(loop: _Loop) -> _Loop:
        # Prompts before samples: a lane that takes a prompt fills its free slots with it at once.
        loop = _begin_samples(decoder, queue, _take_prompts(queue, loop))
        slots, new_CM = decode(decoder, _in_slots(queue, loop.lanes), loop.slots)
        return loop._replace(slots=slots, record_BGT=_write(loop, new_CM))

    bound = most_tokens(count, B, G, decoder.tokens, decoder.pool)
    return decode_while(decoder, unfinished, step, _empty(decoder, queue, C, M), bound).record_BGT


def _empty(decoder: DecodeContext, queue: PromptSamples, C: int, M: int) -> _Loop:
    """Nothing in the slots, all in the queue."""
    _, G = queue.keys_CM.shape
    states = queue.prefix.states
    lanes = _Lanes(
        prompt_CM=jnp.full((C, M), NONE),
        sample_CM=jnp.zeros((C, M), jnp.int32),
        waiting_CM=jnp.zeros((C, M), bool),
        prompt_CZ=jnp.full((C, PROMPTS_PER_LANE), NONE),
        states={name: kept.room(C, PROMPTS_PER_LANE) for name, kept in states.items()},
        newest_C=jnp.zeros(C, jnp.int32),
        # As if all samples of a prompt had begun, so that each lane first takes one.
        begun_C=jnp.full(C, G),
        taken=jnp.zeros((), jnp.int32),
    )
    slots = init_slots(decoder, _in_slots(queue, lanes))
    slots = slots._replace(running_CM=jnp.zeros((C, M), bool))
    return _Loop(slots, lanes, empty_record(decoder, queue.keys_CM))


def _take_prompts(queue: PromptSamples, loop: _Loop) -> _Loop:
    """Lanes whose newest prompt has no samples left take another in the place of the one before, if
    all completions of that have ended."""
    (B, G), lanes = queue.keys_CM.shape, loop.lanes
    # A slot attends to its prompt's keys until it has ended, so that they may not be overwritten.
    older_CM = _in_use(loop) & (lanes.prompt_CM != _newest_prompt(lanes))
    takes_C = (lanes.begun_C == G) & ~older_CM.any(axis=1)
    prompt_C = lanes.taken + jnp.cumsum(takes_C, dtype=jnp.int32) - 1
    takes_C &= prompt_C < B
    newest_C = jnp.where(takes_C, 1 - lanes.newest_C, lanes.newest_C)

    def move(lane: Array, states: Mapping[str, PromptState]) -> Mapping[str, PromptState]:
        return {
            name: kept.place(lane, newest_C[lane], queue.prefix.states[name], prompt_C[lane])
            for name, kept in states.items()
        }

    placed_CZ = takes_C[:, None] & (jnp.arange(PROMPTS_PER_LANE) == newest_C[:, None])
    lanes = lanes._replace(
        prompt_CZ=jnp.where(placed_CZ, prompt_C[:, None], lanes.prompt_CZ),
        # In a loop over the lanes that take one, as seldom any does: a gather for all of them would
        # copy every lane's keys for every token.
        states=for_each(takes_C, move, lanes.states),
        newest_C=newest_C,
        begun_C=jnp.where(takes_C, 0, lanes.begun_C),
        taken=lanes.taken + takes_C.sum(dtype=jnp.int32),
    )
    return loop._replace(lanes=lanes)


def _begin_samples(decoder: DecodeContext, queue: PromptSamples, loop: _Loop) -> _Loop:
    """Free slots begin with the next samples of their lane's newest prompt, as far as the cache has
    room for all that run."""
    slots, lanes, G = loop.slots, loop.lanes, queue.keys_CM.shape[1]
    free_CM = ~_in_use(loop)
    sample_CM = lanes.begun_C[:, None] + jnp.cumsum(free_CM, axis=1, dtype=jnp.int32) - 1
    takes_CM = free_CM & (sample_CM < G)
    would_begin_CM = takes_CM | lanes.waiting_CM
    cache, fits_CM = slots.cache.allot(would_begin_CM, slots.running_CM)
    begins_CM = would_begin_CM & fits_CM
    lanes = lanes._replace(
        prompt_CM=jnp.where(takes_CM, _newest_prompt(lanes), lanes.prompt_CM),
        sample_CM=jnp.where(takes_CM, sample_CM, lanes.sample_CM),
        waiting_CM=(would_begin_CM | slots.running_CM) & ~fits_CM,
        begun_C=lanes.begun_C + takes_CM.sum(axis=1, dtype=jnp.int32),
    )
    pairs = _in_slots(queue, lanes)
    fresh = init_slots(decoder, pairs)

    def begin(new: Array, old: Array) -> Array:
        return jnp.where(begins_CM.reshape(begins_CM.shape + (1,) * (old.ndim - 2)), new, old)

    gave_way_CM = slots.running_CM & ~fits_CM
    slots = slots._replace(
        hidden_CMD=begin(fresh.hidden_CMD, slots.hidden_CMD),
        cache=cache.begin(begins_CM, pairs.prefix),
        state=jax.tree.map(begin, fresh.state, slots.state),
        running_CM=fits_CM,
    )
    record_BGT = loop.record_BGT
    if decoder.pool is not None:
        record_BGT = _erase(decoder, lanes, gave_way_CM, record_BGT)
    return _Loop(slots, lanes, record_BGT)


def _erase(
    decoder: DecodeContext, lanes: _Lanes, chosen_CM: Array, record_BGT: SampledTokens
) -> SampledTokens:
    """The record without what the completions of some slots had written, as rounding may end them
    earlier the next time."""
    prompt_X, sample_X = lanes.prompt_CM.reshape(-1), lanes.sample_CM.reshape(-1)
    empty_T = jax.tree.map(lambda x: x[0, 0], empty_record(decoder, jnp.zeros((1, 1))))

    def erase(slot: Array, record_BGT: SampledTokens) -> SampledTokens:
        place = prompt_X[slot], sample_X[slot]
        return jax.tree.map(lambda x, empty: x.at[place].set(empty), record_BGT, empty_T)

    return for_each(chosen_CM.reshape(-1), erase, record_BGT)


def _in_use(loop: _Loop) -> Array:
    """bool[C, M]: slots with a completion that has not ended."""
    return loop.slots.running_CM | loop.lanes.waiting_CM


def _newest_prompt(lanes: _Lanes) -> Array:
    """int32[C, 1]: the prompt that each lane took last."""
    return jnp.take_along_axis(lanes.prompt_CZ, lanes.newest_C[:, None], axis=1)


def _write(loop: _Loop, new_CM: SampledTokens) -> SampledTokens:
    """The record with a token more of every running completion."""
    record_BGT, slots, lanes = loop.record_BGT, loop.slots, loop.lanes
    # A slot that has ended writes to a prompt beyond the last, which is dropped.
    prompt_CM = jnp.where(slots.running_CM, lanes.prompt_CM, len(record_BGT.tokens_x))
    place_CM = prompt_CM, lanes.sample_CM, slots.cache.length_BG
    return jax.tree.map(lambda x, new: x.at[place_CM].set(new, mode="drop"), record_BGT, new_CM)


def _in_slots(queue: PromptSamples, lanes: _Lanes) -> PromptSamples:
    """The pairs that are in the slots."""
    own_CMZ = queue.prefix.own(lanes.prompt_CZ, lanes.prompt_CM)
    mask_CMX = queue.prefix.seen(lanes.prompt_CZ, own_CMZ)
    position_X = jnp.tile(queue.prefix.position_P, PROMPTS_PER_LANE)
    prompt_CM = jnp.maximum(lanes.prompt_CM, 0)
    return PromptSamples(
        prefix=Prefix(lanes.states, mask_CMX[:, :, None], position_X, own_CMZ[:, :, None]),
        prompt_length_CX=queue.prompt_length_CX[prompt_CM, 0],
        last_CXD=queue.last_CXD[prompt_CM, 0],
        keys_CM=queue.keys_CM[prompt_CM, lanes.sample_CM],
    )
