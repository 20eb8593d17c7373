"""The logit masks: what may be sampled at each place of thought, marker and answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.rollout import LogitMask, logit_masks

V, MARKER, FORBIDDEN = 6, 4, (0, 3)
completions = st.lists(st.integers(0, V - 1), min_size=8, max_size=8)


@functools.partial(jax.jit, static_argnums=0)
def replayed(mask, tokens):
    """The states before each token, and what they force and allow."""
    states = logit_masks.replay(mask, tokens)
    logits = logit_masks.policy_logits(mask, states, jnp.zeros((tokens.size, V)), 1.0)
    return states, logit_masks.forced(mask, states), logits == 0


@given(completions, st.sampled_from([0, 2, 5]), st.sampled_from([MARKER, None]))
def test_replayed_states_are_those_of_plain_python(tokens, budget, marker):
    mask = LogitMask(FORBIDDEN, marker, budget)
    _, forced, allowed = jax.device_get(replayed(mask, jnp.asarray(tokens)))
    for t in range(len(tokens)):
        passed = marker in tokens[:t]
        assert forced[t] == (marker is not None and not passed and t >= budget)
        expected = [v not in FORBIDDEN and not (passed and v == marker) for v in range(V)]
        assert allowed[t].tolist() == expected


@settings(max_examples=20)
@given(completions)
def test_replay_is_advance_token_by_token(tokens):
    mask = LogitMask(FORBIDDEN, MARKER, 2)
    states = jax.device_get(replayed(mask, jnp.asarray(tokens))[0])
    state = logit_masks.start(mask, ())
    for t, token in enumerate(tokens):
        assert (state.thought, state.answering) == (states.thought[t], states.answering[t])
        state = logit_masks.advance(mask, state, jnp.int32(token))


def test_a_format_with_more_than_a_marker_is_forced_token_by_token():
    mask = LogitMask(FORBIDDEN, MARKER, 2, lead_ids=(5, 1))
    tokens = [2, 2]
    state = logit_masks.start(mask, ())
    for token in tokens:
        assert not logit_masks.forced(mask, state)
        state = logit_masks.advance(mask, state, jnp.int32(token))
    given_tokens = []
    while logit_masks.forced(mask, state):
        given_tokens.append(int(logit_masks.forced_token(mask, state)))
        state = logit_masks.advance(mask, state, jnp.int32(given_tokens[-1]))
    assert given_tokens == [5, 1, MARKER] and state.answering
    _, forced, _ = jax.device_get(replayed(mask, jnp.asarray([*tokens, *given_tokens, 2])))
    assert forced.tolist() == [False, False, True, True, True, False]


@pytest.mark.parametrize(
    ("begun", "ending"),
    [
        ([1, 2, 5, 6], [7, 9]),  # the budget ends within a close of the policy's own
        ([2, 5, 6, 7], [9]),
        ([5, 6, 7, 1], [5, 6, 7, 9]),
        ([5, 6, 5, 5], [6, 7, 9]),
    ],
)
def test_a_lead_that_has_begun_goes_on(begun, ending):
    mask = LogitMask(FORBIDDEN, 9, 4, lead_ids=(5, 6, 7))
    state = logit_masks.start(mask, (1,))
    for token in begun:
        state = logit_masks.advance(mask, state, jnp.array([token]))
    given_tokens = []
    while logit_masks.forced(mask, state)[0]:
        given_tokens.append(int(logit_masks.forced_token(mask, state)[0]))
        state = logit_masks.advance(mask, state, jnp.array(given_tokens[-1:]))
    assert given_tokens == ending


def test_policy_logits_are_divided_by_the_temperature_and_then_masked():
    mask = LogitMask(FORBIDDEN, MARKER, 3)
    logits = np.arange(V, dtype=np.float32)[None]
    state = logit_masks.MaskState(jnp.zeros(1, jnp.int32), jnp.ones(1, bool))
    policy = logit_masks.policy_logits(mask, state, logits, 0.5)
    assert policy[0].tolist() == [np.float32(logit_masks.FORBIDDEN_LOGIT), 2, 4] + [
        np.float32(logit_masks.FORBIDDEN_LOGIT),
        np.float32(logit_masks.FORBIDDEN_LOGIT),
        10,
    ]
