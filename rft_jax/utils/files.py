"""Files that a reader, or a run after a kill, finds whole or not at all."""

import json
import os
from pathlib import Path

from rft_jax.utils.types import JsonObject


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file in one go; text is UTF-8."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def write_json(path: Path, value: JsonObject) -> None:
    """Writes a JSON file that people read as well."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
