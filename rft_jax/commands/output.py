"""What commands write: tables for people on a terminal, JSON lines for programs, what is next."""

import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, texts: Sequence[str] = ()
) -> None:
    """A table on stdout.

    Args:
        columns: Their titles.
        rows: The cells, without markup.
        texts: Titles of the columns of text, which are cut at the terminal's edge; all others hold
            numbers and names, which are never broken.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for n, title in enumerate(columns):
        is_text = title in texts
        table.add_column(
            Text(title),
            justify="left" if n == 0 or is_text else "right",
            overflow="ellipsis" if is_text else "fold",
            no_wrap=True,
            ratio=1 if is_text else None,
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    Console().print(table)


def tell_next(workdir: Path) -> None:
    """Says on stderr what can be done with the models of a run."""
    shown = shlex.quote(str(workdir))
    log(f"next: rft show --workdir {shown}, or rft export --workdir {shown} --format hf --out DIR")
