"""Muon on the stacked tree of weights, against a plain one of each matrix by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from rft_jax.config import ModelConfig, OptimizerConfig
from rft_jax.learn.optimizer import apply_gradient, init_state, make_optimizer
from rft_jax.models import build_model

CONFIG = OptimizerConfig(name="muon", learning_rate=0.01, clip_norm=1e9, weight_decay=0.1)
INPUT_AXES = {"q_DKMQ": 1, "k_DKQ": 1, "v_DKQ": 1, "out_KMQD": 3, "gate_DF": 1, "down_FD": 1}


def updated(config, model):
    params = model.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 99))
    gradient = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), params)
    optimizer = make_optimizer(config, steps=10)
    state, _ = apply_gradient(optimizer, init_state(params, optimizer, 0), gradient)
    return params, gradient, state.params


def plain_muon(weight, gradient):
    optimizer = optax.contrib.muon(0.01, weight_decay=0.1, consistent_rms=0.2)
    updates, _ = optimizer.update(gradient, optimizer.init(weight), weight)
    return weight + updates


@pytest.fixture(scope="module")
def dense():
    config = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=24,
        attention_bias=True,
    )
    return updated(CONFIG, build_model(config, 32))


@pytest.mark.parametrize("name", INPUT_AXES)
def test_muon_takes_each_matrix_of_each_layer_by_itself(dense, name):
    params, gradient, after = (tree["layers"][name] for tree in dense)
    for layer in range(2):
        inputs = np.prod(params.shape[1 : 1 + INPUT_AXES[name]])
        expected = plain_muon(
            params[layer].reshape(inputs, -1), gradient[layer].reshape(inputs, -1)
        ).reshape(params.shape[1:])
        np.testing.assert_allclose(after[layer], expected, rtol=1e-4, atol=1e-6)


def test_muon_takes_each_expert_by_itself():
    config = ModelConfig(
        num_layers=1, hidden_size=16, num_heads=2, num_kv_heads=2, head_dim=8, intermediate_size=24, experts=3,
        experts_per_token=2,
    )  # fmt: skip
    params, gradient, after = (
        tree["layers"]["down_EFD"][0] for tree in updated(CONFIG, build_model(config, 32))
    )
    expected = jnp.stack([plain_muon(*pair) for pair in zip(params, gradient, strict=True)])
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "path", [("embed_VD",), ("layers", "attention_norm_D"), ("layers", "q_bias_KMQ")]
)
def test_nesterov_adamw_takes_the_rest(dense, path):
    params, gradient, after = dense
    for key in path:
        params, gradient, after = params[key], gradient[key], after[key]
    optimizer = optax.nadamw(0.01, weight_decay=0.1)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(after, params + updates, rtol=1e-5, atol=1e-7)
