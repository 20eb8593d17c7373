"""Supervised items as packed rows of fixed length, several prompts with their completions in each.

A token's segment says which item it belongs to, so that items of a row do not see each other; rows
are nearly full where padding every item to the longest would waste most of the arithmetic.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rft_jax.data.prompts import at_line
from rft_jax.tokenizers.base import Tokenizer, message_text
from rft_jax.utils.errors import InputError


class Packed(NamedTuple):
    """M rows of T tokens, at most C of them in completions.

    Attributes:
        tokens_MT: int32.
        positions_MT: int32, counted from the start of the item.
        segments_MT: int32, 1 for a row's first item and so on; 0 for padding.
        predict_MC: int32, the positions whose next token is a completion's; -1 fills the rest.
    """

    tokens_MT: np.ndarray
    positions_MT: np.ndarray
    segments_MT: np.ndarray
    predict_MC: np.ndarray


def pack_supervised(
    items: Sequence[dict[str, Any]],
    tokenizer: Tokenizer,
    max_row_tokens: int,
    source: str,
    setting: str,
) -> Packed:
    """Encodes items and packs them, in their order, into rows.

    Args:
        items: Rows as `load_supervised_items` returns them; the last message is learned.
        tokenizer: Gives the chat format.
        max_row_tokens: T.
        source: The items' file, for messages.
        setting: What sets T on the command line, for messages.

    Raises:
        InputError: for an item of more than T tokens.
    """
    rows: list[list[tuple[list[int], int]]] = [[]]
    room = max_row_tokens
    for number, item in enumerate(items, start=1):
        *context, answer = item["messages"]
        with at_line(source, number):
            prompt = tokenizer.encode_prompt(context, item.get("tools"))
            completion = tokenizer.encode_completion(
                message_text(answer), answer.get("reasoning_content")
            )
        size = len(prompt) + len(completion)
        if size > max_row_tokens:
            raise InputError(
                f"{source}, line {number}: the item has {size} tokens, the limit is {max_row_tokens}; "
                f"shorten it or set --config.{setting}={size} or more"
            )
        if size > room:
            rows.append([])
            room = max_row_tokens
        rows[-1].append((prompt + completion, len(prompt)))
        room -= size
    return _fill(rows, max_row_tokens, tokenizer.pad_id)


def _fill(rows: list[list[tuple[list[int], int]]], max_row_tokens: int, pad_id: int) -> Packed:
    shape = (len(rows), max_row_tokens)
    tokens_MT = np.full(shape, pad_id, np.int32)
    positions_MT, segments_MT = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    predict = []
    for row, members in enumerate(rows):
        start = 0
        predict.append([])
        for segment, (tokens, prompt_length) in enumerate(members, start=1):
            end = start + len(tokens)
            tokens_MT[row, start:end] = tokens
            positions_MT[row, start:end] = np.arange(len(tokens))
            segments_MT[row, start:end] = segment
            predict[-1] += range(start + prompt_length - 1, end - 1)
            start = end
    predict_MC = np.full((len(rows), max(map(len, predict))), -1, np.int32)
    for row, positions in enumerate(predict):
        predict_MC[row, : len(positions)] = positions
    return Packed(tokens_MT, positions_MT, segments_MT, predict_MC)
