"""Advantages: the peers' numbers, a NumPy oracle, and the groups that must carry exactly zero."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.config import PolicyLossConfig
from rft_jax.learn.advantages import advantages

B, G = 4, 5
BASELINES = typing.get_args(typing.get_type_hints(PolicyLossConfig)["baseline"])

REWARD = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]], np.float32)
PEERS = {  # see tests/data_files/README.md
    "group": [
        [0.5, 0.5, -1.5, 0.5],
        [-0.5, 1.5, -0.5, -0.5],
        [-0.5, -0.5, -0.5, 1.5],
        [-0.86602, 0.86602, 0.86602, -0.86602],
    ],
    "leave_one_out": [
        [0.33333, 0.33333, -1, 0.33333],
        [-0.33333, 1, -0.33333, -0.33333],
        [-0.33333, -0.33333, -0.33333, 1],
        [-0.66667, 0.66667, 0.66667, -0.66667],
    ],
}

rewards = st.lists(
    st.one_of(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.floats(0, 1, width=32)),
    min_size=B * G,
    max_size=B * G,
).map(lambda values: np.array(values, np.float32).reshape(B, G))
masks = st.lists(st.booleans(), min_size=B * G, max_size=B * G).map(
    lambda values: np.array(values).reshape(B, G)
)


def oracle(reward: np.ndarray, valid: np.ndarray, baseline: str) -> np.ndarray:
    """One group at a time, over the valid samples alone, in float64."""
    result = np.zeros(reward.shape)
    for group, (values, chosen) in enumerate(zip(reward.astype(np.float64), valid, strict=True)):
        kept = values[chosen]
        if len(kept) < 2 or kept.max() == kept.min():
            continue
        if baseline == "leave_one_out":
            new = [x - np.delete(kept, i).mean() for i, x in enumerate(kept)]
        else:
            scale = {
                "group": lambda kept=kept: kept.std(ddof=1) + 1e-6,
                "batch": lambda: reward.astype(np.float64)[valid].std(ddof=1) + 1e-6,
                "none": lambda: 1.0,
            }[baseline]()
            new = (kept - kept.mean()) / scale
        result[group, chosen] = new
    return result


@pytest.mark.parametrize("baseline", PEERS)
def test_advantages_equal_those_of_other_implementations(baseline):
    got = advantages(jnp.array(REWARD), jnp.ones((4, 4), bool), baseline)
    np.testing.assert_allclose(got, PEERS[baseline], atol=1.1e-5)


def test_reference_rewards_are_those_of_the_data_file(data_files):
    reward = np.load(data_files / "policy_losses.npz")["rew"]
    np.testing.assert_array_equal(reward.reshape(4, 4), REWARD)


@pytest.mark.parametrize("baseline", BASELINES)
@given(reward=rewards, valid=masks)
def test_advantages_equal_the_oracle_over_valid_samples(baseline, reward, valid):
    got = jitted(reward, valid, baseline)
    # Rewards closer than 1e-3 lose digits to cancellation in float32; the scale is then of no use.
    spread = [
        np.ptp(row[keep]) if keep.any() else 0.0 for row, keep in zip(reward, valid, strict=True)
    ]
    clear = np.array([x == 0 or x > 1e-3 for x in spread])
    np.testing.assert_allclose(
        got[clear], oracle(reward, valid, baseline)[clear], rtol=2e-3, atol=1e-5
    )


@pytest.mark.parametrize("baseline", BASELINES)
@given(reward=rewards, valid=masks, garbage=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_stands_at_invalid_samples_has_no_influence(baseline, reward, valid, garbage):
    got = jitted(np.where(valid, reward, np.float32(garbage)), valid, baseline)
    np.testing.assert_array_equal(got, jitted(reward, valid, baseline))
    assert np.all(got[~valid] == 0)
    assert np.all(np.isfinite(got))


@pytest.mark.parametrize("baseline", BASELINES)
@given(value=st.floats(-1, 1, width=32), valid=masks)
def test_groups_with_equal_rewards_carry_exactly_zero(baseline, value, valid):
    # 0.1 + 0.1 + 0.1 over 3 is not 0.1: without the rule the rounding error would be scaled up.
    reward = np.full((B, G), value, np.float32)
    assert np.all(jitted(reward, valid, baseline) == 0)


@pytest.mark.parametrize("baseline", BASELINES)
def test_groups_with_one_valid_sample_carry_exactly_zero(baseline):
    valid = np.array([[True, False, False], [True, True, True]])
    reward = np.array([[1, 0, 0], [0, 0.5, 1]], np.float32)
    got = np.asarray(advantages(jnp.array(reward), jnp.array(valid), baseline))
    assert np.all(got[0] == 0)
    assert np.all(got[1, [0, 2]] != 0)


@pytest.mark.parametrize("baseline", BASELINES)
@given(reward=rewards, valid=masks)
def test_advantages_of_a_group_sum_to_zero(baseline, reward, valid):
    np.testing.assert_allclose(jitted(reward, valid, baseline).sum(axis=1), 0, atol=1e-3)


@pytest.mark.parametrize("baseline", BASELINES)
def test_advantages_are_constants_for_the_gradient(baseline):
    reward = jnp.array([[0.5, 0.5], [0.0, 1.0]])
    valid = jnp.array([[True, True], [True, True]])
    gradient = jax.grad(lambda r: (advantages(r, valid, baseline) ** 2).sum())(reward)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("baseline", BASELINES)
def test_a_group_of_one_has_nothing_to_compare(baseline):
    reward = jnp.array([[1.0], [0.0], [0.5]])
    np.testing.assert_array_equal(advantages(reward, jnp.ones((3, 1), bool), baseline), 0)


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match="unknown baseline 'median'"):
        advantages(jnp.ones((3, 2)), jnp.ones((3, 2), bool), "median")


_jitted = jax.jit(advantages, static_argnums=2)


def jitted(reward, valid, baseline):
    return np.asarray(_jitted(reward, valid, baseline))
