"""Eight-bit weights and caches are close to what they stand for, and a step corrects the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig, RolloutConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import base, build_model, quantize_weights, quantized_axes
from rft_jax.models.int8 import Int8, dequantize, quantize
from rft_jax.models.linear import embed, grouped_linear, linear, unembed
from rft_jax.models.weight_axes import INPUTS
from rft_jax.parallel import ROLLOUT_RULES, make_mesh, shardings
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout

V, G, T = 32, 2, 6
DENSE = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=4, num_kv_heads=2, head_dim=8,
    intermediate_size=24, qk_norm=True, compute_dtype="float32",
)  # fmt: skip
EXPERTS = dataclasses.replace(DENSE, experts=4, experts_per_token=2, tie_embeddings=False)
MASK = LogitMask(forbidden_ids=(), end_of_think_id=None, thinking_tokens=0)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def whole(x, axes):
    return x.values * jnp.expand_dims(x.scale, axes)


@pytest.mark.parametrize("axes", [(0,), (-1,), (0, 2)])
def test_no_number_is_off_by_more_than_half_a_step(axes):
    x = normal(3, 5, 4).at[1].set(0)
    x8 = quantize(x, axes)
    assert x8.values.dtype == jnp.int8
    step = np.abs(x).max(axis=axes, keepdims=True) / 127
    assert (np.abs(whole(x8, axes) - x) <= 0.5001 * step).all()


@pytest.mark.parametrize(
    "equation, x_shape, shape, axes",
    [
        ("BTD,DKQ->BTKQ", (2, 3, 4), (4, 3, 5), (0,)),
        ("BTKMQ,KMQD->BTD", (2, 1, 2, 3, 4), (2, 3, 4, 6), (0, 1, 2)),
        ("F,FD->D", (4,), (4, 5), (0,)),
    ],
)
def test_products_are_those_of_the_rounded_weight(equation, x_shape, shape, axes):
    x, weight = normal(*x_shape), quantize(normal(*shape), axes)
    expected = jnp.einsum(equation, x, whole(weight, axes))
    found = linear(x, weight, len(axes))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    half = linear(x.astype(jnp.bfloat16), weight, len(axes))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.05, atol=0.2)


def test_embeddings_and_groups_are_those_of_the_rounded_weight():
    table = quantize(normal(7, 4), (1,))
    index = jnp.asarray([[6, 0], [3, 3]])
    np.testing.assert_array_equal(embed(table, index, jnp.float32), whole(table, (1,))[index])
    hidden = normal(2, 3, 4)
    expected = unembed(hidden, whole(table, (1,)))
    np.testing.assert_allclose(unembed(hidden, table), expected, rtol=1e-5, atol=1e-5)
    x, weight, sizes = normal(9, 4), quantize(normal(3, 4, 5), (1,)), jnp.asarray([2, 0, 7])
    expected = jax.lax.ragged_dot(x, whole(weight, (1,)), sizes)
    np.testing.assert_allclose(grouped_linear(x, weight, sizes), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_every_matrix_is_quantized_and_split_as_before(config):
    model = build_model(config, V)
    params = jax.eval_shape(lambda: quantize_weights(model.init(jax.random.key(0))))
    axes = quantized_axes(base(model.axes))
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    places = shardings(mesh, ROLLOUT_RULES, axes)
    assert jax.tree.structure(params) == jax.tree.structure(places)
    for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(places), strict=True):
        assert len(place.spec) == leaf.ndim
    plain = {name for name, leaf in params["layers"].items() if not isinstance(leaf, Int8)}
    norms = {"attention_norm_D", "mlp_norm_D", "q_norm_Q", "k_norm_Q"}
    assert plain == norms | ({"router_DE"} if config.experts else set())
    assert isinstance(params["embed_VD"], Int8)
    assert params["layers"]["out_KMQD"].scale.shape == (2, 16)


def sample(model, params, **settings):
    """Completions, and what the learner makes of them with the weights as they are."""
    ids = jnp.arange(3)
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, V, (3, 5)), jnp.int32)
    prompts = Prompts(tokens, jnp.asarray([5, 2, 4], jnp.int32))
    keys = completion_keys(jnp.uint32(0), jnp.int32(0), ids, ids, G)
    config = RolloutConfig(group_size=G, max_completion_tokens=T, **settings)
    found = rollout(model, params, prompts, keys, MASK, config, stop_ids=(), pad_id=0)
    exact, entropy, _ = completion_logprobs(
        model, params, prompts, found.tokens_BGT, found.length_BG, MASK, temperature=1.0,
        logit_chunk=T,
    )  # fmt: skip
    return found, exact, entropy


def weights(model):
    """With preferences: far from the uniform policy."""
    return jax.tree.map(lambda leaf: 4 * leaf, jax.jit(model.init)(jax.random.key(0)))


def rounded(params):
    """The weights for which those in eight bits stand."""

    def of(name, leaf, stacked):
        letters = name.rpartition("_")[2]
        axes = tuple(letters.index(axis) + stacked for axis in INPUTS.get(name, ""))
        return whole(leaf, axes) if axes else leaf

    quantized = quantize_weights(params)
    layers = {name: of(name, leaf, 1) for name, leaf in quantized.pop("layers").items()}
    return {name: of(name, leaf, 0) for name, leaf in quantized.items()} | {"layers": layers}


@pytest.mark.parametrize(
    "config",
    [DENSE, pytest.param(EXPERTS, marks=pytest.mark.slow)],
    ids=["dense", "experts"],
)
def test_the_rollout_samples_from_the_rounded_weights(config):
    model = build_model(config, V)
    params = weights(model)
    found, exact, _ = jax.jit(lambda params: sample(model, quantize_weights(params)))(params)
    expected, _, _ = jax.jit(lambda params: sample(model, rounded(params)))(params)
    np.testing.assert_array_equal(found.tokens_BGT, expected.tokens_BGT)
    np.testing.assert_allclose(found.logprobs_BGT, expected.logprobs_BGT, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.logprobs_BGT, exact, rtol=0, atol=2e-5)


def test_a_cache_in_eight_bits_samples_from_nearly_the_same_policy():
    model = build_model(DENSE, V)
    params = weights(model)
    found, exact, entropy = jax.jit(lambda p: sample(model, p, int8_cache=True))(params)
    assert entropy.min() < 0.95 * np.log(V)
    gap = np.abs(found.logprobs_BGT - exact)
    assert 0 < gap.max() < 0.05


def test_a_cache_in_eight_bits_is_read_in_the_compute_type():
    k = quantize(normal(2, 3, 4), (-1,))
    read = dequantize(k, jnp.bfloat16)
    assert read.dtype == jnp.bfloat16 and read.shape == (2, 3, 4)
    assert dequantize(read, jnp.float32) is read
