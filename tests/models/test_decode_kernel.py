"""The kernel for a token's attention, interpreted, beside the plain partial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig, RolloutConfig
from rft_jax.models import build_model
from rft_jax.models.attention import merge, partial_attention
from rft_jax.models.decode_kernel import block_size, decode_attention, takes
from rft_jax.parallel import batch_sharding, make_mesh
from rft_jax.rollout import LogitMask, Prompts, completion_keys, rollout


def inputs(R, K, M, T, U, Q, queries, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)
    shapes = ((R, K, M, T, Q), (R, K, U, Q), (R, K, U, Q))
    q, k, v = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return q, k, v, jnp.asarray(rng.random((R, queries, U)) < 0.5)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    "shape",
    [
        (3, 2, 2, 1, 128, 64, 1),  # a completion's own keys
        (3, 2, 1, 1, 5, 16, 1),  # fewer keys than a block
        (2, 2, 2, 8, 500, 32, 1),  # a prompt's, of all samples; split, the last block not whole
        (1, 2, 7, 12, 330, 16, 12),  # two tiles of queries, which see different keys
        (70, 2, 1, 1, 200, 16, 1),  # two programs of two blocks for each row and head
        (1, 1, 1, 1, 100, 256, 1),
    ],
)
def test_the_kernel_is_the_plain_partial(shape, softcap):
    arguments = inputs(*shape)
    exact = partial_attention(*inputs(*shape, dtype=jnp.float32), scale=0.3, softcap=softcap)
    plain, kernel = (
        jax.jit(lambda *x, f=f: f(*x, scale=0.3, softcap=softcap))(*arguments)
        for f in (partial_attention, decode_attention)
    )
    for a, b, c in zip(kernel, plain, exact, strict=True):
        error = [float(jnp.abs(x - c).max()) for x in (a, b)]
        assert error[0] < 1.5 * error[1] + 1e-6


def test_a_query_without_keys_vanishes():
    q, k, v, mask = inputs(2, 1, 2, 3, 300, 16, 3)
    partial = decode_attention(q, k, v, mask.at[:, 1].set(False), scale=0.3)
    seen = partial_attention(q, k, v, jnp.ones_like(mask), scale=0.3)
    np.testing.assert_array_equal(merge(partial, seen)[:, :, :, 1], seen.out_RKMTQ[:, :, :, 1])
    assert np.isfinite(partial.out_RKMTQ).all()


def test_which_heads_it_takes():
    assert all(takes(Q, jnp.bfloat16) for Q in (16, 64, 128, 256))
    assert not any(takes(Q, jnp.bfloat16) for Q in (8, 80, 96, 512))
    assert not takes(64, jnp.float32)
    assert [block_size(Q) for Q in (16, 128, 256)] == [64, 64, 32]


@pytest.mark.parametrize(
    "mesh, slots, layers",
    [
        (None, 0, "unrolled"),
        pytest.param(None, 8, "unrolled", marks=pytest.mark.slow),
        (None, 0, "scanned"),
        pytest.param(MeshConfig(data=2, fsdp=2, tensor=2), 0, "unrolled", marks=pytest.mark.slow),
        (MeshConfig(data=2, fsdp=2, tensor=2), 8, "unrolled"),
    ],
)
def test_completions_are_those_of_plain_attention(mesh, slots, layers):
    B, G, P, V = 4, 4, 20, 31
    config = ModelConfig(
        num_layers=2,
        hidden_size=32,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=48,
        attention_softcap=5.0,
        attention_pattern=("full", "sliding"),
        sliding_window=9,
        compute_dtype="bfloat16",
        attention="xla",
        decode_layers=layers,
    )
    rng = np.random.default_rng(0)
    prompts = Prompts(jnp.asarray(rng.integers(0, V, (B, P))), jnp.array([20, 1, 7, 13]))
    rows = None if mesh is None else batch_sharding(make_mesh(mesh))
    if rows is not None:
        prompts = jax.device_put(prompts, rows)
    settings = RolloutConfig(group_size=G, max_completion_tokens=12, slots=slots)
    keys_BG = completion_keys(jnp.uint32(0), jnp.int32(0), jnp.arange(B), jnp.zeros(B, int), G)

    def completions(decode_attention):
        choice = dataclasses.replace(config, decode_attention=decode_attention)
        model = build_model(choice, V, rows, "gpu")  # elsewhere it is not chosen
        params = jax.tree.map(lambda x: x * 8, model.init(jax.random.key(0)))
        sample = jax.jit(
            lambda params, prompts: rollout(
                model, params, prompts, keys_BG, LogitMask((0,), None, 0), settings,
                stop_ids=(1,), pad_id=0,
            )
        )  # fmt: skip
        taken = "decode_attention" in str(jax.make_jaxpr(sample)(params, prompts))
        assert taken == (decode_attention == "triton")
        return sample(params, prompts)

    kernel, plain = completions("triton"), completions("xla")
    same = np.asarray(kernel.tokens_BGT == plain.tokens_BGT)
    assert same.mean() > 0.9
    whole = same.all(axis=-1)
    np.testing.assert_allclose(
        np.asarray(kernel.logprobs_BGT)[whole], np.asarray(plain.logprobs_BGT)[whole], atol=0.1
    )
