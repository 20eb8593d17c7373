"""Packing completions: each token has a place of its own, and few places are left over."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rft_jax.learn.bin_packing import PROMPTS_PER_ROW, pack, token_at
from rft_jax.learn.packed_gradient import pack_batch

B, G, W, R = 4, 3, 10, 13

jit_pack = jax.jit(pack, static_argnums=(1, 2))
jit_token_at = jax.jit(token_at, static_argnums=2)


@given(npst.arrays(np.int32, (B, G), elements=st.integers(0, W)))
def test_every_token_has_one_place_in_a_row_that_knows_its_prompt(length_BG):
    packing = jit_pack(length_BG, W, R)
    n_RW, t_RW = map(np.asarray, jit_token_at(packing, length_BG, W))
    placed = [(n, t) for n, t in zip(n_RW.ravel(), t_RW.ravel(), strict=True) if n >= 0]
    tokens = [(n, t) for n, length in enumerate(length_BG.ravel()) for t in range(length)]
    assert sorted(placed) == tokens
    for n, length in enumerate(length_BG.ravel()):  # side by side, in order
        row, start = int(packing.row_N[n]), int(packing.start_N[n])
        if length:
            assert row < packing.rows
            assert n // G in packing.prompts_RZ[row]
            np.testing.assert_array_equal(n_RW[row, start : start + length], n)
    used_R = (n_RW >= 0).any(axis=1)
    np.testing.assert_array_equal(used_R, np.arange(R) < packing.rows)
    for prompts_Z in np.asarray(packing.prompts_RZ):
        known = prompts_Z[prompts_Z >= 0]
        assert len(set(known)) == len(known) <= PROMPTS_PER_ROW


def test_padding_is_below_15_percent_on_skewed_lengths():
    """Geometric lengths with a mean of a quarter of the maximum, two rows of each shard at once."""
    rng = np.random.default_rng(0)
    prompts, group, width, shards = 32, 8, 64, 2
    run = jax.jit(pack_batch, static_argnums=(2, 3, 4))
    ones = np.ones(prompts, np.int32)
    shares = []
    for _ in range(10):
        length_BG = np.minimum(rng.geometric(4 / width, (prompts, group)), width)
        slots = int(run(ones, length_BG.astype(np.int32), width, 2, shards).slots)
        shares.append(1 - length_BG.sum() / slots)
    assert max(shares) < 0.15, shares
