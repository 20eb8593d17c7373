"""The rows of a `metrics.jsonl`."""

import contextlib
import json
from pathlib import Path

from rft_jax.utils.types import JsonObject

METRICS_FILE = "metrics.jsonl"  # in a stage's folder


def read_metrics(path: Path) -> list[JsonObject]:
    """The rows of a metrics file; lines that were cut while they were written are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows
