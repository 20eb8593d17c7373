"""Advantages: the peers' numbers, a NumPy oracle, and the groups that must carry exactly zero."""

import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.config import PolicyLossSettings
from rft_jax.config.algorithms import ADVANTAGES
from rft_jax.learn.advantages import advantages
from rft_jax.utils.errors import InputError

B, G = 4, 5
SCALES = typing.get_args(typing.get_type_hints(PolicyLossSettings)["scale_rewards"])
CONFIGS = [
    PolicyLossSettings(advantage=advantage, scale_rewards=scale)
    for advantage in ADVANTAGES.shipped
    for scale in SCALES
]

REWARD = np.array([[1, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0]], np.float32)
GRPO = PolicyLossSettings()
RLOO = PolicyLossSettings(advantage="leave_one_out", scale_rewards="none")
PEERS = {  # see tests/data_files/README.md
    GRPO: [
        [0.5, 0.5, -1.5, 0.5],
        [-0.5, 1.5, -0.5, -0.5],
        [-0.5, -0.5, -0.5, 1.5],
        [-0.86602, 0.86602, 0.86602, -0.86602],
    ],
    RLOO: [
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


def named(config: PolicyLossSettings) -> str:
    return f"{config.advantage}-{config.scale_rewards}"


def added_to_best(kept: np.ndarray, i: int, k: int) -> float:
    """By enumeration: the mean best of k with sample i among them, minus that of k others."""
    others = np.delete(kept, i)
    if len(others) < k:
        return 0.0
    with_it = [max(kept[i], *chosen) for chosen in itertools.combinations(others, k - 1)]
    return np.mean(with_it) - np.mean([max(c) for c in itertools.combinations(others, k)])


def oracle(reward: np.ndarray, valid: np.ndarray, config: PolicyLossSettings) -> np.ndarray:
    """One group at a time, over the valid samples alone, in float64."""
    result = np.zeros(reward.shape)
    for group, (values, chosen) in enumerate(zip(reward.astype(np.float64), valid, strict=True)):
        kept = values[chosen]
        if len(kept) < 2 or kept.max() == kept.min():
            continue
        if config.advantage == "max_at_k":
            new = np.array([added_to_best(kept, i, config.best_of) for i in range(len(kept))])
        elif config.advantage == "leave_one_out":
            new = np.array([x - np.delete(kept, i).mean() for i, x in enumerate(kept)])
        else:
            new = kept - kept.mean()
        new /= {
            "group": lambda kept=kept: kept.std(ddof=1) + 1e-6,
            "batch": lambda: reward.astype(np.float64)[valid].std(ddof=1) + 1e-6,
            "mean": lambda kept=kept: kept.mean() + 1e-6,
            "none": lambda: 1.0,
        }[config.scale_rewards]()
        result[group, chosen] = new
    return result


@pytest.mark.parametrize("config", PEERS, ids=["grpo", "rloo"])
def test_advantages_equal_those_of_other_implementations(config):
    got = advantages(jnp.array(REWARD), jnp.ones((4, 4), bool), config)
    np.testing.assert_allclose(got, PEERS[config], atol=1.1e-5)


def test_reference_rewards_are_those_of_the_data_file(data_files):
    reward = np.load(data_files / "policy_losses.npz")["rew"]
    np.testing.assert_array_equal(reward.reshape(4, 4), REWARD)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@given(reward=rewards, valid=masks)
def test_advantages_equal_the_oracle_over_valid_samples(config, reward, valid):
    got = jitted(reward, valid, config)
    # Rewards closer than 1e-3 lose digits to cancellation in float32; the scale is then of no use.
    spread = [
        np.ptp(row[keep]) if keep.any() else 0.0 for row, keep in zip(reward, valid, strict=True)
    ]
    clear = np.array([x == 0 or x > 1e-3 for x in spread])
    np.testing.assert_allclose(
        got[clear], oracle(reward, valid, config)[clear], rtol=2e-3, atol=1e-5
    )


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@given(reward=rewards, valid=masks, garbage=st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))
def test_what_stands_at_invalid_samples_has_no_influence(config, reward, valid, garbage):
    got = jitted(np.where(valid, reward, np.float32(garbage)), valid, config)
    np.testing.assert_array_equal(got, jitted(reward, valid, config))
    assert np.all(got[~valid] == 0)
    assert np.all(np.isfinite(got))


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@given(value=st.floats(-1, 1, width=32), valid=masks)
def test_groups_with_equal_rewards_carry_exactly_zero(config, value, valid):
    # 0.1 + 0.1 + 0.1 over 3 is not 0.1: without the rule the rounding error would be scaled up.
    reward = np.full((B, G), value, np.float32)
    assert np.all(jitted(reward, valid, config) == 0)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_groups_with_one_valid_sample_carry_exactly_zero(config):
    valid = np.array([[True, False, False], [True, True, True]])
    reward = np.array([[1, 0, 0], [0, 0.5, 1]], np.float32)
    got = np.asarray(advantages(jnp.array(reward), jnp.array(valid), config))
    assert np.all(got[0] == 0)
    assert np.all(got[1, [0, 2]] != 0)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
@given(reward=rewards, valid=masks)
def test_advantages_of_a_group_sum_to_zero(config, reward, valid):
    np.testing.assert_allclose(jitted(reward, valid, config).sum(axis=1), 0, atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_advantages_are_constants_for_the_gradient(config):
    reward = jnp.array([[0.5, 0.5], [0.0, 1.0]])
    valid = jnp.array([[True, True], [True, True]])
    gradient = jax.grad(lambda r: (advantages(r, valid, config) ** 2).sum())(reward)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_a_group_of_one_has_nothing_to_compare(config):
    reward = jnp.array([[1.0], [0.0], [0.5]])
    np.testing.assert_array_equal(advantages(reward, jnp.ones((3, 1), bool), config), 0)


def test_unknown_names_are_refused():
    arrays = jnp.ones((3, 2)), jnp.ones((3, 2), bool)
    with pytest.raises(ValueError, match="unknown scale_rewards 'median'"):
        advantages(*arrays, PolicyLossSettings(scale_rewards="median"))
    with pytest.raises(InputError, match="'median' is no advantage; use one of group_mean, leave"):
        advantages(*arrays, PolicyLossSettings(advantage="median"))


_jitted = jax.jit(advantages, static_argnums=2)


def jitted(reward, valid, config):
    return np.asarray(_jitted(reward, valid, config))
