"""Adapters: applied, merged, split off, and computed alike on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import LoraConfig, MeshConfig, ModelConfig, RolloutConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import base, build_model, merge, split
from rft_jax.models.lora import check_targets
from rft_jax.parallel import LEARNER_RULES, ROLLOUT_RULES, batch_sharding, make_mesh, shardings
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout
from rft_jax.utils.errors import InputError

V, G, T = 32, 2, 5
LORA = LoraConfig(rank=3, alpha=12.0, base_dtype="float32")
CONFIG = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=24, attention_bias=True, qk_norm=True, compute_dtype="float32", lora=LORA,
)  # fmt: skip
MASK = LogitMask(forbidden_ids=(), end_of_think_id=None, thinking_tokens=0)


@pytest.fixture(scope="module")
def model():
    return build_model(CONFIG, V)


@pytest.fixture(scope="module")
def params(model):
    """Weights with adapters that matter."""
    trainable, frozen = split(jax.jit(model.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32),
        model.adapt(trainable, frozen),
    )


def prompts():
    tokens_BP = np.random.default_rng(1).integers(0, V, (8, 6), np.int32)
    return Prompts(jnp.asarray(tokens_BP), jnp.asarray([1, 6, 3, 2, 6, 5, 4, 1], jnp.int32))


@functools.partial(jax.jit, static_argnums=0)
def logprobs(model, params):
    tokens_BGT = np.random.default_rng(2).integers(0, V, (8, G, T), np.int32)
    return completion_logprobs(
        model, params, prompts(), jnp.asarray(tokens_BGT), jnp.full((8, G), T), MASK,
        temperature=1.0, logit_chunk=T,
    )[0]  # fmt: skip


def test_new_adapters_change_nothing(model):
    params = jax.jit(model.init)(jax.random.key(0))
    np.testing.assert_array_equal(logprobs(model, params), logprobs(model, base(params)))


def test_merged_weights_compute_what_adapters_do(model, params):
    applied, merged = logprobs(model, params), logprobs(model, merge(params, jnp.float32))
    np.testing.assert_allclose(applied, merged, rtol=0, atol=2e-5)
    assert np.abs(applied - logprobs(model, base(params))).max() > 0.3


def test_each_target_has_its_own_change(model, params):
    trainable, frozen = split(params)
    plain = logprobs(model, frozen)
    for name in trainable["layers"]:
        one = {
            other: factors | {"b": factors["b"] * (other == name)}
            for other, factors in trainable["layers"].items()
        }
        adapted = model.adapt({"layers": one}, frozen)
        assert np.abs(logprobs(model, adapted) - plain).max() > 1e-3, name
        merged = merge(adapted, jnp.float32)["layers"]
        same = [key for key in merged if np.array_equal(merged[key], frozen["layers"][key])]
        assert set(merged) - set(same) == {name}


def test_the_rollout_samples_alike_with_adapters_applied_or_merged(model, params):
    ids = jnp.arange(8)
    keys = completion_keys(jnp.uint32(0), jnp.int32(0), ids, jnp.zeros_like(ids), G)
    config = RolloutConfig(group_size=G, max_completion_tokens=T)

    @jax.jit
    def sample(params):
        return rollout(model, params, prompts(), keys, MASK, config, stop_ids=(), pad_id=0)

    applied, merged = sample(params), sample(merge(params, jnp.float32))
    np.testing.assert_array_equal(applied.tokens_BGT, merged.tokens_BGT)
    np.testing.assert_allclose(applied.logprobs_BGT, merged.logprobs_BGT, rtol=0, atol=2e-5)


def test_partitions_are_taken_apart_and_put_together(model, params):
    trainable, frozen = split(params)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(trainable))
    jax.tree.map(np.testing.assert_array_equal, model.adapt(trainable, frozen), params)
    sizes = [leaf.size for leaf in jax.tree.leaves(trainable)]
    D, K, M, Q, F, R, L = 16, 2, 2, 8, 24, 3, 2
    widths = [D + K * M * Q, D + K * Q, D + K * Q, K * M * Q + D, D + F, D + F, F + D]
    assert sum(sizes) == L * R * sum(widths)
    plain = build_model(dataclasses.replace(CONFIG, lora=None), V)
    assert split(frozen) == (frozen, {})
    assert plain.adapt(frozen, {}) is frozen


def test_the_frozen_weights_have_their_own_type():
    config = dataclasses.replace(CONFIG, lora=dataclasses.replace(LORA, base_dtype="bfloat16"))
    params = jax.eval_shape(lambda: build_model(config, V).init(jax.random.key(0)))
    trainable, frozen = split(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}


def test_a_mesh_changes_neither_merged_weights_nor_gradients(model, params):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    places = shardings(mesh, LEARNER_RULES, model.axes)
    split_up = jax.device_put(params, places)
    spec = split_up["layers"]["q_DKMQ"].a.sharding.spec
    assert spec == jax.sharding.PartitionSpec(None, "fsdp", None)
    tokens_BT = np.random.default_rng(3).integers(0, V, (8, 7), np.int32)
    positions_BT = np.broadcast_to(np.arange(7, dtype=np.int32), tokens_BT.shape)

    @jax.jit
    def gradient(trainable, frozen, tokens_BT):
        def loss(trainable):
            weights = model.adapt(trainable, frozen)
            hidden = model.hidden(weights, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
            return jnp.square(model.logits(weights, hidden)).mean()

        return jax.grad(loss)(trainable)

    expected = gradient(*split(params), tokens_BT)
    found = gradient(*split(split_up), jax.device_put(tokens_BT, batch_sharding(mesh)))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert 0 < np.linalg.norm(b)
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
    rollout_places = shardings(mesh, ROLLOUT_RULES, base(model.axes))
    merged = jax.jit(lambda p: merge(p, jnp.float32), out_shardings=rollout_places)(split_up)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
        merged,
        merge(params, jnp.float32),
    )


def test_experts_get_no_adapters():
    mixture = dataclasses.replace(CONFIG, name="big", experts=4, experts_per_token=2)
    complaint = "models.big.lora.targets: a mixture's experts cannot have adapters; leave gate_proj"
    with pytest.raises(InputError, match=complaint):
        check_targets(mixture)
    attention = LoraConfig(rank=3, targets=("q_proj", "o_proj"))
    attention_only = dataclasses.replace(mixture, lora=attention)
    check_targets(attention_only)
    params = jax.eval_shape(lambda: build_model(attention_only, V).init(jax.random.key(0)))
    assert split(params)[0]["layers"].keys() == {"q_DKMQ", "out_KMQD"}
