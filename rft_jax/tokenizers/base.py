"""What the rest of the system asks of a tokenizer.

`spm` and `hugging_face` implement it. Each brings its own chat format, and the rules by which
`detokenize` computes its `decode` on the device.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rft_jax.tokenizers.device_decode import DetokenizeTable

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, as in OpenAI's chat format


class Tokenizer(Protocol):
    """Text to token ids and back, the chat format, and the ids with a meaning of their own.

    Attributes:
        vocab_size: V; token ids lie in [0, V).
        pad_id: fills arrays to the right of a sequence.
        stop_ids: a completion ends with one of these.
        end_of_think_id: separates thought and answer; None if the format has no thoughts, so that
            all of a completion is the answer.
        answer_separator: the line breaks that follow end_of_think_id and are not of the answer.
        forbidden_ids: never to be sampled (padding, start, unknown, role markers).
    """

    vocab_size: int
    pad_id: int
    stop_ids: tuple[int, ...]
    end_of_think_id: int | None
    answer_separator: str
    forbidden_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; no text can produce a special (control) token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special (control) tokens have none."""
        ...

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a conversation, ending where the assistant's completion begins.

        Args:
            messages: the conversation.
            tools: functions that the model may call, as JSON schemas.

        Raises:
            InputError: if the format has no place for the messages.
        """
        ...

    def encode_prompt_around(self, messages: Sequence[Message], gap: str) -> list[list[int]]:
        """As `encode_prompt`, of a conversation with places for tokens that come later.

        Args:
            messages: the conversation.
            gap: a text that stands for such tokens wherever it occurs.

        Returns:
            Token ids of the runs before, between and after these places, each encoded by itself.

        Raises:
            InputError: as `encode_prompt`.
        """
        ...

    def encode_completion(self, content: str, reasoning: str | None) -> list[int]:
        """Token ids of thought, end-of-think marker, answer and stop token."""
        ...

    def piece_table(self) -> DetokenizeTable:
        """The arrays with which `detokenize` computes `decode` on the device."""
        ...


def control_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that a text of somebody else's must not have: markers, stops, ids without a text."""
    silent = np.flatnonzero(np.asarray(tokenizer.piece_table().length_V) == 0)
    marker = () if tokenizer.end_of_think_id is None else (tokenizer.end_of_think_id,)
    return tuple(sorted({*silent.tolist(), *tokenizer.stop_ids, *tokenizer.forbidden_ids, *marker}))


def same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether ids mean the same to both: the same text, but for ids without one at the end."""
    tables = a.piece_table(), b.piece_table()
    used = [1 + np.flatnonzero(table.length_V).max(initial=-1) for table in tables]
    cut = [
        table._replace(
            offset_V=table.offset_V[:count],
            length_V=table.length_V[:count],
            kind_V=table.kind_V[:count],
        )
        for table, count in zip(tables, used, strict=True)
    ]
    return all(map(np.array_equal, *cut))


def message_text(message: Message) -> str:
    """The text of a message: its content, or its text parts joined."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)
