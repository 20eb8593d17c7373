"""The kernel, interpreted, beside the plain partial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import build_model
from rft_jax.models.attention import Partial, partial_attention
from rft_jax.models.attention_kernel import SCORES, kernel_attention, takes, tile_size
from rft_jax.parallel import batch_sharding, make_mesh
from rft_jax.rollout import LogitMask, Prompts

R, K, M, Q = 2, 2, 2, 16


def inputs(T, U, mask_shape, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = ((R, K, M, T, Q), (R, K, U, Q), (R, K, U, Q))
    q, k, v = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return q, k, v, jnp.asarray(rng.random(mask_shape) < 0.5)


def both(attention, q, k, v, mask, **options):
    """Output and gradients, for a cotangent of each part of the partial."""
    rng = np.random.default_rng(1)
    shape = q.shape
    cotangent = Partial(
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.normal(size=shape[:-1]), jnp.float32),
    )
    partial, pull = jax.vjp(lambda q, k, v: attention(q, k, v, mask, **options), q, k, v)
    return partial, pull(cotangent)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("T", "U", "mask_shape"),
    [
        (256, 128, (R, 256, 128)),
        (128, 256, (R, 1, 256)),  # a prompt's: the same for all queries
        (256, 256, (1, 256, 256)),
        (256, 2048, (R, 256, 2048)),  # two tiles of queries
    ],
)
def test_the_kernel_is_the_plain_partial_with_its_gradient(T, U, mask_shape, softcap):
    arguments = inputs(T, U, mask_shape)
    got = both(kernel_attention, *arguments, scale=0.4, softcap=softcap)
    wanted = both(partial_attention, *arguments, scale=0.4, softcap=softcap)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_a_query_without_keys_vanishes_with_its_gradient():
    q, k, v, mask = inputs(128, 128, (R, 128, 128))
    mask = mask.at[:, 7].set(False)
    partial = kernel_attention(q, k, v, mask, 0.4)
    assert partial.lse_RKMT[:, :, :, 7].max() < -1e29

    def weighed(q, k):  # as `merge` weighs it
        partial = kernel_attention(q, k, v, mask, 0.4)
        return (jax.nn.sigmoid(partial.lse_RKMT)[..., None] * partial.out_RKMTQ)[:, :, :, 7].sum()

    for gradient in jax.grad(weighed, (0, 1))(q, k):
        np.testing.assert_array_equal(gradient, 0)


def test_bfloat16_is_as_near_to_float32_as_the_plain_partial():
    exact = both(partial_attention, *inputs(128, 256, (R, 128, 256)), scale=0.4)
    arguments = inputs(128, 256, (R, 128, 256), jnp.bfloat16)
    kernel, plain = (
        both(attention, *arguments, scale=0.4)
        for attention in (kernel_attention, partial_attention)
    )
    for a, b, c in zip(*map(jax.tree.leaves, (kernel, plain, exact)), strict=True):
        error = [float(jnp.abs(x.astype(jnp.float32) - c).mean()) for x in (a, b)]
        assert error[0] < 2 * error[1] + 1e-6


def test_lengths_that_are_no_whole_tiles_are_not_taken():
    assert takes(128, 128, 128, 2) and takes(512, SCORES // 128, 128, 2)
    assert not takes(127, 128, 128, 2) and not takes(128, 100, 128, 2)
    assert not takes(128, SCORES // 128 + 128, 128, 2)


def test_a_tile_fits_on_the_chip():
    bf16, f32 = 2, 4  # with 256 numbers a head, as Gemma; refused ones did not compile for v5e
    assert takes(2048, 2048, 256, bf16) and takes(2048, 2048, 128, f32)
    assert not takes(2048, 2048, 256, f32) and not takes(1536, 1536, 256, f32)
    assert takes(1024, 1024, 256, f32)
    assert tile_size(8192, 128, 64, bf16) == 2048 > tile_size(8192, 128, 256, f32) > 0


@pytest.mark.parametrize(
    "mesh",
    [pytest.param(None, marks=pytest.mark.slow), MeshConfig(data=2, fsdp=2, tensor=2)],
)
def test_a_decoder_with_the_kernel_gives_the_plain_ones_gradient(mesh):
    B, G, T, V = 4, 2, 128, 31
    config = ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=48,
        attention_softcap=5.0,
        attention_pattern=("full", "sliding"),
        sliding_window=50,
        compute_dtype="float32",
    )
    rows = None if mesh is None else batch_sharding(make_mesh(mesh))
    rng = np.random.default_rng(0)
    prompts = Prompts(rng.integers(0, V, (B, T)), np.array([128, 1, 77, 100]))
    tokens_BGT, length_BG = rng.integers(1, V, (B, G, T)), rng.integers(1, T + 1, (B, G))
    weight_BGT = rng.normal(size=(B, G, T)) * (np.arange(T) < length_BG[..., None])

    def gradient(attention):
        model = build_model(dataclasses.replace(config, attention=attention), V, rows)
        params = jax.tree.map(lambda x: x * 8, model.init(jax.random.key(0)))

        def loss(params):
            logprobs_BGT, *_ = completion_logprobs(
                model,
                params,
                prompts,
                tokens_BGT,
                length_BG,
                LogitMask((0,), None, None),
                temperature=1.0,
                logit_chunk=T,
            )
            return (logprobs_BGT * weight_BGT).sum()

        return jax.jit(jax.grad(loss))(params)

    kernel, plain = gradient("pallas"), gradient("xla")
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * float(jnp.abs(b).max()))
