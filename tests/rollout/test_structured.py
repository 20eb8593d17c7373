"""Answers with a grammar, sampled by a model: valid at any budget, and the learner's policy too."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig, RolloutConfig
from rft_jax.grammars import build_tables
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import build_model
from rft_jax.parallel import ROLLOUT_RULES, batch_sharding, make_mesh, shardings
from rft_jax.rollout import LogitMask, Prompts, completion_keys, logit_masks, rollout

from ..grammars.tools import MARKER, PAD, STOP, decode, strict, vocabulary

V = len(vocabulary().written_V)
B, G, P, THOUGHT = 8, 4, 6, 5
SCHEMA = strict(
    name={"type": "string", "minLength": 2, "maxLength": 9},
    tags={"type": "array", "items": {"enum": ["red", "blau", 'q"']}, "maxItems": 3},
    size={"anyOf": [{"type": "integer", "minimum": -7}, {"type": "null"}]},
)
TABLES = build_tables(schema_automaton(SCHEMA, "schema"), vocabulary(), "schema")
T = 1 + THOUGHT + TABLES.least_tokens + 8
MODEL = ModelConfig(
    num_layers=1,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=24,
    compute_dtype="float32",
)
CONFIG = RolloutConfig(max_completion_tokens=T)
PROMPTS = Prompts(
    np.random.default_rng(0).integers(3, V, (B, P), np.int32), np.full(B, P, np.int32)
)


@functools.cache
def params():
    """Weights whose policy is neither flat nor certain."""
    weights = build_model(MODEL, V).init(jax.random.key(3))
    return jax.tree.map(lambda x: x * 15 if float(jnp.ptp(x)) > 0 else x, weights)


def keys_BG():
    ids = jnp.arange(B)
    return completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, G)


def mask_of(grammar, tokens=T):
    return LogitMask((PAD,), MARKER, THOUGHT, grammar, tokens)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _rollout(model, params, prompts, keys_BG, grammar, config):
    return rollout(
        model, params, prompts, keys_BG, mask_of(grammar, config.max_completion_tokens), config,
        stop_ids=(STOP,), pad_id=PAD,
    )  # fmt: skip


@functools.cache
def complete(**settings):
    config = dataclasses.replace(CONFIG, **settings)
    model = build_model(MODEL, V)
    return jax.device_get(_rollout(model, params(), PROMPTS, keys_BG(), TABLES, config))


def assert_valid(completions):
    assert completions.stopped_BG.all() and completions.has_answer_BG.all()
    for b, g in np.ndindex(B, G):
        answer = slice(completions.answer_start_BG[b, g], completions.answer_end_BG[b, g])
        text = decode(vocabulary(), completions.tokens_BGT[b, g, answer])
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize("tokens", [T, pytest.param(T - 8, marks=pytest.mark.slow)])
def test_every_answer_is_valid_and_has_ended(tokens):
    completions = complete(max_completion_tokens=tokens)
    assert_valid(completions)
    forced = ~completions.policy_mask_BGT & (np.arange(tokens) < completions.length_BG[..., None])
    in_answer = np.arange(tokens) > completions.thinking_tokens_BG[..., None]
    assert (forced & in_answer).any()
    assert not completions.logprobs_BGT[forced].any()


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 8},
        pytest.param({"int8_cache": True}, marks=pytest.mark.slow),
        pytest.param({"temperature": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_answers_are_valid_in_slots_in_eight_bits_and_greedy(settings):
    completions = complete(**settings)
    assert_valid(completions)
    if "slots" in settings:
        np.testing.assert_array_equal(completions.tokens_BGT, complete().tokens_BGT)
        np.testing.assert_array_equal(completions.policy_mask_BGT, complete().policy_mask_BGT)


def test_the_learner_has_the_same_policy():
    completions = complete()
    model = build_model(MODEL, V)

    @jax.jit
    def score(params, grammar):
        return completion_logprobs(
            model, params, PROMPTS, completions.tokens_BGT, completions.length_BG,
            mask_of(grammar), temperature=1.0, logit_chunk=8,
        )  # fmt: skip

    logprobs_BGT, entropy_BGT, _ = score(params(), TABLES)
    decided_BGT = completions.policy_mask_BGT
    np.testing.assert_allclose(
        logprobs_BGT[decided_BGT], completions.logprobs_BGT[decided_BGT], rtol=0, atol=2e-5
    )
    assert np.isfinite(entropy_BGT[decided_BGT]).all()
    written_BGT = np.arange(T) < completions.length_BG[..., None]
    states = logit_masks.replay(mask_of(TABLES), jnp.asarray(completions.tokens_BGT))
    forced_BGT = logit_masks.forced(mask_of(TABLES), states)
    np.testing.assert_array_equal(forced_BGT & written_BGT, ~decided_BGT & written_BGT)


def test_the_learner_s_gradient_is_that_of_the_masked_softmax():
    """A forward over whole rows, whose softmax is over what the sampler could take."""
    few = jax.tree.map(lambda x: x[:2, :2], complete())
    prompts = Prompts(PROMPTS.tokens_BP[:2], PROMPTS.length_B[:2])
    tokens_NT = few.tokens_BGT.reshape(4, T)
    rows_NU = np.concatenate([np.repeat(prompts.tokens_BP, 2, axis=0), tokens_NT], axis=1)
    written_NT = np.arange(T) < few.length_BG.reshape(4, 1)
    decided_NT = few.policy_mask_BGT.reshape(4, T)
    weight_NT = np.random.default_rng(0).normal(size=(4, T)) * decided_NT
    model = build_model(MODEL, V)

    def learner(params):
        logprobs_BGT, *_ = completion_logprobs(
            model, params, prompts, few.tokens_BGT, few.length_BG, mask_of(TABLES),
            temperature=1.0, logit_chunk=8,
        )  # fmt: skip
        return (weight_NT * logprobs_BGT.reshape(4, T)).sum()

    def plain(params, may_NTV):
        positions_NU = np.broadcast_to(np.arange(P + T), rows_NU.shape)
        segments_NU = np.pad(written_NT, ((0, 0), (P, 0)), constant_values=True).astype(np.int32)
        hidden_NUD = model.hidden(params, jnp.asarray(rows_NU), positions_NU, segments_NU)
        logits_NTV = model.logits(params, hidden_NUD[:, P - 1 : -1])
        logprobs_NTV = jax.nn.log_softmax(jnp.where(may_NTV, logits_NTV, -jnp.inf))
        own_NT = jnp.take_along_axis(logprobs_NTV, tokens_NT[..., None], axis=-1)[..., 0]
        return (weight_NT * jnp.where(decided_NT, own_NT, 0)).sum()

    states = logit_masks.replay(mask_of(TABLES), jnp.asarray(tokens_NT))
    may_NTV = logit_masks.policy_logits(mask_of(TABLES), states, jnp.zeros((4, T, V)), 1.0) == 0
    expected = jax.jit(jax.grad(plain))(params(), may_NTV)
    found = jax.jit(jax.grad(learner))(params())
    assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(found)) > 0.1
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * max(1, abs(theirs).max()))


def test_replay_is_advance_token_by_token():
    tokens_BGT = jnp.asarray(complete().tokens_BGT)
    mask = mask_of(TABLES)
    states = logit_masks.replay(mask, tokens_BGT)
    state = logit_masks.start(mask, (B, G))
    advanced = []
    for t in range(T):
        advanced.append(state)
        state = logit_masks.advance(mask, state, tokens_BGT[..., t])
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves, axis=-1), *advanced)
    jax.tree.map(np.testing.assert_array_equal, stacked, jax.device_get(states))


@pytest.mark.parametrize("slots", [16, pytest.param(0, marks=pytest.mark.slow)])
def test_a_mesh_changes_nothing(slots):
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8])
    rows = batch_sharding(mesh)
    model = build_model(MODEL, V, rows)
    placed = jax.device_put(params(), shardings(mesh, ROLLOUT_RULES, model.axes))
    config = dataclasses.replace(CONFIG, slots=slots)

    def run(params, prompts, keys_BG, grammar):
        return rollout(
            model, params, prompts, keys_BG, mask_of(grammar), config, stop_ids=(STOP,), pad_id=PAD
        )

    inputs = jax.device_put((PROMPTS, keys_BG()), rows)
    completions = jax.device_get(jax.jit(run, out_shardings=rows)(placed, *inputs, TABLES))
    assert_valid(completions)
    np.testing.assert_array_equal(completions.tokens_BGT, complete().tokens_BGT)
