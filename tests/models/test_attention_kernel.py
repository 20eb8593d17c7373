"""Attention in tiles, by kernels, which are interpreted, and without, beside the plain partial."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config import MeshConfig, ModelConfig
from rft_jax.learn.logprobs import completion_logprobs
from rft_jax.models import (
    attention_kernel,
    build_model,
    row_attention,
    tiled_attention_kernel,
)
from rft_jax.models.attention import Partial, partial_attention
from rft_jax.models.attention_kernel import SCORES, kernel_attention, takes, tile_size
from rft_jax.models.blockwise_attention import CPU, Tiling, blockwise_attention
from rft_jax.models.row_attention import way_of_partial
from rft_jax.models.sight import FOREVER, Sight, last_seen, tile_ranges
from rft_jax.models.tiled_attention_kernel import tiled_attention
from rft_jax.parallel import batch_sharding, make_mesh
from rft_jax.rollout import LogitMask, Prompts

R, K, M, Q = 2, 2, 2, 16


def sight_of(segment_RX, position_RX, T, U, window=None):
    """The attention of the first T tokens and U keys of rows."""
    segment, position = jnp.asarray(segment_RX, jnp.int32), jnp.asarray(position_RX, jnp.int32)
    last = last_seen(position[:, :U], window)
    return Sight(segment[:, :T], position[:, :T], segment[:, :U], position[:, :U], last)


def prompts_and_packed_rows(T, U, window=None):
    """The first row is one segment; the other has three, and padding at its end."""
    at = np.arange(max(T, U))
    first = np.stack([0 * at, np.select([at < 100, at < 130], [0, 100], 130)])
    segment = np.stack([1 + 0 * at, np.select([at < 100, at < 130, at < 250], [1, 2, 3], 0)])
    return sight_of(segment, at - first, T, U, window)


def inputs(T, U, window=None, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = ((R, K, M, T, Q), (R, K, U, Q), (R, K, U, Q))
    q, k, v = (jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)
    return q, k, v, prompts_and_packed_rows(T, U, window)


def plain(q, k, v, sight, **options):
    return partial_attention(q, k, v, sight.mask(), **options)


def tiles(tiling):
    def attention(q, k, v, sight, *, scale, softcap=None):
        return blockwise_attention(q, k, v, sight, scale, softcap, tiling)

    return attention


def both(attention, q, k, v, sight, **options):
    """Output and gradients, for a cotangent of each part of the partial, of what sees a key."""
    rng = np.random.default_rng(1)
    sees = sight.mask().any(axis=-1)[:, None, None]
    cotangent = Partial(
        jnp.asarray(rng.normal(size=q.shape), jnp.float32) * sees[..., None],
        jnp.asarray(rng.normal(size=q.shape[:-1]), jnp.float32) * sees,
    )

    @jax.jit
    def run(q, k, v):
        partial, pull = jax.vjp(lambda *qkv: attention(*qkv, sight, **options), q, k, v)
        return (partial.out_RKMTQ * sees[..., None], partial.lse_RKMT * sees), pull(cotangent)

    return run(q, k, v)


@pytest.mark.parametrize(
    ("attention", "T", "U", "window", "softcap"),
    [
        (kernel_attention, 256, 128, None, None),
        (kernel_attention, 256, 2048, None, 2.0),  # two tiles of queries
        (kernel_attention, 256, 256, 60, None),
        (tiled_attention, 640, 640, None, None),  # five tiles of each
        (tiled_attention, 640, 384, 150, 2.0),
        (tiles(CPU), 300, 300, None, None),
        (tiles(CPU), 300, 200, 60, 2.0),
        (tiles(Tiling(100, 70, None)), 300, 300, None, None),
    ],
)
def test_tiles_are_the_plain_partial_with_its_gradient(attention, T, U, window, softcap):
    arguments = inputs(T, U, None if window is None else jnp.int32(window))
    got = both(attention, *arguments, scale=0.4, softcap=softcap)
    wanted = both(plain, *arguments, scale=0.4, softcap=softcap)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("attention", [kernel_attention, tiled_attention, tiles(CPU)])
def test_a_query_without_keys_vanishes_with_its_gradient(attention):
    q, k, v, sight = inputs(128, 128)
    sight = sight._replace(segment_RT=sight.segment_RT.at[:, 7].set(9))
    partial = attention(q, k, v, sight, scale=0.4)
    assert partial.lse_RKMT[:, :, :, 7].max() < -1e29

    def weighed(q, k):  # as `merge` weighs it
        partial = attention(q, k, v, sight, scale=0.4)
        return (jax.nn.sigmoid(partial.lse_RKMT)[..., None] * partial.out_RKMTQ)[:, :, :, 7].sum()

    for gradient in jax.grad(weighed, (0, 1))(q, k):
        np.testing.assert_array_equal(gradient, 0)


def test_tiles_that_no_token_sees_are_left_out():
    at = np.arange(512)[None]
    causal = tile_ranges(sight_of(0 * at + 1, at, 512, 512), 128, 128)
    np.testing.assert_array_equal(causal.end_key_RI, [[1, 2, 3, 4]])
    np.testing.assert_array_equal(causal.first_query_RJ, [[0, 1, 2, 3]])
    sliding = tile_ranges(sight_of(0 * at + 1, at, 512, 512, jnp.int32(129)), 128, 128)
    np.testing.assert_array_equal(sliding.first_key_RI, [[0, 0, 1, 2]])
    np.testing.assert_array_equal(sliding.end_query_RJ, [[2, 3, 4, 4]])
    apart = tile_ranges(sight_of(1 + (at >= 256), at % 256, 512, 512), 128, 128)
    np.testing.assert_array_equal(apart.first_key_RI, [[0, 0, 2, 2]])
    short = tile_ranges(sight_of(at < 130, at, 512, 512), 128, 128)
    np.testing.assert_array_equal(short.end_key_RI, [[1, 2, 0, 0]])


def test_windows_that_reach_everything_do_not_overflow():
    position = jnp.array([[0, 5, 2**20]], jnp.int32)
    np.testing.assert_array_equal(last_seen(position, jnp.int32(FOREVER))[0, 0], FOREVER - 1)
    assert (last_seen(position, jnp.int32(FOREVER)) >= 2**30).all()
    np.testing.assert_array_equal(last_seen(position, jnp.int32(3)), position + 2)


@pytest.mark.parametrize("attention", [kernel_attention, tiled_attention, tiles(CPU)])
def test_bfloat16_is_as_near_to_float32_as_the_plain_partial(attention):
    exact = both(plain, *inputs(256, 640), scale=0.4)
    arguments = inputs(256, 640, dtype=jnp.bfloat16)
    found = both(attention, *arguments, scale=0.4), both(plain, *arguments, scale=0.4)
    for a, b, c in zip(*map(jax.tree.leaves, (*found, exact)), strict=True):
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
    assert tiled_attention_kernel.takes(16384, 2176) and not tiled_attention_kernel.takes(2100, 128)
    assert tile_size(8192, 128, 64, bf16) == 2048 > tile_size(8192, 128, 256, f32) > 0


CHOICES = {"kernel": "pallas", "tiled": "pallas", "blockwise": "blockwise"}
MESH = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(
    ("way", "mesh"),
    [
        ("kernel", MESH),
        ("blockwise", MESH),
        pytest.param("kernel", None, marks=pytest.mark.slow),
        pytest.param("blockwise", None, marks=pytest.mark.slow),
        pytest.param("tiled", None, marks=pytest.mark.slow),
        pytest.param("tiled", MESH, marks=pytest.mark.slow),
    ],
)
def test_a_decoder_with_the_kernel_gives_the_plain_ones_gradient(way, mesh, monkeypatch):
    if way == "tiled":
        monkeypatch.setattr(attention_kernel, "takes", lambda *_: False)
    if way == "blockwise":
        monkeypatch.setattr(row_attention, "CPU_PAIRS", 0)
    choice = ModelConfig(attention=CHOICES[way])
    assert way_of_partial(choice, 128, 128, 8, jnp.dtype("float32")) == way
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

    kernel, plain = gradient(CHOICES[way]), gradient("xla")
    for a, b in zip(jax.tree.leaves(kernel), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * float(jnp.abs(b).max()))
