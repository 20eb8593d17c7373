"""Completions: the plain forward's tokens, where they end, and noise that belongs to the token."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import ModelConfig, RolloutConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import Model, build_model
from rft_jax.rollout import LogitMask, Prompts, completion_keys, logit_masks, rollout
from rft_jax.rollout.sampling import token_uniform

V, P, B, G, T = 12, 6, 4, 8, 9
PAD, STOPS, MARKER, UNKNOWN = 0, (1, 2), 3, 4
FORBIDDEN = (PAD, UNKNOWN)
BUDGET = 4
THINKING = LogitMask(FORBIDDEN, MARKER, BUDGET)
ANSWER_ONLY = LogitMask((*FORBIDDEN, MARKER), None, 0)
SAMPLED = RolloutConfig(max_completion_tokens=T, temperature=1.2)
TRUNCATED = dataclasses.replace(SAMPLED, top_k=6, top_p=0.8)
GREEDY = dataclasses.replace(SAMPLED, temperature=0.0)
PROMPTS = Prompts(
    np.random.default_rng(0).integers(5, V, (B, P), np.int32), np.array([1, 3, 6, 6], np.int32)
)
IDS = np.array([7, 3, 90, 11], np.int32)
DRAWS = np.array([0, 2, 0, 1], np.int32)


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        num_layers=1,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=24,
        compute_dtype="float32",
    )
    return build_model(config, V)


@pytest.fixture(scope="module")
def params(model):
    """Weights whose policy is neither flat nor certain."""
    weights = model.init(jax.random.key(3))
    return jax.tree.map(lambda x: x * 15 if float(jnp.ptp(x)) > 0 else x, weights)


def keys_of(ids=IDS, draws=DRAWS, group=G, seed=0, step=0):
    return completion_keys(
        jnp.uint32(seed), jnp.int32(step), jnp.asarray(ids), jnp.asarray(draws), group
    )


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _rollout(model, params, prompts, keys_BG, mask, config):
    return rollout(model, params, prompts, keys_BG, mask, config, stop_ids=STOPS, pad_id=PAD)


def complete(model, params, mask=THINKING, config=SAMPLED, prompts=PROMPTS, keys_BG=None):
    keys_BG = keys_of() if keys_BG is None else keys_BG
    return jax.device_get(_rollout(model, params, prompts, keys_BG, mask, config))


CASES = {
    "thinking": (THINKING, SAMPLED),
    "truncated": (THINKING, TRUNCATED),
    "greedy": (THINKING, GREEDY),
    "answer only": (ANSWER_ONLY, SAMPLED),
    "no budget": (LogitMask(FORBIDDEN, MARKER, 0), SAMPLED),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, model, params):
    mask, config = CASES[request.param]
    return mask, config, complete(model, params, mask, config)


def samples(completions):
    """Each completion as a Rollout of plain Python values."""
    for b, g in np.ndindex(*completions.length_BG.shape):
        yield type(completions)(*(leaf[b, g].tolist() for leaf in completions))


@functools.partial(jax.jit, static_argnums=0)
def _next_logits(model, params, rows_NX, length_N):
    shape = rows_NX.shape
    positions_NX = jnp.broadcast_to(jnp.arange(shape[1]), shape)
    hidden_NXD = model.hidden(params, rows_NX, positions_NX, jnp.ones(shape, jnp.int32))
    return model.logits(params, hidden_NXD[jnp.arange(shape[0]), length_N - 1])


def kept_weights(weights, config):
    """Top-k, then the nucleus, over distinct weights."""
    order = np.argsort(-weights)
    if config.top_k:
        weights = np.where(np.isin(np.arange(V), order[: config.top_k]), weights, 0)
    reached = np.cumsum(weights[order]) >= config.top_p * weights.sum() - 1e-12
    count = int(np.argmax(reached)) + 1
    return np.where(np.isin(np.arange(V), order[:count]), weights, 0)


def sample_in_python(model, params, mask, config):
    """Completions by the plain forward over whole rows, a step at a time, in float64, with the
    log-probabilities of what was sampled."""
    rows_NX = np.zeros((B * G, P + T), np.int32)
    length_N = np.repeat(PROMPTS.length_B, G)
    for n in range(B * G):
        rows_NX[n, : length_N[n]] = PROMPTS.tokens_BP[n // G, : length_N[n]]
    tokens, logprobs = [[] for _ in range(B * G)], [[] for _ in range(B * G)]
    thinking = mask.end_of_think_id is not None
    for t in range(T):
        logits_NV = np.asarray(_next_logits(model, params, rows_NX, length_N), np.float64)
        uniform_N = np.asarray(token_uniform(keys_of(), jnp.int32(t)), np.float64).reshape(-1)
        for n, done in enumerate(tokens):
            if done and done[-1] in STOPS:
                continue
            answering = not thinking or mask.end_of_think_id in done
            banned = [*mask.forbidden_ids, *([mask.end_of_think_id] if answering else [])]
            logits_V = logits_NV[n]
            logits_V[[v for v in banned if v is not None]] = -np.inf
            weights = np.exp((logits_V - logits_V.max()) / (config.temperature or 1))
            if config.temperature:
                weights = kept_weights(weights, config)
            upto = np.cumsum(weights)
            forced = not answering and len(done) >= mask.thinking_tokens
            if forced:
                token = mask.end_of_think_id
            elif config.temperature == 0:
                token = int(logits_V.argmax())
            else:
                token = int(np.searchsorted(upto, uniform_N[n] * upto[-1], side="right"))
            done.append(token)
            logprobs[n].append(0.0 if forced else np.log(weights[token] / upto[-1]))
            rows_NX[n, length_N[n]] = token
            length_N[n] += 1
    return tokens, logprobs


def test_completions_are_those_of_the_plain_forward_step_by_step(model, params, case):
    """And their log-probabilities those of what they were drawn from, after truncation."""
    mask, config, completions = case
    tokens, logprobs = sample_in_python(model, params, mask, config)
    assert [s.tokens_BGT[: s.length_BG] for s in samples(completions)] == tokens
    for sample, expected in zip(samples(completions), logprobs, strict=True):
        found = sample.logprobs_BGT[: sample.length_BG]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_a_completion_ends_with_its_stop_token_and_padding(case):
    for sample in samples(case[2]):
        tokens, length = sample.tokens_BGT, sample.length_BG
        stops = [t for t, token in enumerate(tokens) if token in STOPS]
        assert sample.stopped_BG == bool(stops)
        assert length == (stops[0] + 1 if stops else T)
        assert set(tokens[length:]) <= {PAD}
        assert PAD not in tokens[:length]
        assert not any(sample.policy_mask_BGT[length:])
        if stops:
            assert sample.policy_mask_BGT[length - 1]


def test_forbidden_tokens_are_not_sampled(case):
    mask, _, completions = case
    written = [t for s in samples(completions) for t in s.tokens_BGT[: s.length_BG]]
    assert not set(written) & set(mask.forbidden_ids)


def test_the_marker_is_forced_when_the_budget_is_spent_and_only_then_masked(case):
    mask, _, completions = case
    for sample in samples(completions):
        tokens = sample.tokens_BGT[: sample.length_BG]
        forced = [t for t in range(len(tokens)) if not sample.policy_mask_BGT[t]]
        if mask.end_of_think_id is None:
            assert not forced
            continue
        budget = mask.thinking_tokens
        spent = len(tokens) > budget and MARKER not in tokens[:budget]
        assert forced == ([budget] if spent else [])
        assert not spent or tokens[budget] == MARKER
        assert tokens.count(MARKER) <= 1
        assert sample.has_answer_BG == (MARKER in tokens)


def test_thought_and_answer_are_delimited(case):
    mask, _, completions = case
    for sample in samples(completions):
        tokens = sample.tokens_BGT[: sample.length_BG]
        answer = [token for token in tokens if token not in STOPS]
        thought = []
        if mask.end_of_think_id is not None:
            if MARKER in tokens:
                thought, answer = (
                    answer[: tokens.index(MARKER)],
                    answer[tokens.index(MARKER) + 1 :],
                )
                assert sample.thinking_tokens_BG == len(thought)
            else:
                answer = []
        else:
            assert sample.has_answer_BG and sample.thinking_tokens_BG == 0
        assert tokens[sample.answer_start_BG : sample.answer_end_BG] == answer
        assert 0 <= sample.answer_start_BG <= sample.answer_end_BG <= len(tokens)


def test_these_completions_end_in_every_way(model, params):
    """So that the tests above have met each."""
    ends = {
        (MARKER in s.tokens_BGT, s.stopped_BG, s.thinking_tokens_BG == BUDGET)
        for s in samples(complete(model, params))
    }
    assert ends >= {
        (True, True, True),  # the budget spent
        (True, True, False),  # the policy's own marker
        (True, False, True),  # cut in the answer
        (False, True, False),  # stopped inside the thought
    }


def test_logprobs_are_the_learners_unless_sampling_is_truncated(model, params, case):
    """After the logit masks, over the temperature; the learner's policy is never truncated."""
    mask, config, completions = case
    logprobs_BGT, *_ = completion_logprobs(
        model,
        params,
        PROMPTS,
        completions.tokens_BGT,
        completions.length_BG,
        mask,
        temperature=config.temperature,
        logit_chunk=T,
    )
    decided = completions.policy_mask_BGT
    gap = completions.logprobs_BGT[decided] - logprobs_BGT[decided]
    if config.truncates:  # what is left has more of the probability
        assert gap.min() > -2e-5 and gap.mean() > 0.1
    else:
        np.testing.assert_allclose(gap, 0, rtol=0, atol=2e-5)
    assert (completions.logprobs_BGT[~decided] == 0).all()
    assert completions.logprobs_BGT.min() < -1


def by_id(completions, ids):
    """The tokens of each (prompt, sample)."""
    shape = completions.tokens_BGT.shape
    return {(ids[b], g): completions.tokens_BGT[b, g].tolist() for b, g in np.ndindex(shape[:2])}


def taken(order):
    return Prompts(*(leaf[order] for leaf in PROMPTS)), IDS[order], DRAWS[order]


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [1, 2], [3]], ids=["permuted", "split", "alone"])
def test_completions_do_not_depend_on_the_rest_of_the_batch(model, params, order):
    prompts, ids, draws = taken(order)
    whole = by_id(complete(model, params), IDS)
    part = by_id(complete(model, params, prompts=prompts, keys_BG=keys_of(ids, draws)), ids)
    assert part == {key: tokens for key, tokens in whole.items() if key[0] in ids}


def test_completions_do_not_depend_on_the_group_size(model, params):
    whole = by_id(complete(model, params), IDS)
    part = by_id(complete(model, params, keys_BG=keys_of(group=3)), IDS)
    assert part == {key: tokens for key, tokens in whole.items() if key[1] < 3}


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"step": 1}, {"draws": DRAWS + 1}, {"ids": IDS + 1000}]
)
def test_another_seed_step_draw_or_prompt_id_gives_other_completions(model, params, change):
    a = complete(model, params).tokens_BGT
    b = complete(model, params, keys_BG=keys_of(**change)).tokens_BGT
    assert (a != b).any(axis=-1).mean() > 0.7


class CountingModel(Model):
    """Counts the tokens that it decodes."""

    calls = []

    def decode(self, *args):
        jax.debug.callback(lambda: CountingModel.calls.append(1))
        return super().decode(*args)


def test_the_loop_ends_when_every_completion_has_stopped(model, params):
    counting = CountingModel(**{f.name: getattr(model, f.name) for f in dataclasses.fields(model)})
    long = dataclasses.replace(SAMPLED, max_completion_tokens=500)
    completions = complete(counting, params, config=long)
    jax.effects_barrier()
    assert completions.stopped_BG.all()
    assert len(CountingModel.calls) == completions.length_BG.max() < 200

    short = complete(model, params)
    for sample, same in zip(samples(short), samples(completions), strict=True):
        assert sample.tokens_BGT == same.tokens_BGT[:T]


@pytest.mark.parametrize("layers", ["scanned", pytest.param("unrolled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("slots", [0, 4])
def test_segments_change_no_completion(model, params, layers, int8, slots, monkeypatch):
    module = importlib.import_module("rft_jax.rollout.decode")
    model = Model(dataclasses.replace(model.config, decode_layers=layers), V, model.graph)
    mask = LogitMask((*FORBIDDEN, MARKER, STOPS[0]), None, 0)
    config = dataclasses.replace(SAMPLED, max_completion_tokens=50, int8_cache=int8, slots=slots)
    at_once = complete(model, params, mask, config)
    monkeypatch.setattr(module, "SEGMENT_TOKENS", 13)
    assert module.segments(50) == [17, 34, 50]
    _rollout.clear_cache()
    in_segments = complete(model, params, mask, config)
    length_BG = at_once.length_BG
    assert length_BG.min() < 17
    assert length_BG.max() > 34
    for whole, segmented in zip(at_once, in_segments, strict=True):
        np.testing.assert_allclose(whole, segmented, rtol=0, atol=1e-5)


def test_masks_of_sampler_and_learner_agree(model, params):
    """What the learner replays forces exactly the tokens that the sampler did not decide."""
    completions = complete(model, params)
    states = logit_masks.replay(THINKING, completions.tokens_BGT)
    written = np.arange(T) < completions.length_BG[..., None]
    forced = np.asarray(logit_masks.forced(THINKING, states)) & written
    np.testing.assert_array_equal(completions.policy_mask_BGT, written & ~forced)
