"""Stretched rotary positions: the ends of the frequency range, and what linear scaling means."""

import numpy as np
import pytest

from rft_jax.config import LinearRope, Llama3Rope, ProportionalRope, YarnRope
from rft_jax.models.rotary import frequencies, rotary

THETA, Q = 10_000.0, 64
PLAIN = frequencies(THETA, Q, None)
POSITIONS = np.array([[[0, 3, 8, 4000]]], np.int32)


def test_the_first_pair_turns_by_one_radian_and_theta_sets_the_slowest():
    assert PLAIN[0] == 1
    np.testing.assert_allclose(PLAIN[-1], THETA ** -((Q - 2) / Q), rtol=1e-6)


def test_linear_scaling_divides_positions():
    stretched = rotary(POSITIONS * 4, THETA, Q, LinearRope(4.0))
    for a, b in zip(stretched, rotary(POSITIONS, THETA, Q, None), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("scaling", [Llama3Rope(8.0, 1.0, 4.0, 1024), YarnRope(8.0, 1024)])
def test_fast_pairs_are_kept_and_slow_ones_divided(scaling):
    ratio = frequencies(THETA, Q, scaling) / PLAIN
    turns = 1024 * PLAIN / (2 * np.pi)
    np.testing.assert_allclose(ratio[turns > 33], 1, rtol=1e-6)
    np.testing.assert_allclose(ratio[turns < 0.5], 1 / 8, rtol=1e-6)
    assert (np.diff(ratio) <= 1e-7).all() and ((ratio > 0.13) & (ratio < 0.99)).any()


def test_of_a_head_a_part_turns_as_if_all_did():
    found = frequencies(THETA, Q, ProportionalRope(0.25, 2.0))
    np.testing.assert_allclose(found[: Q // 8], PLAIN[: Q // 8] / 2)
    assert len(found) == Q // 2 and not found[Q // 8 :].any()


def test_yarns_factor_scales_cosines_and_sines():
    plain = rotary(POSITIONS, THETA, Q, YarnRope(8.0, 1024))
    scaled = rotary(POSITIONS, THETA, Q, YarnRope(8.0, 1024, attention_factor=1.5))
    for a, b in zip(scaled, plain, strict=True):
        np.testing.assert_allclose(a, 1.5 * b, rtol=1e-6)
