"""Continuous batching for requests that come one by one: slots, and programs over all of them.

A slot has what layers keep of a prompt of its own, the completion that grows behind it, and how it
is sampled. Three programs change the slots, which are donated: `begin` runs prompts and puts them
into slots, `repeat` begins in one slot with the prompt that is in another, `decode_tokens` decodes
up to k tokens in all slots. Between them the host takes tokens and frees slots (`batcher`).

Letters as in docs/architecture.md; S is the slots, each a row by itself (C = S, M = 1 of
`rollout.decode`), P the room for prompts, T that for completions.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.grammars import FREE, GrammarTables
from rft_jax.models import Cache, Model, Params, Prefix
from rft_jax.models.cache import LayerCache, PromptState
from rft_jax.models.layer_kinds.key_values import KeyValues, Unrolled
from rft_jax.rollout import logit_masks
from rft_jax.rollout.decode import DecodeContext, DecodeSlots, PromptSamples, decode_from
from rft_jax.rollout.grammar_mask import GrammarState
from rft_jax.rollout.logit_masks import FORBIDDEN_LOGIT, LogitMask, MaskState
from rft_jax.rollout.sampling import Sampling, completion_key

TOP = 20  # alternatives whose log-probabilities are told


@dataclass(frozen=True)
class Decoding:
    """What programs are compiled for, besides shapes."""

    model: Model
    forbidden_ids: tuple[int, ...]
    end_of_think_id: int | None
    stop_ids: tuple[int, ...]
    pad_id: int
    lead_ids: tuple[int, ...] = ()


class Weights(NamedTuple):
    """A model's weights, as prefill and as decoding take them."""

    params: Params
    layers: dict[str, tuple[Params, ...]]  # the same layers, each by itself


class Sample(NamedTuple):
    """How one completion is sampled; in `Slots` arrays [S], else scalars.

    Attributes:
        seed: uint32.
        step: int32, with the seed the noise's.
        index: int32, of the sample among those of its request.
        temperature: float32; 0 decodes greedily.
        top_p: float32.
        thinking_tokens: int32, the budget.
        most_tokens: int32, where the completion is cut.
        grammar: int32, the grammar's first state, or that where anything may follow.
        grammar_tokens: int32, within which an answer with a grammar ends.
        tells: bool, whether log-probabilities of alternatives are wanted.
    """

    seed: Array | np.ndarray
    step: Array | np.ndarray
    index: Array | np.ndarray
    temperature: Array | np.ndarray
    top_p: Array | np.ndarray
    thinking_tokens: Array | np.ndarray
    most_tokens: Array | np.ndarray
    grammar: Array | np.ndarray
    grammar_tokens: Array | np.ndarray
    tells: Array | np.ndarray


class Slots(NamedTuple):
    """All slots; donated from program to program."""

    prompts: Mapping[str, PromptState]  # what layers keep of them, each layer by itself
    prompt_length_S: Array  # int32
    last_SD: Array  # hidden state of the prompt's last token
    keys_S: Array
    sample: Sample
    decode: DecodeSlots


class Decoded(NamedTuple):
    """Up to k tokens of every slot.

    Attributes:
        tokens_SK: int32.
        written_S: int32, how many of them are the completion's.
        running_S: bool, whether it goes on.
        logprobs_SK: float32, under the model as it is: no temperature, no truncation, no grammar.
        top_SKN: int32, the most probable tokens, where anybody asked for them.
        top_logprobs_SKN: float32.
    """

    tokens_SK: Array
    written_S: Array
    running_S: Array
    logprobs_SK: Array
    top_SKN: Array
    top_logprobs_SKN: Array


def empty_slots(decoding: Decoding, count: int, prompt_room: int, room: int) -> Slots:
    """Slots with nothing in them.

    Args:
        count: S.
        prompt_room: P.
        room: T.
    """
    c, dtype = decoding.model.config, decoding.model.dtype
    prefix = decoding.model.empty_prefix(count, prompt_room).unrolled()
    zero_S = jnp.zeros(count, jnp.int32)
    number_S = jnp.zeros(count, jnp.float32)
    no_S1 = jnp.zeros((count, 1), bool)
    zero_S1 = zero_S[:, None]
    return Slots(
        prompts=prefix.states,
        prompt_length_S=zero_S,
        last_SD=jnp.zeros((count, c.hidden_size), dtype),
        keys_S=jax.random.split(jax.random.key(0), count),
        sample=Sample(
            jnp.zeros(count, jnp.uint32), zero_S, zero_S, number_S, number_S + 1, zero_S, zero_S,
            zero_S, zero_S, jnp.zeros(count, bool),
        ),
        decode=DecodeSlots(
            hidden_CMD=jnp.zeros((count, 1, c.hidden_size), dtype),
            # Of the same size in all layers, so that they can be resized together.
            cache=decoding.model.init_cache(prefix, 1, room, by_window=False),
            state=MaskState(
                zero_S1,
                no_S1,
                GrammarState(zero_S1, zero_S1, zero_S1),
                zero_S1 if decoding.lead_ids else None,
            ),
            running_CM=no_S1,
        ),
    )  # fmt: skip


class Beginnings(NamedTuple):
    """Completions to begin, in rows of which the first `count` are used; N is the slots.

    Attributes:
        tokens_NP: int32, prompts padded on the right; P at most that of the slots.
        length_N: int32.
        slot_N: int32.
        sample_N: Arrays [N].
        count: int32.
    """

    tokens_NP: np.ndarray
    length_N: np.ndarray
    slot_N: np.ndarray
    sample_N: Sample
    count: np.ndarray


def begin(decoding: Decoding, weights: Weights, slots: Slots, beginnings: Beginnings) -> Slots:
    """Runs prompts and begins a completion of each in a slot.

    One prompt after the other: its numbers, and with them what a seed samples, do not depend on
    which others came with it, and the same program serves any number of them.
    """
    rows = jax.tree.map(jnp.asarray, beginnings)
    first = jnp.int32(0)

    def run(row: Array, slots: Slots) -> Slots:
        length, slot = rows.length_N[row], rows.slot_N[row]
        last_1D, prefix = decoding.model.prefill(
            weights.params, rows.tokens_NP[row][None], length[None]
        )
        states = prefix.unrolled().states
        return slots._replace(
            prompts={
                name: kept.place(slot, first, states[name], first)
                for name, kept in slots.prompts.items()
            },
            prompt_length_S=slots.prompt_length_S.at[slot].set(length),
            last_SD=slots.last_SD.at[slot].set(last_1D[0]),
        )

    slots = jax.lax.fori_loop(0, rows.count, run, slots)
    unused_N = jnp.arange(len(rows.slot_N)) >= rows.count
    slot_N = jnp.where(unused_N, len(slots.last_SD), rows.slot_N)
    return _begin_samples(decoding, slots, slot_N, rows.sample_N)


def repeat(decoding: Decoding, slots: Slots, source: Array, slot: Array, sample: Sample) -> Slots:
    """Begins a completion in a slot of the prompt that is in another, or in itself."""

    def copy(x_Sx: Array) -> Array:
        return x_Sx.at[slot].set(x_Sx[source])

    slots = slots._replace(
        prompts=jax.tree.map(copy, slots.prompts),
        prompt_length_S=copy(slots.prompt_length_S),
        last_SD=copy(slots.last_SD),
    )
    one = jax.tree.map(lambda x: jnp.asarray(x)[None], sample)
    return _begin_samples(decoding, slots, jnp.asarray(slot)[None], one)


def _begin_samples(decoding: Decoding, slots: Slots, slot_N: Array, sample_N: Sample) -> Slots:
    """The slots with a new completion in some, of the prompts that are in them.

    Args:
        slot_N: Which; those that there are not are left out.
        sample_N: Arrays [N].
    """
    decode = slots.decode

    def put(whole_S: Array, values_N: Array | int | bool) -> Array:
        return whole_S.at[slot_N].set(values_N, mode="drop")

    def put_only(whole_S1: Array, values_N: Array | int | bool) -> Array:
        return whole_S1.at[slot_N, 0].set(values_N, mode="drop")

    answering = jnp.bool_(decoding.end_of_think_id is None)
    state, grammar = decode.state, decode.state.grammar
    assert grammar is not None
    # A thought is free, but where no grammar follows it, its end is as free as all else.
    anything_N = sample_N.grammar_tokens == 0
    first_N = jnp.where(answering | anything_N, sample_N.grammar, FREE)
    state = MaskState(
        put_only(state.thought, 0),
        put_only(state.answering, answering),
        GrammarState(
            put_only(grammar.state, first_N),
            put_only(grammar.count, 0),
            put_only(grammar.written, 0),
        ),
        None if state.lead is None else put_only(state.lead, 0),
    )
    begins_S = put(jnp.zeros(len(slots.last_SD), bool), True)
    cache = decode.cache.begin(begins_S[:, None], _prefix(slots.prompts, slots.prompt_length_S))
    seeds = map(jnp.asarray, (sample_N.seed, sample_N.step, sample_N.index))
    keys_N = jax.vmap(completion_key)(*seeds)
    return slots._replace(
        keys_S=put(slots.keys_S, keys_N),
        sample=jax.tree.map(put, slots.sample, sample_N),
        decode=DecodeSlots(
            hidden_CMD=jnp.where(
                begins_S[:, None, None], slots.last_SD[:, None], decode.hidden_CMD
            ),
            cache=cache,
            state=state,
            running_CM=put_only(decode.running_CM, True),
        ),
    )


def decode_tokens(
    decoding: Decoding,
    most: int,
    weights: Weights,
    slots: Slots,
    cancel_S: Array,
    grammar: GrammarTables | None,
) -> tuple[Slots, Decoded]:
    """Decodes tokens in all slots that run, until none does.

    Args:
        most: K, tokens of a slot at most.
        cancel_S: bool, completions that nobody waits for.
        grammar: Those of all slots in one; None where none has any.
    """
    before = slots.decode.state.grammar
    if grammar is None:
        slots = _with_grammar_state(slots, None)
    running_S1 = slots.decode.running_CM & ~cancel_S[:, None]
    slots = slots._replace(decode=slots.decode._replace(running_CM=running_S1))
    context, pairs = _context(decoding, weights, slots, grammar)
    tells = jnp.asarray(slots.sample.tells).any()

    def step(carry: tuple[Array, DecodeSlots, Decoded]) -> tuple[Array, DecodeSlots, Decoded]:
        at, decode, record = carry
        logits_S1V = decoding.model.logits(weights.params, decode.hidden_CMD)
        after, new = decode_from(context, pairs, decode, logits_S1V)
        told = _told(context, decode.state, logits_S1V, new.tokens_x, tells)
        return at + 1, after, _record(record, at, new.tokens_x, new.written_x, told)

    def unfinished(carry: tuple[Array, DecodeSlots, Decoded]) -> Array:
        at, decode, _ = carry
        return (at < most) & decode.running_CM.any()

    carry = jnp.int32(0), slots.decode, _empty_record(len(cancel_S), most)
    _, decode, record = jax.lax.while_loop(unfinished, step, carry)
    # Modulo its size a ring stays the same, and the count within its type.
    written = decode.cache.written % _capacity(decode.cache)
    decode = decode._replace(cache=decode.cache._replace(written=written))
    slots = slots._replace(decode=decode)
    if grammar is None:
        slots = _with_grammar_state(slots, before)
    return slots, record._replace(running_S=decode.running_CM[:, 0])


def resize(slots: Slots, prompt_room: int, room: int) -> Slots:
    """Slots with other room, at least for what is in those that run."""

    def prompts(kept: PromptState) -> PromptState:
        if not isinstance(kept, KeyValues):
            return kept
        return jax.tree.map(lambda x_SKPQ: _resized(x_SKPQ, 2, prompt_room), kept)

    cache = slots.decode.cache
    capacity = _capacity(cache)
    turn, size = cache.written % capacity, min(room, capacity)

    def ring(x: Array, axis: int) -> Array:
        # The oldest first, and of these the newest; the next token goes behind them.
        x = jnp.roll(x, -turn, axis)
        return _resized(jax.lax.slice_in_dim(x, capacity - size, None, axis=axis), axis, room)

    def completions(kept: LayerCache) -> LayerCache:
        if not isinstance(kept, Unrolled):
            return kept
        key_axis = 3 if kept.transposed else 2
        return dataclasses.replace(
            kept,
            k_RKxx=jax.tree.map(lambda k: ring(k, key_axis), kept.k_RKxx),
            v_RKTQ=jax.tree.map(lambda v: ring(v, 2), kept.v_RKTQ),
        )

    stacks = {name: completions(kept) for name, kept in cache.stacks.items()}
    cache = Cache(stacks, jnp.full((), size % room, jnp.int32), cache.length_BG)
    return slots._replace(
        prompts={name: prompts(kept) for name, kept in slots.prompts.items()},
        decode=slots.decode._replace(cache=cache),
    )


def _capacity(cache: Cache) -> int:
    """Tokens of a completion that there is room for."""
    keys = next(kept for kept in cache.stacks.values() if isinstance(kept, Unrolled))
    return keys.v_RKTQ[0].shape[2]


def _resized(x: Array, axis: int, size: int) -> Array:
    """The array with so much of the axis, or filled up to it."""
    x = jax.lax.slice_in_dim(x, 0, min(size, x.shape[axis]), axis=axis)
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, size - x.shape[axis])
    return jnp.pad(x, widths)


def _prefix(prompts: Mapping[str, PromptState], length_S: Array) -> Prefix:
    keys = next(kept for kept in prompts.values() if isinstance(kept, KeyValues))
    position_P = jnp.arange(jax.tree.leaves(keys)[0].shape[2])
    mask_SP = position_P < length_S[:, None]
    own_S111 = jnp.ones((len(length_S), 1, 1, 1), bool)
    return Prefix(prompts, mask_SP[:, None, None], position_P, own_S111)


def _context(
    decoding: Decoding, weights: Weights, slots: Slots, grammar: GrammarTables | None
) -> tuple[DecodeContext, PromptSamples]:
    """How tokens are decoded, and behind what."""
    sample = jax.tree.map(lambda x_S: x_S[:, None], slots.sample)
    if grammar is not None:
        grammar = grammar._replace(start=sample.grammar)
    mask = LogitMask(
        decoding.forbidden_ids,
        decoding.end_of_think_id,
        sample.thinking_tokens,
        grammar,
        sample.grammar_tokens,
        decoding.lead_ids,
    )
    sampling = Sampling(sample.temperature, 0, sample.top_p, sample.most_tokens)
    context = DecodeContext(
        decoding.model,
        weights.params,
        weights.layers,
        mask,
        sampling,
        _capacity(slots.decode.cache),
        decoding.stop_ids,
        decoding.pad_id,
    )
    pairs = PromptSamples(
        _prefix(slots.prompts, slots.prompt_length_S),
        slots.prompt_length_S[:, None],
        slots.last_SD[:, None],
        slots.keys_S[:, None],
    )
    return context, pairs


class _Told(NamedTuple):
    """Log-probabilities of one token of every slot."""

    logprob_S: Array
    top_SN: Array
    top_logprob_SN: Array


def _told(
    context: DecodeContext, state: MaskState, logits_S1V: Array, token_S1: Array, tells: Array
) -> _Told:
    """What the model itself holds of a token and of its alternatives, where anybody asks."""
    plain = dataclasses.replace(context.mask, grammar=None)

    def tell() -> _Told:
        masked_S1V = logit_masks.policy_logits(plain, state, logits_S1V, 0.0)
        logprob_SV = jax.nn.log_softmax(masked_S1V[:, 0], axis=-1)
        # A token that a mask excludes can be forced.
        logprob_SV = jnp.maximum(logprob_SV, FORBIDDEN_LOGIT)
        own_S = jnp.take_along_axis(logprob_SV, token_S1, axis=1)[:, 0]
        top, index = jax.lax.top_k(logprob_SV, TOP)
        return _Told(own_S, index, top)

    def nothing() -> _Told:
        count = len(token_S1)
        zeros = jnp.zeros((count, TOP), jnp.float32)
        return _Told(zeros[:, 0], zeros.astype(jnp.int32), zeros)

    return jax.lax.cond(tells, tell, nothing)


def _empty_record(count: int, most: int) -> Decoded:
    zero = jnp.zeros((count, most), jnp.int32)
    number = zero.astype(jnp.float32)
    top = jnp.zeros((count, most, TOP), jnp.int32)
    return Decoded(zero, zero[:, 0], jnp.zeros(count, bool), number, top, top.astype(jnp.float32))


def _record(record: Decoded, at: Array, token_S1: Array, written_S1: Array, told: _Told) -> Decoded:
    return Decoded(
        tokens_SK=record.tokens_SK.at[:, at].set(token_S1[:, 0]),
        written_S=record.written_S + written_S1[:, 0],
        running_S=record.running_S,
        logprobs_SK=record.logprobs_SK.at[:, at].set(told.logprob_S),
        top_SKN=record.top_SKN.at[:, at].set(told.top_SN),
        top_logprobs_SKN=record.top_logprobs_SKN.at[:, at].set(told.top_logprob_SN),
    )


def _with_grammar_state(slots: Slots, state: GrammarState | None) -> Slots:
    decode = slots.decode
    return slots._replace(decode=decode._replace(state=decode.state._replace(grammar=state)))
