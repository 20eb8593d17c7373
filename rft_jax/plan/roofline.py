"""Seconds by a roofline: at each level of a program, the slowest of arithmetic, HBM and network.

An estimate: within one trip of a loop the three are taken to overlap perfectly, but the kernels of
a GPU, which run one after the other, to be bound by arithmetic or by HBM; and each is taken to
reach the share of its peak below. No share was measured on a TPU or a GPU.
"""

from collections.abc import Iterable

from rft_jax.plan.chips import Chip
from rft_jax.plan.hlo import Loop

MATRIX_SHARE = 0.6  # of the peak, in matrix products
HBM_SHARE = 0.8  # of the bandwidth
RING_SHARE = 0.8  # of one axis of the torus


def seconds(chip: Chip, flops: float, hbm_bytes: float, sent_bytes: float) -> float:
    """Time of something on one device of a chip."""
    arithmetic = flops / (chip.peak_flops * MATRIX_SHARE)
    memory = hbm_bytes / (chip.hbm_bytes_per_s * HBM_SHARE)
    kernels = arithmetic + memory if chip.platform == "gpu" else max(arithmetic, memory)
    return chip.devices * max(kernels, sent_bytes / (chip.ring_bytes_per_s * RING_SHARE))


def loop_seconds(chip: Chip, loops: Iterable[Loop]) -> float:
    """Time of a program."""
    return sum(
        loop.trips * seconds(chip, loop.cost.flops, loop.cost.hbm_bytes, loop.cost.sent)
        for loop in loops
    )
