"""Logits as products in float32, of a model that computes in bfloat16."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rft_jax.config import MeshConfig, ModelConfig, RolloutConfig
from rft_jax.models import build_model
from rft_jax.parallel import make_mesh
from rft_jax.rollout import LogitMask
from rft_jax.step import Sampler, rollout_params

CONFIG = ModelConfig(
    num_layers=1,
    hidden_size=64,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    intermediate_size=24,
    compute_dtype="bfloat16",
)


def test_a_float32_head_rounds_neither_weights_nor_products():
    model = build_model(CONFIG, 31)
    exact = dataclasses.replace(model, float32_head=True)
    params = model.init(jax.random.key(0))
    hidden = jax.random.normal(jax.random.key(1), (5, 64)).astype(jnp.bfloat16)
    expected = np.asarray(hidden, np.float64) @ np.asarray(params[model.head], np.float64).T
    np.testing.assert_allclose(exact.logits(params, hidden), expected, rtol=1e-5, atol=1e-6)
    rounded = np.asarray(model.logits(params, hidden))
    assert np.abs(rounded - expected).max() > 1e-4

    # The rollout's copy keeps the head's bits too, so that both sides have one.
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    sampler = Sampler(exact, LogitMask((0,), 2, 3), RolloutConfig(), (1,), 0, mesh)
    copy = jax.jit(lambda params: rollout_params(sampler, params))(params)
    np.testing.assert_allclose(exact.logits(copy, hidden), expected, rtol=1e-5, atol=1e-6)
    assert copy["final_norm_D"].dtype == jnp.bfloat16
