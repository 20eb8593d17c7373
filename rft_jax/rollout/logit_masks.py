"""What may be sampled: the one seam for logit masks, shared by sampler and learner.

A mask carries a state from token to token: that of the thinking format (thought, end-of-think
marker, answer) and, where answers have a grammar, that of its automaton (`grammar_mask`). The
sampler asks `policy_logits`, `forced` and `forced_token` before each token and calls `advance`
after it; the learner gets the same states of finished completions from `replay`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from rft_jax.config import RolloutConfig
from rft_jax.grammars import GrammarTables, grammar_of
from rft_jax.parallel import AnyMesh, replicated
from rft_jax.rollout import grammar_mask
from rft_jax.rollout.grammar_mask import GrammarState
from rft_jax.tokenizers import Tokenizer

FORBIDDEN_LOGIT = -1e30


@dataclass(frozen=True)
class LogitMask:
    """The masks' settings, static but for the arrays of a grammar.

    Attributes:
        forbidden_ids: Tokens that are never sampled.
        end_of_think_id: The marker between thought and answer; None: answers without thought.
        thinking_tokens: Budget of tokens before the marker; when it is spent the marker is forced.
            One for all, or an array with one for each completion of the batch.
        grammar: What answers must look like; None: anything.
        completion_tokens: T, within which an answer with a grammar is brought to its end; likewise.
        lead_ids: Forced before the marker, where the format has more than that; the first of them
            is there once.
    """

    forbidden_ids: tuple[int, ...]
    end_of_think_id: int | None
    thinking_tokens: int | Array
    grammar: GrammarTables | None = None
    completion_tokens: int | Array = 0
    lead_ids: tuple[int, ...] = ()


class MaskState(NamedTuple):
    """The state before a token; leaves have the shape of the batch."""

    thought: Array  # int32, tokens of the thought so far
    answering: Array  # bool, the marker has been passed
    grammar: GrammarState | None = None  # as the mask has one
    # int32, how many of the lead's ids the last tokens are, where there is a lead; only what is
    # forced depends on it, so that `replay` has none.
    lead: Array | None = None


def start(mask: LogitMask, shape: tuple[int, ...]) -> MaskState:
    """The state before the first token."""
    answering = jnp.full(shape, mask.end_of_think_id is None)
    grammar = None if mask.grammar is None else grammar_mask.start(mask.grammar, answering)
    thought = jnp.zeros(shape, jnp.int32)
    return MaskState(thought, answering, grammar, thought if mask.lead_ids else None)


def advance(mask: LogitMask, state: MaskState, tokens: Array) -> MaskState:
    """The state after `tokens`."""
    thought, answering = state.thought, state.answering
    if mask.end_of_think_id is not None:
        answering = answering | (tokens == mask.end_of_think_id)
        thought = thought + ~answering
    lead = _lead(mask, state.lead, tokens)
    if mask.grammar is None:
        return MaskState(thought, answering, None, lead)
    assert state.grammar is not None
    begins = answering & ~state.answering
    grammar = grammar_mask.advance(mask.grammar, state.grammar, tokens, begins)
    return MaskState(thought, answering, grammar, lead)


def _lead(mask: LogitMask, lead: Array | None, tokens: Array) -> Array | None:
    """`MaskState.lead` after `tokens`."""
    if lead is None:
        return None
    goes_on = tokens == jnp.asarray([*mask.lead_ids, -1])[lead]  # nothing goes on after the last
    return jnp.where(goes_on, lead + 1, tokens == mask.lead_ids[0])


def forced(mask: LogitMask, state: MaskState) -> Array:
    """bool [...]: a budget is spent, so the next token is given whatever the policy says.

    That of thinking tokens, or all but what the shortest way to the end of the answer takes.
    """
    forced = jnp.zeros_like(state.answering)
    if mask.end_of_think_id is not None:
        forced = ~state.answering & (state.thought >= mask.thinking_tokens)
    if mask.grammar is not None:
        assert state.grammar is not None
        ending = grammar_mask.must_end(mask.grammar, state.grammar, mask.completion_tokens)
        forced |= state.answering & ending
    return forced


def forced_token(mask: LogitMask, state: MaskState) -> Array:
    """int32 [...]: that token, where `forced` holds."""
    end = jnp.int32(mask.end_of_think_id or 0)
    if state.lead is not None:
        end = jnp.asarray([*mask.lead_ids, end])[state.lead]
    if mask.grammar is None:
        return jnp.broadcast_to(end, state.answering.shape)
    assert state.grammar is not None
    token = grammar_mask.next_on_way(mask.grammar, state.grammar)
    return jnp.where(state.answering, token, end)


def replay(mask: LogitMask, tokens_xT: Array) -> MaskState:
    """The states before each token of finished completions; leaves are [..., T]."""
    thought_xT = jnp.zeros(tokens_xT.shape, jnp.int32)
    passed_xT = jnp.ones(tokens_xT.shape, bool)
    if mask.end_of_think_id is not None:
        passed_xT = jnp.cumsum(tokens_xT == mask.end_of_think_id, axis=-1) > 0
        thought_xT = jnp.cumsum(~passed_xT, axis=-1, dtype=jnp.int32)

        def before(x_xT: Array) -> Array:
            return jnp.pad(x_xT[..., :-1], [(0, 0)] * (x_xT.ndim - 1) + [(1, 0)])

        thought_xT, passed_xT = before(thought_xT), before(passed_xT)
    if mask.grammar is None:
        return MaskState(thought_xT, passed_xT)
    grammar_xT = grammar_mask.replay(mask.grammar, tokens_xT, passed_xT)
    return MaskState(thought_xT, passed_xT, grammar_xT)


def policy_logits(
    mask: LogitMask, state: MaskState, logits_xV: Array, temperature: float | Array
) -> Array:
    """Logits whose softmax is the policy: over the temperature, masked, before any truncation.

    Masked are forbidden tokens, the marker once it has been passed, and what the grammar excludes.

    Args:
        temperature: One for all, or float32 [...]; 0 leaves logits as they are.
    """
    # Sums, next to which a logit is nothing: of a `where`, the other value would become an array of
    # its own outside of a scan.
    ids_V = np.arange(logits_xV.shape[-1])
    if isinstance(temperature, Array):
        logits_xV = logits_xV / jnp.where(temperature > 0, temperature, 1)[..., None]
    elif temperature > 0:
        logits_xV = logits_xV / temperature
    logits_xV = logits_xV + np.where(np.isin(ids_V, mask.forbidden_ids), FORBIDDEN_LOGIT, 0)
    if mask.grammar is not None:
        assert state.grammar is not None
        allowed_xV = grammar_mask.allowed(mask.grammar, state.grammar, logits_xV.shape[-1])
        logits_xV = logits_xV + jnp.where(allowed_xV, 0, FORBIDDEN_LOGIT)
    if mask.end_of_think_id is None:
        return logits_xV
    passed_x1 = jnp.where(state.answering, FORBIDDEN_LOGIT, 0)[..., None]
    return logits_xV + passed_x1 * (ids_V == mask.end_of_think_id)


def make_logit_mask(tokenizer: Tokenizer, config: RolloutConfig, mesh: AnyMesh) -> LogitMask:
    """The masks of a tokenizer's format, and of the answers'.

    Args:
        tokenizer: The policy's.
        config: The budget of thinking tokens, the lengths and the answers' format.
        mesh: Every device of it gets the grammar's tables.

    Raises:
        InputError: See `grammars.grammar_of`.
    """
    return LogitMask(
        tokenizer.forbidden_ids,
        tokenizer.end_of_think_id,
        config.thinking_tokens,
        jax.device_put(grammar_of(config, tokenizer), replicated(mesh)),
        config.max_completion_tokens,
        tokenizer.lead_ids,
    )
