"""Means over items with their 95 % intervals, and paired differences: bootstrap over the items.

A metric is a `Column`: for every item the sum over its samples and the weight of that sum, so that
per-sample rates (weight: the valid samples) and per-item ones (weight: 1) are treated alike. Items
are drawn with replacement, samples stay with their item, and the interval goes from the 2.5th to
the 97.5th percentile of the resampled means.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
_PIECE = 2**20  # numbers in memory at once


class Column(NamedTuple):
    """A metric by item."""

    total_M: np.ndarray
    weight_M: np.ndarray

    @property
    def mean(self) -> float:
        """Over all items; 0 without any weight."""
        return float(self.total_M.sum() / _positive(self.weight_M.sum()))


def intervals(
    columns: Mapping[str, Column], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """(low, high) of every metric's mean.

    Args:
        columns: By the metric's name, all of the same M items.
        seed: Of the bootstrap.
        resamples: Of the items, with replacement.
    """
    names = list(columns)
    rows = [columns[name].total_M for name in names] + [columns[name].weight_M for name in names]
    total_KR, weight_KR = np.split(_resampled_sums(np.stack(rows), seed, resamples), 2)
    low_K, high_K = np.percentile(total_KR / _positive(weight_KR), [2.5, 97.5], axis=1)
    return {name: (float(low_K[k]), float(high_K[k])) for k, name in enumerate(names)}


def paired_differences(
    a: Mapping[str, Column], b: Mapping[str, Column], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, dict[str, float]]:
    """How much more a has of everything than b, on the same items.

    Items without weight in either of the two are left out of a metric.

    Returns:
        By metric that both have the mean over items of their difference, with its interval from
        `low` to `high`.
    """
    found = {}
    for name in [name for name in a if name in b]:
        kept_M = (a[name].weight_M > 0) & (b[name].weight_M > 0)
        difference_M = np.zeros(1)
        if kept_M.any():
            ours, theirs = ((c.total_M / _positive(c.weight_M))[kept_M] for c in (a[name], b[name]))
            difference_M = ours - theirs
        mean_R = _resampled_sums(difference_M[None], seed, resamples)[0] / len(difference_M)
        low, high = np.percentile(mean_R, [2.5, 97.5])
        found[name] = {
            "difference": float(difference_M.mean()), "low": float(low), "high": float(high)
        }  # fmt: skip
    return found


def _resampled_sums(rows_KM: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Sums [K, resamples] of the rows over items drawn with replacement, the same for all rows."""
    K, M = rows_KM.shape
    rng = np.random.default_rng(seed)
    size = max(1, _PIECE // (K * M))
    parts = [
        rows_KM[:, rng.integers(0, M, (min(size, resamples - first), M))].sum(axis=2)
        for first in range(0, resamples, size)
    ]
    return np.concatenate(parts, axis=1)


def _positive(weight: np.ndarray) -> np.ndarray:
    """The weight, or 1 where there is none and the total is 0 too."""
    return np.where(weight > 0, weight, 1)
