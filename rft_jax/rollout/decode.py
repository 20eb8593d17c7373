"""Decoding: slots in which completions grow, a token in each at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import jax
import jax.numpy as jnp
from jax import Array

from rft_jax.models import Cache, Model, Params, Prefix
from rft_jax.models.pages import Pool
from rft_jax.rollout import logit_masks
from rft_jax.rollout.logit_masks import LogitMask, MaskState
from rft_jax.rollout.sampling import Sampling, sample, token_uniform

SEGMENTS = 4  # at most; each is compiled by itself
SEGMENT_TOKENS = 64  # tokens at least


@dataclass(frozen=True, eq=False)
class DecodeContext:
    """What stays the same from token to token; the fields are much as those of `rollout`."""

    model: Model
    params: Params
    layers: dict[str, tuple[Params, ...]] | None  # from `Model.prepare_decoding`
    mask: LogitMask
    sampling: Sampling
    tokens: int  # T: the longest completion
    stop_ids: tuple[int, ...]
    pad_id: int
    pool: Pool | None = None  # of the cache's pages; None: each slot has room for T tokens

    @property
    def segments(self) -> list[int]:
        """After how many tokens each segment of decoding ends; a pool is there from the start."""
        return [self.tokens] if self.pool is not None else segments(self.tokens)


class PromptSamples(NamedTuple):
    """Pairs of prompt and sample: C rows, each with a prefix that its M pairs share.

    X is M, or 1 where a row's pairs are of one prompt.
    """

    prefix: Prefix
    prompt_length_CX: Array  # int32
    last_CXD: Array  # hidden state of the prompt's last token
    keys_CM: Array


class SampledTokens(NamedTuple):
    """What was sampled: a token for each slot, or completions."""

    tokens_x: Array  # int32
    policy_mask_x: Array  # bool: decided by the policy, neither forced nor padding
    # float32, under what sampled, after truncation by top-k and top-p; 0 where the mask is False
    logprobs_x: Array
    written_x: Array  # bool: no padding


class DecodeSlots(NamedTuple):
    """The completions of C x M pairs while they grow."""

    hidden_CMD: Array  # of the last token
    cache: Cache
    state: MaskState
    running_CM: Array


class HasSlots(Protocol):
    """What a loop over tokens passes on."""

    @property
    def slots(self) -> DecodeSlots:
        """The completions that grow."""
        ...

    def _replace(self, **changes: Any) -> Self: ...


Loop = TypeVar("Loop", bound=HasSlots)


def init_slots(decoder: DecodeContext, pairs: PromptSamples) -> DecodeSlots:
    """A slot for each pair, before its first token; the cache has room for the first segment."""
    shape, T = pairs.keys_CM.shape, decoder.tokens
    hidden_CMD = jnp.broadcast_to(pairs.last_CXD, (*shape, pairs.last_CXD.shape[2]))
    return DecodeSlots(
        hidden_CMD=hidden_CMD,
        cache=decoder.model.init_cache(
            pairs.prefix, shape[1], T, decoder.segments[0], pool=decoder.pool
        ),
        state=logit_masks.start(decoder.mask, shape),
        running_CM=jnp.ones(shape, bool),
    )


def empty_record(decoder: DecodeContext, keys_BG: Array) -> SampledTokens:
    """Completions [B, G, T] of padding only."""
    shape = (*keys_BG.shape, decoder.tokens)
    tokens, no = jnp.full(shape, decoder.pad_id, jnp.int32), jnp.zeros(shape, bool)
    return SampledTokens(tokens, no, jnp.zeros(shape), no)


def decode_while(
    decoder: DecodeContext,
    running: Callable[[Loop], Array],
    step: Callable[[Loop], Loop],
    loop: Loop,
    bound: int,
) -> Loop:
    """Decodes in segments, each with as much of the cache as is filled at its end.

    A token attends to all of the cache that there is, filled or not, so that a short one at first
    saves traffic; each size is compiled by itself, which is why there are few.

    Args:
        decoder: What decodes; after the tokens of its longest completion the cache is full.
        running: Whether there is something to decode.
        step: Decodes a token in every slot.
        loop: What steps pass on; its slots are from `init_slots`.
        bound: Steps at most.
    """
    *ends, last = decoder.segments
    for before, end, capacity in zip([0, *ends], [*ends, bound], [*ends, last], strict=True):
        slots = loop.slots._replace(cache=loop.slots.cache.with_capacity(capacity))
        _, loop = jax.lax.while_loop(
            lambda carry: (carry[0] < end - before) & running(carry[1]),  # noqa: B023
            lambda carry: (carry[0] + 1, step(carry[1])),
            (jnp.int32(0), loop._replace(slots=slots)),
        )
    return loop


def segments(tokens: int) -> list[int]:
    """After how many tokens each segment of decoding ends, the last when the cache is full."""
    number = max(1, min(SEGMENTS, tokens // SEGMENT_TOKENS))
    return [-(-tokens * (index + 1) // number) for index in range(number)]


def decode(
    decoder: DecodeContext, pairs: PromptSamples, slots: DecodeSlots
) -> tuple[DecodeSlots, SampledTokens]:
    """Samples a token in every slot, [C, M], and runs the model on it."""
    # Logits first: the prompt's last hidden state is there before the loop, and a token's, which
    # the model makes below, is asked for in the next trip. So a trip is one pass, the first too.
    logits_CMV = decoder.model.logits(decoder.params, slots.hidden_CMD)
    return decode_from(decoder, pairs, slots, logits_CMV)


def decode_from(
    decoder: DecodeContext, pairs: PromptSamples, slots: DecodeSlots, logits_CMV: Array
) -> tuple[DecodeSlots, SampledTokens]:
    """As `decode`, from the model's logits of the slots' hidden states."""
    sampling, mask = decoder.sampling, decoder.mask
    position_CM = slots.cache.length_BG
    logits_CMV = logit_masks.policy_logits(mask, slots.state, logits_CMV, sampling.temperature)
    token_CM, logprob_CM = sample(
        logits_CMV,
        token_uniform(pairs.keys_CM, position_CM),
        greedy=sampling.greedy,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
    )
    forced_CM, running_CM = logit_masks.forced(mask, slots.state), slots.running_CM
    token_CM = jnp.where(forced_CM, logit_masks.forced_token(mask, slots.state), token_CM)
    # Slots that have ended run on, on padding: shapes are static. Nothing reads what they make.
    token_CM = jnp.where(running_CM, token_CM, decoder.pad_id)
    # A forced token is no decision of the policy's, so that it is not learned.
    decided_CM = running_CM & ~forced_CM
    stop_CM = running_CM & is_stop(token_CM, decoder.stop_ids)
    hidden_CMD, cache = decoder.model.decode(
        decoder.params,
        decoder.layers,
        token_CM,
        pairs.prompt_length_CX + position_CM,
        pairs.prefix,
        slots.cache,
    )
    slots = DecodeSlots(
        hidden_CMD=hidden_CMD,
        cache=cache,
        state=logit_masks.advance(mask, slots.state, token_CM),
        running_CM=running_CM & ~stop_CM & (position_CM + 1 < sampling.most_tokens),
    )
    logprob_CM = jnp.where(decided_CM, logprob_CM, 0)
    return slots, SampledTokens(token_CM, decided_CM, logprob_CM, running_CM)


def is_stop(token_x: Array, stop_ids: tuple[int, ...]) -> Array:
    """Which tokens are among the stop ids."""
    return (token_x[..., None] == jnp.asarray(stop_ids, jnp.int32)).any(axis=-1)
