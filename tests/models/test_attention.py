"""Attention partials: merged, they are one softmax over the union of their keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.models.attention import merge, partial_attention

R, K, M, T, Q = 2, 2, 3, 4, 8
SPLIT, U = 5, 9  # the first partial's keys, all keys


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((R, K, M, T, Q), (R, K, U, Q), (R, K, U, Q))
    )
    mask = rng.random((R, T, U)) < 0.6
    mask[..., 0] = mask[..., -1] = True  # each side of the split has a visible key
    return q, k, v, jnp.asarray(mask)


def softmax_attention(q, k, v, mask, scale):
    """One softmax over all keys, head by head."""
    k, v = (jnp.repeat(x, M, axis=1).reshape(R, K, M, U, Q) for x in (k, v))
    score = jnp.where(mask[:, None, None], (q @ k.mT) * scale, -jnp.inf)
    return jax.nn.softmax(score, axis=-1) @ v


def merged_attention(q, k, v, mask, scale):
    parts = [
        partial_attention(q, k[:, :, at], v[:, :, at], mask[..., at], scale=scale)
        for at in (slice(SPLIT), slice(SPLIT, U))
    ]
    return merge(*parts)


def test_a_partial_is_softmax_attention_with_the_log_of_its_normalizer(inputs):
    q, k, v, mask = inputs
    partial = partial_attention(q, k, v, mask, scale=0.3)
    np.testing.assert_allclose(
        partial.out_RKMTQ, softmax_attention(*inputs, 0.3), rtol=0, atol=1e-6
    )
    score = np.einsum("rkmtq,rkuq->rkmtu", *(np.asarray(x, np.float64) for x in (q, k))) * 0.3
    normalizer = np.where(np.asarray(mask)[:, None, None], np.exp(score), 0).sum(axis=-1)
    np.testing.assert_allclose(partial.lse_RKMT, np.log(normalizer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 40.0])  # 40: scores whose exponentials overflow float32
def test_merged_partials_are_one_softmax_over_the_union(inputs, scale):
    np.testing.assert_allclose(
        merged_attention(*inputs, scale), softmax_attention(*inputs, scale), rtol=0, atol=5e-6
    )


def test_the_gradient_of_merged_partials_is_that_of_one_softmax(inputs):
    *qkv, mask = inputs
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(R, K, M, T, Q)), jnp.float32)

    def gradient(attention):
        return jax.grad(lambda qkv: (attention(*qkv, mask, 0.3) * weights).sum())(qkv)

    merged, whole = gradient(merged_attention), gradient(softmax_attention)
    for a, b in zip(merged, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("empty", ["first", "second"])
def test_a_set_without_visible_keys_vanishes_with_its_gradient(inputs, empty):
    q, k, v, mask = inputs
    hidden, seen = slice(SPLIT), slice(SPLIT, U)
    if empty == "second":
        hidden, seen = seen, hidden
    mask = mask.at[..., hidden].set(False)
    alone = partial_attention(q, k[:, :, seen], v[:, :, seen], mask[..., seen], scale=0.3)
    out, pullback = jax.vjp(lambda k, v: merged_attention(q, k, v, mask, 0.3), k, v)
    np.testing.assert_array_equal(out, alone.out_RKMTQ)
    for gradient in pullback(jnp.ones_like(out)):
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[:, :, hidden], 0)


def test_a_mask_axis_of_size_one_broadcasts(inputs):
    q, k, v, mask = inputs
    row = mask[:, :1]
    narrow = partial_attention(q, k, v, row, scale=0.3)
    wide = partial_attention(q, k, v, jnp.broadcast_to(row, mask.shape), scale=0.3)
    np.testing.assert_array_equal(narrow.out_RKMTQ, wide.out_RKMTQ)


def test_capped_scores_are_bounded_and_small_ones_are_kept(inputs):
    q, k, v, mask = inputs
    capped = partial_attention(q, k, v, mask, scale=40.0, softcap=2.0)
    score = np.einsum("rkmtq,rkuq->rkmtu", *(np.asarray(x, np.float64) for x in (q, k))) * 40.0
    weight = np.where(np.asarray(mask)[:, None, None], np.exp(2 * np.tanh(score / 2)), 0)
    np.testing.assert_allclose(capped.lse_RKMT, np.log(weight.sum(axis=-1)), rtol=1e-5, atol=1e-5)
    small = [partial_attention(q, k, v, mask, scale=1e-3, softcap=cap) for cap in (2.0, None)]
    np.testing.assert_allclose(small[0].out_RKMTQ, small[1].out_RKMTQ, rtol=0, atol=1e-6)
