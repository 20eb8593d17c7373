"""Divergences by hand and by TRL's formula; the update: what it is a mean of, and where it is 0."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rft_jax.config import DistillStage, ModelConfig, RolloutConfig
from rft_jax.learn.distillation import (
    AGGREGATION,
    DIVERGENCES,
    DistilledCompletions,
    Distiller,
    distill,
    distillation_scores,
    forward_kl,
    generalized_jsd,
    reverse_kl,
)
from rft_jax.learn.losses import denominator
from rft_jax.learn.optimizer import averaged_weights, init_state, with_average
from rft_jax.models import build_model
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout

V, P, B, G, T = 19, 5, 4, 2, 7
TEMPERATURE = 0.8
MASK = LogitMask((0,), 2, 3)
SGD = optax.sgd(0.5)
STAGE = DistillStage(
    batch_size=B,
    logit_chunk=T,
    rollout=RolloutConfig(group_size=G, max_completion_tokens=T, temperature=TEMPERATURE),
)
SIZES = ModelConfig(
    num_layers=1,
    hidden_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=24,
    compute_dtype="float32",
)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    peak = logits.max(axis=-1, keepdims=True)
    return logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))


def kl_by_hand(p, q):
    """KL(p || q) of log-probabilities, over what p can be."""
    terms = np.where(np.exp(p) > 0, np.exp(p) * (p - q), 0)
    return terms.sum(axis=-1)


def generalized_jsd_loss(student, teacher, beta):
    """TRL's, of log-probabilities: 0 and 1 are the two KLs, the mixture is by log-sum-exp."""
    if beta == 0:
        return kl_by_hand(teacher, student)
    if beta == 1:
        return kl_by_hand(student, teacher)
    mixture = np.logaddexp(student + np.log(1 - beta), teacher + np.log(beta))
    return beta * kl_by_hand(teacher, mixture) + (1 - beta) * kl_by_hand(student, mixture)


@pytest.fixture
def pair():
    """Log-probabilities [5, V] of two policies that forbid the same token."""
    logits = np.random.default_rng(0).normal(size=(2, 5, V)).astype(np.float32) * 2
    logits[..., 3] = -1e30
    return [jax.nn.log_softmax(x) for x in logits]


@pytest.mark.parametrize("beta", [0, 0.1, 0.5, 0.9, 1])
def test_divergences_are_those_of_trl(pair, beta):
    function = {0: forward_kl, 1: reverse_kl}.get(beta, generalized_jsd)
    expected = generalized_jsd_loss(*(log_softmax(x) for x in pair), beta)
    np.testing.assert_allclose(function(*pair, beta), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_it_is_positive_and_0_with_no_gradient_at_the_teacher(pair, name):
    student, teacher = pair

    def loss(logits, teacher):
        return DIVERGENCES[name](jax.nn.log_softmax(logits), teacher, 0.3).sum()

    assert (DIVERGENCES[name](student, teacher, 0.3) > 0.01).all()
    value, gradient = jax.value_and_grad(loss)(teacher, teacher)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    assert np.isfinite(jax.grad(loss)(student, teacher)).all()


def test_the_gradient_in_logits_is_p_times_the_log_ratio_less_its_mean(pair):
    student, teacher = (np.asarray(log_softmax(x)) for x in pair)

    def loss(logits):
        return reverse_kl(jax.nn.log_softmax(logits), pair[1], 1).sum()

    p, ratio = np.exp(student), np.where(np.exp(student) > 0, student - teacher, 0)
    expected = p * (ratio - (p * ratio).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(jax.grad(loss)(pair[0]), expected, atol=1e-6)


def test_the_jsd_over_its_weight_becomes_either_kl(pair):
    less = [x / 3 for x in pair]  # so that no ratio of probabilities is large
    less = [jax.nn.log_softmax(x) for x in less]
    for beta, other in ((1e-3, forward_kl), (1 - 1e-3, reverse_kl)):
        jsd = generalized_jsd(*less, beta) / min(beta, 1 - beta)
        np.testing.assert_allclose(jsd, other(*less, beta), rtol=0.02)


def weights(model, seed):
    params = model.init(jax.random.key(seed))
    return jax.tree.map(lambda x: x * 12 if float(jnp.ptp(x)) > 0 else x, params)


@pytest.fixture(scope="module")
def student():
    return build_model(SIZES, V)


@pytest.fixture(scope="module")
def teacher():
    """Wider, deeper, and with two rows in its embedding that are no tokens."""
    sizes = dataclasses.replace(SIZES, num_layers=2, hidden_size=24)
    return build_model(sizes, V + 2)


@pytest.fixture(scope="module")
def sampled(student):
    rng = np.random.default_rng(0)
    tokens_BP = jnp.asarray(rng.integers(3, V, (B, P), np.int32))
    prompts = Prompts(tokens_BP, jnp.array([1, 5, 3, 2], jnp.int32))
    shown = Prompts(tokens_BP[:, ::-1], jnp.full(B, P, jnp.int32))  # as the teacher reads them
    keys = completion_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(B), jnp.zeros(B, jnp.int32), G)
    sample = functools.partial(rollout, student, stop_ids=(1,), pad_id=0)
    sample = jax.jit(sample, static_argnums=(3, 4))
    completions = sample(weights(student, 0), prompts, keys, MASK, STAGE.rollout)
    inside = jnp.arange(T) < completions.length_BG[..., None]
    assert (inside & ~completions.policy_mask_BGT).any()  # forced
    mask_BGT = completions.policy_mask_BGT
    total_BG = denominator(mask_BGT, AGGREGATION)
    return DistilledCompletions(prompts, shown, completions, mask_BGT, total_BG)


def distiller(student, teacher, optimizer=SGD, **settings):
    return Distiller(student, teacher, optimizer, MASK, dataclasses.replace(STAGE, **settings))


@functools.partial(jax.jit, static_argnums=0)
def update(program, state, teacher_params, batch):
    return distill(program, state, teacher_params, *batch[:3])


def policy_by_hand(model, params, prompts, completions):
    """log p at each token: a row by itself through the decoder, masked as the format wants it."""
    found = np.zeros((B, G, T, V))
    run = jax.jit(lambda *row: model.logits(params, model.hidden(params, *row)))
    for b, g in np.ndindex(B, G):
        length = int(prompts.length_B[b])
        prompt = np.asarray(prompts.tokens_BP[b, :length])
        row = np.zeros(P + T, np.int32)
        tokens = np.asarray(completions.tokens_BGT[b, g])
        row[: length + T] = np.concatenate([prompt, tokens])
        ones = np.ones_like(row)
        logits = np.asarray(run(row[None], np.arange(P + T)[None], ones[None]), np.float64)
        logits = logits[0, length - 1 : length - 1 + T, :V] / TEMPERATURE
        logits[:, 0] = -np.inf
        passed = np.cumsum(tokens == 2) - (tokens == 2) > 0
        logits[passed, 2] = -np.inf
        found[b, g] = log_softmax(logits)
    return found


def test_the_loss_is_the_mean_over_the_student_s_own_tokens(student, teacher, sampled):
    ours, theirs = weights(student, 0), weights(teacher, 1)
    state = init_state(ours, SGD, 0)
    _, metrics = update(distiller(student, teacher), state, theirs, sampled)
    p = policy_by_hand(student, ours, sampled.prompts, sampled.completions)
    q = policy_by_hand(teacher, theirs, sampled.teacher_prompts, sampled.completions)
    possible = np.isfinite(p)
    terms = np.exp(p) * np.subtract(p, q, out=np.zeros_like(p), where=possible)
    divergence, mask = terms.sum(axis=-1), np.asarray(sampled.mask_BGT)
    np.testing.assert_allclose(metrics["loss"], divergence[mask].mean(), rtol=1e-4)
    entropy = -(np.exp(p) * np.where(possible, p, 0)).sum(axis=-1)
    np.testing.assert_allclose(metrics["entropy"], entropy[mask].mean(), rtol=1e-4)
    assert metrics["sampler_learner_logprob_gap"] < 1e-5
    assert metrics["grad_norm"] > 0.01


def test_nothing_moves_a_student_that_is_its_teacher(student, sampled):
    params = weights(student, 0)
    state, same = init_state(params, SGD, 0), sampled._replace(teacher_prompts=sampled.prompts)
    after, metrics = update(distiller(student, student), state, params, same)
    assert abs(metrics["loss"]) < 1e-6 and metrics["grad_norm"] < 1e-5
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, after.params, params))) < 1e-5
    # With another prompt the same weights are another teacher.
    _, metrics = update(distiller(student, student), state, params, sampled)
    assert metrics["loss"] > 0.01 and metrics["grad_norm"] > 0.01


@pytest.fixture(scope="module")
def in_parts(student, teacher):
    """The same in chunks and micro-batches, without the completions that were cut."""
    rollout = dataclasses.replace(STAGE.rollout, truncated_completions="mask")
    settings = {"logit_chunk": 3, "gradient_accumulation": 2, "rollout": rollout}
    return distiller(student, teacher, **settings)


def test_chunks_and_micro_batches_change_memory_only(student, teacher, sampled, in_parts):
    theirs, state = weights(teacher, 1), init_state(weights(student, 0), SGD, 0)
    ended = sampled.completions._replace(stopped_BG=jnp.ones((B, G), bool))
    sampled = sampled._replace(completions=ended)
    whole, metrics = update(distiller(student, teacher), state, theirs, sampled)
    parts, cut_metrics = update(in_parts, state, theirs, sampled)
    np.testing.assert_allclose(cut_metrics["loss"], metrics["loss"], rtol=1e-5)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, whole.params, state.params))
    apart = optax.tree.norm(jax.tree.map(jnp.subtract, whole.params, parts.params))
    assert apart < 1e-5 * moved


def test_a_chunk_at_a_time_has_logits(student, teacher, sampled):
    """No array of [B, G, T, V] numbers is in the program."""
    program, theirs = distiller(student, teacher, logit_chunk=1), weights(teacher, 1)
    scores = jax.jit(distillation_scores, static_argnums=0)
    text = scores.lower(program, weights(student, 0), theirs, sampled).as_text()
    assert f"{B}x{G}x1x{V}xf32" in text and f"{B}x{G}x{T}x{V}xf32" not in text


def test_steps_bring_the_student_to_the_teacher(student, teacher, sampled):
    theirs, state = weights(teacher, 1), init_state(weights(student, 0), SGD, 0)
    program, losses = distiller(student, teacher), []
    for _ in range(30):
        state, metrics = update(program, state, theirs, sampled)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_cut_completions_are_left_out_where_that_is_asked_for(student, teacher, sampled, in_parts):
    completions = sampled.completions
    stopped_BG = jnp.arange(B * G).reshape(B, G) % 2 == 0
    batch = sampled._replace(completions=completions._replace(stopped_BG=stopped_BG))
    state, theirs = init_state(weights(student, 0), SGD, 0), weights(teacher, 1)
    _, metrics = update(in_parts, state, theirs, batch)
    own = completions.policy_mask_BGT & stopped_BG[..., None]
    batch = batch._replace(completions=completions._replace(policy_mask_BGT=own))
    _, expected = update(distiller(student, teacher), state, theirs, batch)
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_average_follows_the_weights(student, rate):
    optimizer = with_average(optax.sgd(0.1), rate)
    state = init_state(student.init(jax.random.key(0)), optimizer, 0)
    first = state.params["embed_VD"]
    expected = np.asarray(first)
    for k in range(3):
        gradient = jax.tree.map(lambda x, k=k: jnp.full_like(x, k + 1.0), state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = state._replace(params=params, opt_state=opt_state)
        expected = (1 - rate) * expected + rate * np.asarray(params["embed_VD"])
    np.testing.assert_allclose(state.params["embed_VD"], first - 0.6, rtol=1e-4, atol=1e-6)
    average = averaged_weights(student, state)["embed_VD"]
    np.testing.assert_allclose(average, expected, rtol=1e-6)
    if rate == 1:
        np.testing.assert_array_equal(average, state.params["embed_VD"])
