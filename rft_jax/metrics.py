"""Metrics as JSON lines; progress goes to stderr."""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np


class MetricsFile:
    """`metrics.jsonl` of a stage: one line a step, appended and flushed.

    Opening it at a step drops the lines from that step on, which a killed run had written after
    its last checkpoint and is about to write again.
    """

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if row["step"] <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, path)
        self._file = path.open("a")

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; arrays become numbers, non-finite ones null."""
        self._file.write(json.dumps(to_numbers(row)) + "\n")
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a line that was cut while it was written is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def to_numbers(value: Any) -> Any:
    """A tree of scalars as JSON values."""
    if isinstance(value, dict):
        return {key: to_numbers(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = np.asarray(value).item()
    if isinstance(number, float):
        return round(number, 8) if np.isfinite(number) else None
    return number


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the device where it says, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def log(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
