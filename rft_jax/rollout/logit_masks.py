"""What may be sampled: the one seam for logit masks, shared by sampler and learner.

A mask carries a state from token to token. Today's state is that of the thinking format: thought,
end-of-think marker, answer. The sampler asks `policy_logits` and `forced` before each token and
calls `advance` after it; the learner gets the same states of finished completions from `replay`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

FORBIDDEN_LOGIT = -1e30


@dataclass(frozen=True)
class LogitMask:
    """The static part of the masks.

    Attributes:
        forbidden_ids: Tokens that are never sampled.
        end_of_think_id: The marker between thought and answer; None: answers without thought.
        thinking_tokens: Budget of tokens before the marker; when it is spent the marker is forced.
    """

    forbidden_ids: tuple[int, ...]
    end_of_think_id: int | None
    thinking_tokens: int


class MaskState(NamedTuple):
    """The state before a token; leaves have the shape of the batch."""

    thought: Array  # int32, tokens of the thought so far
    answering: Array  # bool, the marker has been passed


def start(mask: LogitMask, shape: tuple[int, ...]) -> MaskState:
    """The state before the first token."""
    return MaskState(jnp.zeros(shape, jnp.int32), jnp.full(shape, mask.end_of_think_id is None))


def advance(mask: LogitMask, state: MaskState, tokens: Array) -> MaskState:
    """The state after `tokens`."""
    if mask.end_of_think_id is None:
        return state
    answering = state.answering | (tokens == mask.end_of_think_id)
    return MaskState(state.thought + ~answering, answering)


def forced(mask: LogitMask, state: MaskState) -> Array:
    """bool [...]: the budget is spent, so the next token is the marker whatever the policy says."""
    if mask.end_of_think_id is None:
        return jnp.zeros_like(state.answering)
    return ~state.answering & (state.thought >= mask.thinking_tokens)


def replay(mask: LogitMask, tokens_xT: Array) -> MaskState:
    """The states before each token of finished completions; leaves are [..., T]."""
    if mask.end_of_think_id is None:
        return start(mask, tokens_xT.shape)
    passed_xT = jnp.cumsum(tokens_xT == mask.end_of_think_id, axis=-1) > 0
    thought_xT = jnp.cumsum(~passed_xT, axis=-1, dtype=jnp.int32)

    def before(x_xT: Array) -> Array:
        return jnp.pad(x_xT[..., :-1], [(0, 0)] * (x_xT.ndim - 1) + [(1, 0)])

    return MaskState(before(thought_xT), before(passed_xT))


def policy_logits(mask: LogitMask, state: MaskState, logits_xV: Array, temperature: float) -> Array:
    """Logits whose softmax is the policy: over the temperature, masked, before any truncation.

    Masked are forbidden tokens, and the marker once it has been passed.
    """
    # Sums, next to which a logit is nothing: of a `where`, the other value would become an array of
    # its own outside of a scan.
    ids_V = np.arange(logits_xV.shape[-1])
    logits_xV = logits_xV / temperature if temperature > 0 else logits_xV
    logits_xV = logits_xV + np.where(np.isin(ids_V, mask.forbidden_ids), FORBIDDEN_LOGIT, 0)
    if mask.end_of_think_id is None:
        return logits_xV
    passed_x1 = jnp.where(state.answering, FORBIDDEN_LOGIT, 0)[..., None]
    return logits_xV + passed_x1 * (ids_V == mask.end_of_think_id)
