"""What people read on stderr."""

import sys


def log(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
