"""Which items a step sees: a pure function of (data size, cursor, seed), so that resuming is free.

The cursor counts the items consumed so far; every epoch is a permutation of its own. The random
words come from NumPy's Philox with a `SeedSequence`, whose streams are the same on every platform
and in every version (NEP 19; that of `Generator.permutation` is not).
"""

import functools
from typing import NamedTuple

import numpy as np


class IndexBatch(NamedTuple):
    """Items of a batch.

    Attributes:
        indices_B: int64[B], into the data.
        draw_B: int32[B], how often the item was drawn before, which is the number of the epoch.
    """

    indices_B: np.ndarray
    draw_B: np.ndarray


def batch_at(
    size: int, batch_size: int, cursor: int, seed: int, shuffle: bool = True
) -> IndexBatch:
    """Returns the batch of the items `cursor` to `cursor + batch_size - 1` of the endless sequence.

    Args:
        size: M, number of items in the data, at least 1.
        batch_size: B; a batch runs on into the next epoch, so that no item is left out.
        cursor: number of items consumed before.
        seed: of the permutations; 0 or more.
        shuffle: False takes the items in the order of the file in every epoch.
    """
    position_B = cursor + np.arange(batch_size, dtype=np.int64)
    epoch_B, place_B = np.divmod(position_B, size)
    indices_B = place_B
    if shuffle:
        indices_B = np.empty_like(place_B)
        for epoch in range(int(epoch_B[0]), int(epoch_B[-1]) + 1):
            here_B = epoch_B == epoch
            indices_B[here_B] = _permutation(size, seed, epoch)[place_B[here_B]]
    return IndexBatch(indices_B, epoch_B.astype(np.int32))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """A random order of `size` items: the ranks of random 64-bit words."""
    words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False  # the cache hands the same array to everybody
    return order
