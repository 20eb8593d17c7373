"""Four bits hold what they should, and a step over them is the step over the numbers they are."""

import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from safetensors.numpy import load_file

from rft_jax.config import (
    LoraConfig,
    MeshConfig,
    ModelConfig,
    PolicyLossSettings,
    RolloutConfig,
)
from rft_jax.learn.optimizer import init_state, weights
from rft_jax.learn.policy import policy_update
from rft_jax.models import build_model, check_partition, split
from rft_jax.models.hugging_face import export, load_params, open_checkpoint
from rft_jax.models.linear import grouped_linear, linear
from rft_jax.models.nf4 import BLOCK, LEVELS, dequantize, is_nf4, quantize, quantize_base
from rft_jax.parallel import LEARNER_RULES, batch_sharding, make_mesh, shardings
from rft_jax.rollout import LogitMask, Prompts, completion_keys
from rft_jax.step import Sampler, make_learner, rollout_params, sample
from rft_jax.utils.errors import InputError

from .hugging_face.conftest import CONFIGS, SIZES, tensors_of, write

V, P, B, G, T = 24, 5, 4, 2, 6
DENSE = ModelConfig(
    num_layers=2, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8, intermediate_size=16,
    compute_dtype="float32", lora=LoraConfig(rank=2, base_dtype="nf4"),
)  # fmt: skip
EXPERTS = dataclasses.replace(
    DENSE, experts=4, experts_per_token=2,
    lora=LoraConfig(rank=2, base_dtype="nf4", targets=("q_proj", "o_proj")),
)  # fmt: skip
MESH = MeshConfig(data=2, fsdp=2, tensor=2)
CASES = pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
pack, unpack = jax.jit(quantize, static_argnums=1), jax.jit(dequantize, static_argnums=1)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([-1, -2, -3]), st.floats(1e-30, 1e30))
def test_what_four_bits_hold_is_packed_as_it_was(seed, axis, size):
    """Every level times a scale comes back if a block has the largest level, as its scale says."""
    rng = np.random.default_rng(seed)
    levels = LEVELS[rng.integers(0, 16, (2, 3, 2, BLOCK))]
    levels[..., 0] = rng.choice([-1, 1])
    weight = levels * (size * rng.uniform(0.5, 2, (2, 3, 2, 1)))
    weight = np.moveaxis(weight, -1, axis).astype(np.float32)
    packed = pack(weight, axis)
    assert (packed.values.dtype, packed.shape) == (jnp.uint8, weight.shape)
    assert packed.values.size == weight.size / 2 and packed.scale.size == weight.size / BLOCK
    np.testing.assert_allclose(unpack(packed, jnp.float32), weight, rtol=3e-7, atol=0)
    again = pack(unpack(packed, jnp.float32), axis)
    np.testing.assert_array_equal(again.values, packed.values)
    np.testing.assert_array_equal(again.scale, packed.scale)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 16, BLOCK, 3 * BLOCK, 96]))
def test_no_number_is_off_by_more_than_half_a_gap(seed, inputs):
    rng = np.random.default_rng(seed)
    weight = rng.standard_t(3, (2, inputs, 3)).astype(np.float32)
    weight[0, :8] = 0
    packed = pack(weight, -2)
    blocks = packed.scale.shape[1]
    of_block = weight.reshape(2, blocks, -1, 3)
    largest = np.abs(of_block).max(axis=2)
    np.testing.assert_array_equal(packed.scale, largest)
    error = np.abs(np.asarray(unpack(packed, jnp.float32)).reshape(of_block.shape) - of_block)
    assert (error <= 1.00001 * np.diff(LEVELS).max() / 2 * largest[:, :, None]).all()


@jax.jit
def products(x, weight, x_NI, experts, size_E):
    """A linear layer and groups give the same, and so do gradients of x."""
    one, pull = jax.vjp(lambda x: linear(x, weight, 2), x)
    many, pull_many = jax.vjp(lambda x: grouped_linear(x, experts, size_E), x_NI)
    return one, many, pull(one), pull_many(many)


def test_products_and_their_gradients_are_those_of_the_numbers():
    x, x_NI, size_E = normal(2, 3, 4, 16), normal(9, 8), jnp.asarray([2, 0, 7])
    weight, experts = pack(normal(4, 16, 5), -2), pack(normal(3, 8, 5), -2)
    found = products(x, weight, x_NI, experts, size_E)
    dense = unpack(weight, jnp.float32), unpack(experts, jnp.float32)
    expected = products(x, dense[0], x_NI, dense[1], size_E)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )
    assert linear(x.astype(jnp.bfloat16), weight, 2).dtype == jnp.bfloat16


def test_an_axis_without_blocks_is_refused():
    with pytest.raises(InputError, match="base_dtype: nf4 needs weights whose inputs come in"):
        quantize(normal(6, 4), -2)


@CASES
def test_matrices_are_packed_and_nothing_else(config):
    model = build_model(config, V)
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    trainable, frozen = split(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainable)} == {jnp.dtype("float32")}
    plain = {name for name, leaf in frozen["layers"].items() if not is_nf4(leaf)}
    norms = {"attention_norm_D", "mlp_norm_D"}
    assert plain == norms | ({"router_DE"} if config.experts else set())
    assert frozen["embed_VD"].dtype == jnp.bfloat16
    assert frozen["layers"]["out_KMQD"].values.shape == (2, 2, 2, 4, 32)
    assert frozen["layers"]["out_KMQD"].scale.shape == (2, 2, 2, 1, 32)
    places = shardings(make_mesh(MESH), LEARNER_RULES, model.axes)
    assert jax.tree.structure(params) == jax.tree.structure(places)
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        assert len(place.spec) == leaf.ndim


def test_a_mesh_that_would_cut_blocks_is_refused():
    mesh = make_mesh(MeshConfig(data=1, fsdp=1, tensor=2), jax.devices()[:2])
    complaint = "mesh.tensor: 2 devices cannot split blocks of intermediate_size=1 of the model"
    with pytest.raises(InputError, match=complaint):
        check_partition(build_model(DENSE, V), mesh, LEARNER_RULES)


def numbers(frozen):
    """The frozen weights as float32."""
    return jax.tree.map(lambda leaf: dequantize(leaf, jnp.float32), frozen, is_leaf=is_nf4)


class Update:
    """An update of adapters from what the model samples with them."""

    def __init__(self, config):
        model = build_model(config, V)
        mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
        rollout = RolloutConfig(group_size=G, max_completion_tokens=T)
        self.sampler = Sampler(model, LogitMask((0,), 2, 3), rollout, (1,), 0, mesh)
        loss = PolicyLossSettings(logit_chunk=T, importance="tis")
        self.learner = make_learner(self.sampler, optax.sgd(1.0), loss)

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(self, trainable, frozen):
        """The state after it, its metrics, and the completions."""
        rng = np.random.default_rng(0)
        params = self.sampler.model.adapt(trainable, frozen)
        state = init_state(params, self.learner.optimizer, 0)
        prompts = Prompts(jnp.asarray(rng.integers(3, V, (B, P)), jnp.int32), jnp.full(B, P))
        zeros_B = jnp.zeros(B, jnp.int32)
        keys = completion_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(B), zeros_B, G)
        copy = rollout_params(self.sampler, weights(self.learner.model, state))
        completions = sample(self.sampler, copy, prompts, keys)
        advantage_BG = jnp.asarray(rng.normal(size=(B, G)), jnp.float32)
        batch = prompts, completions, advantage_BG, jnp.ones((B, G), bool)
        after, metrics = policy_update(self.learner, state, *batch, copy)
        return after, metrics, completions


def start(model):
    """The two partitions, with adapters that matter and preferences."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    plain = dataclasses.replace(model.config, lora=None)
    dense = jax.jit(build_model(plain, V).init)(jax.random.key(0))
    dense = jax.tree.map(lambda leaf: 8 * leaf if leaf.ndim > 2 else leaf, dense)
    frozen = quantize_base(dense, jnp.bfloat16)
    rng = np.random.default_rng(1)
    trainable = jax.tree.map(
        lambda leaf: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32), split(shapes)[0]
    )
    return trainable, frozen


@pytest.mark.parametrize(
    "config", [DENSE, pytest.param(EXPERTS, marks=pytest.mark.slow)], ids=["dense", "experts"]
)
def test_a_step_is_that_over_the_numbers_and_changes_adapters_only(config):
    config = dataclasses.replace(config, num_layers=1)
    update = Update(config)
    trainable, frozen = start(update.sampler.model)
    lora = dataclasses.replace(config.lora, base_dtype="float32")
    plain = Update(dataclasses.replace(config, lora=lora))
    found, metrics, completions = update(trainable, frozen)
    expected, _, merged = plain(trainable, numbers(frozen))
    np.testing.assert_array_equal(completions.tokens_BGT, merged.tokens_BGT)
    np.testing.assert_allclose(completions.logprobs_BGT, merged.logprobs_BGT, rtol=0, atol=2e-5)
    assert metrics["kl_sampler_learner_k3"] < 1e-6 and metrics["grad_norm"] > 0
    jax.tree.map(np.testing.assert_array_equal, found.frozen.base, frozen)
    assert jax.tree.structure(found.params) == jax.tree.structure(trainable)
    moved = jax.tree.map(lambda a, b: a - b, found.params, trainable)
    theirs = jax.tree.map(lambda a, b: a - b, expected.params, trainable)
    for ours, other in zip(jax.tree.leaves(moved), jax.tree.leaves(theirs), strict=True):
        assert 0 < np.linalg.norm(other)
        assert np.linalg.norm(ours - other) <= 1e-4 * np.linalg.norm(other)


def load(directory, mesh):
    """The base of a model with adapters, over some devices."""
    checkpoint = open_checkpoint(directory)
    lora = LoraConfig(rank=2, base_dtype="nf4", targets=("q_proj",))
    model = build_model(dataclasses.replace(checkpoint.config, lora=lora), checkpoint.vocab_size)
    devices = jax.devices()[: mesh.data * mesh.fsdp * mesh.tensor]
    places = split(shardings(make_mesh(mesh, devices), LEARNER_RULES, model.axes))[1]
    return model, load_params(checkpoint, places, model.frozen_dtype), places


@pytest.mark.parametrize("name", ["qwen3", "gpt_oss"])
def test_a_checkpoint_is_packed_as_its_numbers_would_be(name, tmp_path):
    sizes = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 8}
    config = SIZES | CONFIGS[name] | sizes
    write(tmp_path / "base", config, tensors_of(config))
    model, packed, _ = load(tmp_path / "base", MeshConfig(1, 1, 1))
    checkpoint = open_checkpoint(tmp_path / "base")
    one = jax.tree.map(
        lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), numbers(packed)
    )
    expected = jax.jit(quantize_base, static_argnums=1)(load_params(checkpoint, one), jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, packed, expected)
    _, split_up, places = load(tmp_path / "base", MESH)
    jax.tree.map(np.testing.assert_array_equal, split_up, packed)
    assert jax.tree.map(lambda leaf: leaf.sharding, split_up) == places

    params = model.adapt(model.init_adapters(packed, jax.random.key(0)), packed)
    export(model, params, tmp_path / "base", tmp_path / "out", dtype=jnp.float32)
    again = load_params(open_checkpoint(tmp_path / "out"), one)
    jax.tree.map(np.testing.assert_array_equal, again, numbers(packed))
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == tensors_of(config).keys()


@pytest.mark.slow
@CASES
def test_a_gradient_is_the_same_on_a_mesh(config):
    config = dataclasses.replace(config, hidden_size=128, intermediate_size=128)
    mesh = make_mesh(MESH)
    rows = batch_sharding(mesh)
    whole, apart = build_model(config, V), build_model(config, V, rows)
    tokens_BT = np.random.default_rng(0).integers(0, V, (8, 7), np.int32)
    positions_BT = np.broadcast_to(np.arange(7, dtype=np.int32), tokens_BT.shape)
    trainable, frozen = start(whole)
    places = split(shardings(mesh, LEARNER_RULES, whole.axes))

    def gradient(model, trainable, frozen, tokens_BT):
        def loss(trainable):
            params = model.adapt(trainable, frozen)
            hidden = model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
            return jnp.square(model.logits(params, hidden)).sum()

        return jax.jit(jax.grad(loss))(trainable)

    expected = gradient(whole, trainable, frozen, tokens_BT)
    parts = jax.device_put((trainable, frozen), places)
    assert parts[1]["layers"]["q_DKMQ"].scale.sharding.spec[1] == "fsdp"
    found = gradient(apart, *parts, jax.device_put(tokens_BT, rows))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert 0 < np.linalg.norm(b)
        assert np.linalg.norm(a - b) <= 1e-4 * np.linalg.norm(b)
