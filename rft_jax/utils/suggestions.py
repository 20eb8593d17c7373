"""What a misspelled name may be meant for."""

import difflib
from collections.abc import Sequence


def did_you_mean(word: str, names: Sequence[str]) -> str:
    """`did you mean NAME?` for the name most like a word; empty if none is alike."""
    found = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {found[0]}?" if found else ""
