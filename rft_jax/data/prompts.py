"""Items as token arrays, padded to the static lengths of the compiled step."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rft_jax.tokenizers.base import Tokenizer
from rft_jax.utils.errors import InputError


class PromptRows(NamedTuple):
    """M prompts.

    Attributes:
        tokens_MP: int32[M, P], padded on the right.
        length_M: int32[M].
    """

    tokens_MP: np.ndarray
    length_M: np.ndarray


def bucket(longest: int, max_tokens: int, buckets: int) -> int:
    """The shortest of so many lengths P, P / 2, P / 4 ... (rounded up) that holds so many tokens.

    Args:
        longest: at most P.
        max_tokens: P.
    """
    lengths = (-(-max_tokens // 2**halvings) for halvings in range(buckets))
    return min(length for length in lengths if length >= longest)


@contextlib.contextmanager
def at_line(source: str, number: int) -> Iterator[None]:
    """Adds file and line to what is refused inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}, line {number}: {error}") from None


def encode_prompts(
    items: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    max_tokens: int,
    source: str,
    setting: str = "max_prompt_tokens",
) -> PromptRows:
    """Encodes the conversation of every item.

    Args:
        items: M rows, as `load_items` returns them.
        tokenizer: gives the chat format.
        max_tokens: P.
        source: the items' file, for messages.
        setting: what sets P on the command line, for messages.

    Raises:
        InputError: for a prompt of more than P tokens, or that the chat format has no place for.
    """
    sequences = []
    for number, item in enumerate(items, start=1):
        with at_line(source, number):
            sequences.append(tokenizer.encode_prompt(item["messages"], item.get("tools")))
    length_M = np.fromiter(map(len, sequences), np.int32, len(sequences))
    too_long = np.flatnonzero(length_M > max_tokens)
    if too_long.size:
        row = too_long[0]
        raise InputError(
            f"{source}, line {row + 1}: the prompt has {length_M[row]} tokens, the limit is "
            f"{max_tokens}; shorten it or set --config.{setting}={length_M.max()} (the longest)"
        )
    tokens_MP = np.full((len(sequences), max_tokens), tokenizer.pad_id, np.int32)
    inside_MP = np.arange(max_tokens) < length_M[:, None]
    tokens_MP[inside_MP] = [token for sequence in sequences for token in sequence]
    return PromptRows(tokens_MP, length_M)
