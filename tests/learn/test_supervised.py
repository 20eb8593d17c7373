"""Supervised learning: the cross-entropy of completions, whatever the packing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rft_jax.config import ModelConfig
from rft_jax.learn.optimizer import init_state
from rft_jax.learn.supervised import SupervisedBatch, make_supervised_step, supervised_sums
from rft_jax.models import build_model

V, T = 41, 16
# The items of each row: (prompt length, completion length). The last row has nothing to learn.
ROWS = [[(3, 4), (1, 2), (4, 1)], [(8, 8)], [(2, 5), (2, 2)], []]


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
def packed():
    """The batch, and its items as (tokens, prompt length)."""
    rng = np.random.default_rng(0)
    tokens, positions, segments = (np.zeros((len(ROWS), T), np.int32) for _ in range(3))
    predict = np.full((len(ROWS), 9), -1, np.int32)
    items = []
    for row, members in enumerate(ROWS):
        start, learned = 0, []
        for segment, (prompt, completion) in enumerate(members, start=1):
            item = rng.integers(0, V, prompt + completion, np.int32)
            at = slice(start, start + len(item))
            tokens[row, at], positions[row, at] = item, np.arange(len(item))
            segments[row, at] = segment
            learned += range(start + prompt - 1, start + len(item) - 1)
            items.append((item, prompt))
            start += len(item)
        predict[row, : len(learned)] = learned
    return SupervisedBatch(*map(jnp.asarray, (tokens, positions, segments, predict))), items


def state_of(model, optimizer):
    params = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, model.init(jax.random.key(0)))
    return init_state(params, optimizer, 0)


@functools.cache
def step_of(model, gradient_accumulation, logit_chunk):
    optimizer = optax.sgd(0.1)
    return jax.jit(
        make_supervised_step(model, optimizer, gradient_accumulation, logit_chunk)
    ), optimizer


def run(model, batch, gradient_accumulation=1, logit_chunk=64):
    step, optimizer = step_of(model, gradient_accumulation, logit_chunk)
    return step(state_of(model, optimizer), batch)


def test_the_loss_is_the_cross_entropy_of_the_items_completions(model, packed):
    batch, items = packed
    _, metrics = run(model, batch)
    params = state_of(model, optax.sgd(0.1)).params
    losses, correct = [], []
    rows_NT = np.zeros((len(items), T), np.int32)
    for row, (item, _) in zip(rows_NT, items, strict=True):
        row[: len(item)] = item
    positions_NT = np.broadcast_to(np.arange(T, dtype=np.int32), rows_NT.shape)
    hidden_NTD = model.hidden(params, rows_NT, positions_NT, np.ones_like(rows_NT))
    logits_NTV = np.asarray(model.logits(params, hidden_NTD), np.float64)
    for logits_TV, (item, prompt) in zip(logits_NTV, items, strict=True):
        for t in range(prompt, len(item)):
            scores = logits_TV[t - 1]
            losses.append(np.log(np.exp(scores).sum()) - scores[item[t]])
            correct.append(scores.argmax() == item[t])
    assert metrics["target_tokens"] == len(losses) == sum(c for row in ROWS for _, c in row)
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_token_accuracy"], np.mean(correct), rtol=1e-6)


@pytest.mark.parametrize(("gradient_accumulation", "logit_chunk"), [(2, 64), (4, 4), (1, 2)])
def test_micro_batches_and_logit_chunks_change_nothing(
    model, packed, gradient_accumulation, logit_chunk
):
    state, metrics = run(model, packed[0])
    other, other_metrics = run(model, packed[0], gradient_accumulation, logit_chunk)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=2e-6, atol=1e-7)
    before = state_of(model, optax.sgd(0.1)).params
    update = jax.tree.map(jnp.subtract, state.params, before)
    change = jax.tree.map(jnp.subtract, state.params, other.params)
    assert optax.tree.norm(change) <= 1e-5 * optax.tree.norm(update)


def test_prompts_and_padding_are_context_and_not_learned(model, packed):
    batch, _ = packed
    empty = batch._replace(predict_BC=jnp.full_like(batch.predict_BC, -1))
    state, metrics = run(model, empty)
    assert metrics["loss"] == metrics["grad_norm"] == 0
    jax.tree.map(
        np.testing.assert_array_equal, state.params, state_of(model, optax.sgd(0.1)).params
    )
    padding = batch.segments_BT == 0
    other = batch._replace(tokens_BT=jnp.where(padding, 17, batch.tokens_BT))
    assert run(model, other)[1]["loss"] == run(model, batch)[1]["loss"]


def test_sums_are_those_of_the_step(model, packed):
    batch, _ = packed
    _, metrics = run(model, batch)
    params = state_of(model, optax.sgd(0.1)).params
    halves = [jax.tree.map(lambda x, at=at: x[at : at + 2], batch) for at in (0, 2)]
    found = [supervised_sums(model, params, half, logit_chunk=64) for half in halves]
    loss, correct, tokens = np.sum(found, axis=0)
    assert tokens == metrics["target_tokens"]
    np.testing.assert_allclose(loss / tokens, metrics["loss"], rtol=1e-6)
    np.testing.assert_allclose(correct / tokens, metrics["mean_token_accuracy"], rtol=1e-6)


def test_a_step_counts_itself_and_its_rows(model, packed):
    state, _ = run(model, packed[0])
    assert (state.step, state.cursor) == (1, len(ROWS))


def test_a_few_items_are_learned_by_heart(model, packed):
    optimizer = optax.adam(1e-2)
    step = jax.jit(make_supervised_step(model, optimizer, 1, 64))
    state = state_of(model, optimizer)
    losses = []
    for _ in range(150):
        state, metrics = step(state, packed[0])
        losses.append(float(metrics["loss"]))
    assert losses[0] > 2
    assert losses[-1] < 0.05 and metrics["mean_token_accuracy"] == 1
