"""Weights are split over meshes that divide them, with equal results; others are refused."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import DeltaNetConfig, MeshConfig, ModelConfig
from rft_jax.models import (
    base,
    build_model,
    check_partition,
    merge,
    quantize_weights,
    quantized_axes,
)
from rft_jax.parallel import LEARNER_RULES, ROLLOUT_RULES, batch_sharding, make_mesh, shardings
from rft_jax.utils.errors import InputError

CONFIG = ModelConfig(
    name="small",
    num_layers=1,
    hidden_size=12,
    num_heads=6,
    num_kv_heads=6,
    head_dim=4,
    intermediate_size=8,
)


def check(vocab_size=24, **sizes):
    mesh = make_mesh(MeshConfig(**sizes), jax.devices()[: sizes["fsdp"] * sizes["tensor"]])
    check_partition(build_model(CONFIG, vocab_size), mesh, LEARNER_RULES)


def test_divisors_are_accepted():
    check(data=1, fsdp=4, tensor=2)


@pytest.mark.parametrize(
    "sizes, complaint",
    [
        (
            {"fsdp": 1, "tensor": 4},
            "mesh.tensor: 4 devices cannot split num_kv_heads=6 of the model",
        ),
        ({"fsdp": 8, "tensor": 1}, "mesh.fsdp: 8 devices cannot split hidden_size=12 of the model"),
        (
            {"fsdp": 1, "tensor": 3},
            "mesh.tensor: 3 devices cannot split intermediate_size=8 of the model",
        ),
        ({"fsdp": 1, "tensor": 2, "vocab_size": 25}, "cannot split the vocabulary=25 of the model"),
    ],
)
def test_what_does_not_divide_is_named(sizes, complaint):
    with pytest.raises(InputError) as error:
        check(data=1, **sizes)
    assert complaint in str(error.value) and "choose a divisor of" in str(error.value)


MIXTURE = dataclasses.replace(
    CONFIG,
    num_layers=2,
    compute_dtype="float32",
    experts=4,
    experts_per_token=2,
    attention_pattern=("sliding", "full"),
    sliding_window=3,
)
HYBRID = dataclasses.replace(
    CONFIG,
    num_layers=2,
    compute_dtype="float64",
    attention_pattern=("delta_net", "full"),
    delta_net=DeltaNetConfig(1, 2, 6, 8, 3),
)
SHARING = dataclasses.replace(
    CONFIG,
    num_layers=6,
    compute_dtype="float64",
    attention_pattern=(*("sliding", "global") * 2, "shared_sliding", "shared_global"),
    sliding_window=3,
    global_head_dim=6,
    global_kv_heads=2,
    per_layer_size=4,
    layer_scale=True,
)


def hidden(model, params, tokens_BT):
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    return model.hidden(params, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(MIXTURE, id="experts and windows"),
        pytest.param(HYBRID, id="states", marks=pytest.mark.slow),
        pytest.param(SHARING, id="shared keys", marks=pytest.mark.slow),
    ],
)
def test_a_gradient_is_the_same_on_a_mesh(config):
    """In float64 where the order of float32 sums alone moves a gradient by as much as the bound."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = batch_sharding(mesh)
    whole, split = build_model(config, 24), build_model(config, 24, rows)
    tokens_BT = np.random.default_rng(0).integers(0, 24, (8, 7), np.int32)

    def gradient(model, params, tokens_BT):
        def loss(params):
            return jnp.square(model.logits(params, hidden(model, params, tokens_BT))).sum()

        return jax.jit(jax.grad(loss))(params)

    params = jax.tree.map(lambda x: 5 * x, jax.jit(whole.init)(jax.random.key(0)))
    places = shardings(mesh, LEARNER_RULES, whole.axes)
    with jax.enable_x64(config.compute_dtype == "float64"):
        params = jax.tree.map(lambda x: x.astype(config.compute_dtype), params)
        jax.tree.map(
            lambda a, b: np.testing.assert_array_less(
                np.linalg.norm(a - b), 1e-5 * np.linalg.norm(b) + 1e-12
            ),
            gradient(split, jax.device_put(params, places), jax.device_put(tokens_BT, rows)),
            gradient(whole, params, tokens_BT),
        )


def test_experts_in_eight_bits_compute_the_same_on_a_mesh():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    rows = batch_sharding(mesh)
    whole, split = build_model(MIXTURE, 24), build_model(MIXTURE, 24, rows)
    tokens_BT = np.random.default_rng(0).integers(0, 24, (8, 7), np.int32)
    params = jax.tree.map(lambda x: 5 * x, jax.jit(whole.init)(jax.random.key(0)))
    params = quantize_weights(merge(params, whole.dtype))
    places = shardings(mesh, ROLLOUT_RULES, quantized_axes(base(whole.axes)))
    arguments = jax.device_put(params, places), jax.device_put(tokens_BT, rows)
    got = jax.jit(functools.partial(hidden, split))(*arguments)
    np.testing.assert_allclose(got, hidden(whole, params, tokens_BT), rtol=1e-4, atol=1e-5)


def collectives(sizes, function=hidden):
    """Those of a function of the weights on a mesh: their shapes and kinds."""
    mesh = make_mesh(MeshConfig(**sizes))
    rows = batch_sharding(mesh)
    model = build_model(MIXTURE, 24, rows)
    params = jax.eval_shape(model.init, jax.random.key(0))
    tokens_BT = jax.ShapeDtypeStruct((8, 7), jnp.int32, sharding=rows)
    places = shardings(mesh, ROLLOUT_RULES, model.axes)
    compiled = jax.jit(functools.partial(function, model), in_shardings=(places, rows))
    text = compiled.lower(params, tokens_BT).compile().as_text()
    names = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    return re.findall(rf"= \w+\[([\d,]*)\]\S* ({names})(?:-start)?\(", text)


def test_tokens_are_sorted_by_expert_where_they_are():
    assert collectives({"data": 4, "fsdp": 2, "tensor": 1}) == []


def test_experts_are_summed_before_they_cross_the_tensor_axis():
    found = collectives({"data": 2, "fsdp": 2, "tensor": 2})
    largest = max(np.prod([int(n) for n in shape.split(",") if n]) for shape, _ in found)
    assert largest == 8 // 4 * 7 * MIXTURE.hidden_size


def test_a_gradient_needs_sums_alone():
    def gradient(model, params, tokens_BT):
        def loss(params):
            return jnp.square(hidden(model, params, tokens_BT)).sum()

        return jax.grad(loss)(params)

    found = collectives({"data": 2, "fsdp": 2, "tensor": 2}, gradient)
    assert {kind for _, kind in found} <= {"all-reduce", "reduce-scatter", "all-gather"}
