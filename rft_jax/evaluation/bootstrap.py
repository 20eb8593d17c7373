"""Means over items with their 95 % intervals, and paired differences: bootstrap over the items.

A metric is a `Column`: for every item the sum over its samples and the weight of that sum, so that
per-sample rates (weight: the valid samples) and per-item ones (weight: 1) are treated alike. Items
are drawn with replacement, samples stay with their item, and the interval goes from the 2.5th to
the 97.5th percentile of the resampled means. Items that are alike, such as patients of one
publication, are drawn together: `cluster_M` numbers the clusters.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

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


def numbered(labels: Sequence[Any]) -> np.ndarray:
    """The number of each item's label, any JSON value; items without one (None, "") stand alone."""
    number: dict[Hashable, int] = {}
    keys = [
        ("alone", item) if label in (None, "") else json.dumps(label)
        for item, label in enumerate(labels)
    ]
    return np.array([number.setdefault(key, len(number)) for key in keys], int)


def macro(column: Column, group_M: np.ndarray) -> Column:
    """The metric with every group of items counting alike.

    Args:
        column: Of M items.
        group_M: The number of each item's group.
    """
    with_weight_M = column.weight_M > 0
    size = np.bincount(group_M, with_weight_M)
    weight_M = with_weight_M / _positive(size[group_M])
    return Column(column.total_M / _positive(column.weight_M) * weight_M, weight_M)


def intervals(
    columns: Mapping[str, Column],
    seed: int = 0,
    resamples: int = RESAMPLES,
    cluster_M: np.ndarray | None = None,
) -> dict[str, tuple[float, float]]:
    """(low, high) of every metric's mean.

    Args:
        columns: By the metric's name, all of the same M items.
        seed: Of the bootstrap.
        resamples: Of the items, with replacement.
        cluster_M: The number of each item's cluster; None: each is its own.
    """
    names = list(columns)
    rows = [columns[name].total_M for name in names] + [columns[name].weight_M for name in names]
    if cluster_M is not None:
        rows = [np.bincount(cluster_M, row) for row in rows]
    total_KR, weight_KR = np.split(_resampled_sums(np.stack(rows), seed, resamples), 2)
    low_K, high_K = np.percentile(total_KR / _positive(weight_KR), [2.5, 97.5], axis=1)
    return {name: (float(low_K[k]), float(high_K[k])) for k, name in enumerate(names)}


def paired_differences(
    a: Mapping[str, Column],
    b: Mapping[str, Column],
    seed: int = 0,
    resamples: int = RESAMPLES,
    cluster_M: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """How much more a has of everything than b, on the same items.

    An item has the smaller of its two weights, so that those without weight in either of the two
    are left out of a metric.

    Returns:
        By metric that both have the mean over items of their difference, with its interval from
        `low` to `high`.
    """
    columns = {}
    for name in [name for name in a if name in b]:
        ours, theirs = ((c.total_M / _positive(c.weight_M)) for c in (a[name], b[name]))
        weight_M = np.minimum(a[name].weight_M, b[name].weight_M)
        columns[name] = Column((ours - theirs) * weight_M, weight_M)
    found = intervals(columns, seed, resamples, cluster_M) if columns else {}
    return {
        name: {"difference": columns[name].mean, "low": low, "high": high}
        for name, (low, high) in found.items()
    }


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
