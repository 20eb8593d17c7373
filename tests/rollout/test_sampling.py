"""Sampling a token: frequencies, truncation, the inverse CDF and where the noise comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rft_jax.rollout import completion_keys
from rft_jax.rollout.sampling import inverse_cdf, sample, token_uniform, truncate

ALMOST_ONE = np.nextafter(np.float32(1), np.float32(0))
CHI_SQUARE_9 = 33.7  # exceeded with probability 1e-4 at 9 degrees of freedom; seeds are fixed

draw = jax.jit(inverse_cdf)
uniform_at = jax.jit(token_uniform)


def weights_of(seed, size, zeros, spread):
    """Weights between exp(-spread) and 1, some of them 0; at least one is not."""
    rng = np.random.default_rng(seed)
    weights = np.exp(-spread * rng.random(size)).astype(np.float32)
    weights[rng.random(size) < zeros] = 0
    weights[rng.integers(size)] = 1
    return weights


some_weights = st.builds(
    weights_of,
    seed=st.integers(0, 2**32 - 1),
    size=st.sampled_from([1, 5, 128, 129, 300]),
    zeros=st.sampled_from([0.0, 0.5, 0.97]),
    spread=st.sampled_from([0.0, 3.0, 30.0]),
)


@settings(max_examples=60)
@given(some_weights, st.integers(0, 2**32 - 1))
def test_inverse_cdf_is_the_search_in_the_cumulative_sum(weights, seed):
    uniform = np.random.default_rng(seed).random(64, np.float32)
    upto = np.cumsum(weights, dtype=np.float64)
    target = uniform.astype(np.float64) * upto[-1]
    expected = np.searchsorted(upto, target, side="right")
    clear = np.abs(upto[:, None] - target).min(axis=0) > 1e-5 * upto[-1]
    tokens = np.asarray(draw(np.tile(weights, (64, 1)), uniform))
    np.testing.assert_array_equal(tokens[clear], expected[clear])


@settings(max_examples=60)
@given(some_weights, st.integers(-4, 4))
def test_a_token_of_weight_zero_is_never_drawn(weights, ulps):
    """Not at the ends of the unit interval, nor within rounding of a token's boundary."""
    upto = np.cumsum(weights, dtype=np.float64)
    boundaries = (upto / upto[-1]).astype(np.float32) + np.float32(ulps * 2.0**-24)
    uniform = np.concatenate([[0, ALMOST_ONE], boundaries, np.zeros(302)])[:302]
    uniform = np.clip(uniform, 0, ALMOST_ONE).astype(np.float32)
    tokens = np.asarray(draw(np.tile(weights, (302, 1)), uniform))
    assert (tokens < len(weights)).all()
    at_zero = np.flatnonzero(weights[tokens] == 0)
    assert not at_zero.size, (uniform[at_zero[0]], tokens[at_zero[0]])


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_token_with_weight():
    weights = np.zeros(300, np.float32)
    weights[[3, 140, 297]] = 0.2, 0.5, 0.3
    tokens = draw(np.tile(weights, (2, 1)), np.array([0, ALMOST_ONE]))
    assert tokens.tolist() == [3, 297]


def truncated_in_python(weights, top_k, top_p):
    """Which tokens stay, by sorting."""
    if 0 < top_k < len(weights):
        least = sorted(weights, reverse=True)[top_k - 1]
        weights = [w if w >= least else 0 for w in weights]
    if top_p < 1:
        total, before = sum(weights), 0
        for least in sorted(weights, reverse=True):
            before += least
            if before >= top_p * total:
                break
        weights = [w if w >= least else 0 for w in weights]
    return weights


# Whole numbers and dyadic p: sums are exact, so that ties at the border are ties.
@settings(max_examples=80)
@given(
    st.lists(st.integers(0, 9), min_size=12, max_size=12).filter(any),
    st.sampled_from([0, 1, 2, 5, 11, 12, 40]),
    st.sampled_from([2.0**-10, 0.25, 0.5, 0.75, 1.0]),
)
def test_truncation_keeps_the_top_k_and_then_the_nucleus(weights, top_k, top_p):
    kept = truncate(jnp.asarray(weights, jnp.float32), top_k, top_p)
    assert kept.tolist() == truncated_in_python(weights, top_k, top_p)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (4, 1.0), (0, 0.7), (6, 0.8)])
def test_frequencies_follow_the_truncated_softmax(top_k, top_p):
    logits = np.array([0.3, -1.0, 1.2, 0.0, 0.7, -0.4, -2.0, 0.9, 0.1, -0.6], np.float32)
    count = 20_000
    keys = completion_keys(jnp.uint32(5), jnp.int32(0), jnp.arange(count), jnp.zeros(count), 1)
    tokens, logprobs = sample(
        jnp.tile(logits, (count, 1)),
        uniform_at(keys, 3)[:, 0],
        greedy=False,
        top_k=top_k,
        top_p=top_p,
    )
    log_policy = logits - np.log(np.exp(logits, dtype=np.float64).sum())
    np.testing.assert_allclose(logprobs, log_policy[tokens], rtol=0, atol=1e-5)

    kept = np.array(truncated_in_python(np.exp(log_policy).tolist(), top_k, top_p))
    expected = count * kept / kept.sum()
    observed = np.bincount(tokens, minlength=len(logits))
    assert (observed[kept == 0] == 0).all()
    possible = kept > 0
    assert ((observed - expected)[possible] ** 2 / expected[possible]).sum() < CHI_SQUARE_9


def test_greedy_takes_the_most_probable_token():
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    tokens, _ = sample(logits, jnp.full(50, 0.99), greedy=True, top_k=0, top_p=1.0)
    np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))


@pytest.mark.parametrize("which", ["seed", "step", "prompt", "draw", "sample", "position"])
def test_noise_of_neighbors_is_independent(which):
    """Neighbors in one coordinate fill a 4 x 4 table as independent uniform numbers would."""
    count = 4000
    base = {name: 0 for name in ("seed", "step", "prompt", "draw", "sample", "position")}

    def uniform(coordinates):
        keys = completion_keys(
            jnp.uint32(coordinates["seed"]),
            jnp.int32(coordinates["step"]),
            coordinates["prompt"] + jnp.zeros(count, jnp.int32) + jnp.arange(count) * 2,
            jnp.full(count, coordinates["draw"], jnp.int32),
            2,
        )
        return np.asarray(uniform_at(keys, coordinates["position"]))[:, coordinates["sample"]]

    a, b = uniform(base), uniform(base | {which: 1})
    assert a.min() >= 0 and a.max() < 1
    table = np.histogram2d(a, b, bins=4, range=[[0, 1], [0, 1]])[0]
    assert ((table - count / 16) ** 2 / (count / 16)).sum() < 44.3  # 15 degrees, as above
