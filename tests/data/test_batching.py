"""Batches are a pure function of (size, batch size, cursor, seed)."""

import subprocess
import sys
import time

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.data import batch_at

sizes = st.integers(1, 60)
batch_sizes = st.integers(1, 40)
seeds = st.integers(0, 2**63)


def take(size, batch_size, count, seed, cursor=0):
    """The indices and draws of `count` batches on end."""
    batches = [batch_at(size, batch_size, cursor + k * batch_size, seed) for k in range(count)]
    return (
        np.concatenate([b.indices_B for b in batches]),
        np.concatenate([b.draw_B for b in batches]),
    )


@given(size=sizes, batch_size=batch_sizes, seed=seeds)
def test_every_epoch_has_every_item_once_across_batch_borders(size, batch_size, seed):
    count = -(-3 * size // batch_size)
    indices, draws = take(size, batch_size, count, seed)
    for epoch in range(3):
        members = indices[epoch * size : (epoch + 1) * size]
        assert sorted(members) == list(range(size))
        assert (draws[epoch * size : (epoch + 1) * size] == epoch).all()


@given(size=sizes, batch_size=batch_sizes, seed=seeds, cursor=st.integers(0, 10**7))
def test_the_sequence_does_not_depend_on_how_it_is_cut(size, batch_size, seed, cursor):
    whole = batch_at(size, 3 * batch_size, cursor, seed)
    indices, draws = take(size, batch_size, 3, seed, cursor)
    assert whole.indices_B.tolist() == indices.tolist()
    assert whole.draw_B.tolist() == draws.tolist()


@given(size=sizes, seed=seeds)
def test_draw_counts_how_often_the_item_was_drawn_before(size, seed):
    indices, draws = take(size, 1, 3 * size, seed)
    seen = np.zeros(size, int)
    for index, draw in zip(indices, draws, strict=True):
        assert draw == seen[index]
        seen[index] += 1


def test_epochs_and_seeds_have_orders_of_their_own():
    size = 100
    orders = {
        tuple(batch_at(size, size, e * size, s).indices_B) for e in range(5) for s in range(5)
    }
    assert len(orders) == 25


def test_every_order_is_as_likely():
    counts = np.zeros((3, 3))
    for seed in range(3000):
        counts[np.arange(3), batch_at(3, 3, 0, seed).indices_B] += 1
    # Each cell is binomial(3000, 1/3) with a standard deviation of 26.
    assert np.abs(counts - 1000).max() < 5 * 26


def test_types_are_fixed():
    batch = batch_at(7, 4, 5, seed=1)
    assert batch.indices_B.dtype == np.int64 and batch.draw_B.dtype == np.int32


def test_another_process_draws_the_same_batch():
    code = "from rft_jax.data import batch_at; print(batch_at(1000, 9, 4321, 7).indices_B.tolist())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == str(batch_at(1000, 9, 4321, 7).indices_B.tolist())


def test_the_order_is_the_one_that_runs_have_been_started_with():
    # Pinned: a change of these numbers would change the data order of runs that are resumed.
    assert batch_at(10, 10, 0, seed=0).indices_B.tolist() == [1, 4, 5, 6, 8, 2, 0, 3, 9, 7]


def test_a_million_items_are_shuffled_once_an_epoch():
    batch_at(10**6, 8, 0, seed=3)
    start = time.perf_counter()
    for k in range(100):
        batch_at(10**6, 8, 8 * k, seed=3)
    assert time.perf_counter() - start < 1  # 100 sorts of a million take about ten times that
