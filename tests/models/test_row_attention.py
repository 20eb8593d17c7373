"""Attention over the keys of a row and of its prompt at once, as cuDNN is given them, by partials.

cuDNN itself is not run: its place is taken by the plain implementation behind the same function.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig
from rft_jax.models import row_attention
from rft_jax.models.row_attention import Keys, cudnn_takes
from rft_jax.parallel import make_mesh

B, S, K, M, T, P, Q = 2, 3, 2, 2, 6, 10, 8


@pytest.fixture
def without_cudnn(monkeypatch):
    monkeypatch.setattr(row_attention, "CUDNN", "xla")
    monkeypatch.setattr(row_attention, "cudnn_takes", lambda *_: True)


def inputs(shared_mask):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def mask(*shape):
        return jnp.asarray(rng.random(shape) < 0.6).at[..., 0].set(True)

    own = Keys(normal(B * S, K, T, Q), normal(B * S, K, T, Q), mask(B, S, T, T))
    shared = Keys(normal(B, K, P, Q), normal(B, K, P, Q), mask(*shared_mask, P))
    return normal(B, S, K, M, T, Q), own, shared


@pytest.mark.parametrize("mesh", [None, MeshConfig(data=2, fsdp=1, tensor=2)])
@pytest.mark.parametrize("shared_mask", [(B, 1, 1), (B, S, T), None])
def test_all_keys_at_once_are_the_merged_partials_with_their_gradient(
    without_cudnn, shared_mask, mesh
):
    q, own, shared = inputs(shared_mask or (B, 1, 1))
    shared = shared if shared_mask else None
    config = ModelConfig(num_heads=K * M, num_kv_heads=K, head_dim=Q, attention_scale=0.4)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def gradient(attention):
        def loss(q, own, shared):
            out = attention(q, own, shared)
            return (out * weight).sum(), out

        function = jax.value_and_grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
        return [
            x
            for x in jax.tree.leaves(jax.jit(function)(q, own, shared))
            if x.size and x.dtype == jnp.float32
        ]

    plain = gradient(row_attention.plain_attention(config))
    mesh = None if mesh is None else make_mesh(mesh, jax.devices()[:4])
    config = dataclasses.replace(config, attention="cudnn")
    joint = gradient(row_attention.fused_attention(config, mesh))
    assert len(joint) == (7 if shared_mask else 5)
    for a, b in zip(plain, joint, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_cudnn_has_no_kernel_for_is_left_to_partials():
    assert cudnn_takes(T, T + P, Q, jnp.bfloat16)
    assert not cudnn_takes(T, T + P, Q, jnp.float32)
    assert not cudnn_takes(T, T + P - 1, Q, jnp.bfloat16)
    assert not cudnn_takes(T - 1, T + P, Q, jnp.bfloat16)
    assert not cudnn_takes(T, T + P, Q - 4, jnp.bfloat16)
    assert not cudnn_takes(T, T + P, 256, jnp.bfloat16)
    arguments = inputs((B, 1, 1))
    half = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, arguments
    )
    for softcap, given in ((None, arguments), (3.0, half)):
        config = ModelConfig(
            num_heads=K * M,
            num_kv_heads=K,
            head_dim=Q,
            attention="cudnn",
            attention_softcap=softcap,
        )
        out = row_attention.fused_attention(config, None)(*given)
        np.testing.assert_array_equal(out, row_attention.plain_attention(config)(*given))
