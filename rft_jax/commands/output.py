"""What commands write for programs, whether people read it, and what is next."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rft_jax.utils.console import log


def on_terminal() -> bool:
    """Whether people read stdout."""
    return sys.stdout.isatty()


def print_json(value: Any) -> None:
    """One JSON value on one line, with escapes for what the stream's encoding does not have."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    print(text, flush=True)


def tell_next(workdir: Path) -> None:
    """Says on stderr what can be done with the models of a run."""
    shown = shlex.quote(str(workdir))
    log(f"next: rft show --workdir {shown}, or rft export --workdir {shown} --format hf --out DIR")
