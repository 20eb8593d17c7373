"""Numbers for people and files."""

import resource
import sys
from typing import Any

import jax
import numpy as np

from rft_jax.utils.types import PyTree


def to_numbers(value: PyTree) -> Any:
    """A tree of scalars as JSON values."""
    if isinstance(value, dict):
        return {key: to_numbers(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = np.asarray(value).item()
    if isinstance(number, float):
        return float(f"{number:.8g}") if np.isfinite(number) else None
    return number


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the device where it says, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
