"""What the rest of the system asks of a tokenizer.

`spm` and `hugging_face` implement it. Each brings its own chat format, and the rules by which
`detokenize` computes its `decode` on the device.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import numpy as np

from rft_jax.tokenizers.device_decode import DetokenizeTable
from rft_jax.utils.types import JsonMapping, JsonObject

Message: TypeAlias = JsonMapping  # {"role": ..., "content": ...}, as in OpenAI's chat format


class Tokenizer(Protocol):
    """Text to token ids and back, the chat format, and the ids with a meaning of their own.

    Attributes:
        vocab_size: V; token ids lie in [0, V).
        pad_id: Fills arrays to the right of a sequence.
        stop_ids: A completion ends with one of these.
        end_of_think_id: Separates thought and answer; None if the format has no thoughts, so that
            all of a completion is the answer.
        lead_ids: What comes before end_of_think_id where a thought is brought to its end; mostly
            nothing.
        answer_separator: The line breaks that follow end_of_think_id and are not of the answer.
        forbidden_ids: Never to be sampled (padding, start, unknown, role markers).
    """

    vocab_size: int
    pad_id: int
    stop_ids: tuple[int, ...]
    lead_ids: tuple[int, ...]
    answer_separator: str
    forbidden_ids: tuple[int, ...]

    @property
    def end_of_think_id(self) -> int | None: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; no text can produce a special (control) token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special (control) tokens have none."""
        ...

    def encode_prompt(
        self, messages: Sequence[Message], tools: Sequence[JsonObject] | None = None
    ) -> list[int]:
        """Token ids of a conversation, ending where the assistant's completion begins.

        Args:
            messages: The conversation.
            tools: Functions that the model may call, as JSON schemas.

        Raises:
            InputError: If the format cannot express the messages, or has no functions.
        """
        ...

    def encode_prompt_around(self, messages: Sequence[Message], gap: str) -> list[list[int]]:
        """As `encode_prompt`, of a conversation with gaps for tokens that come later.

        Args:
            messages: The conversation.
            gap: A text that stands for such tokens wherever it occurs.

        Returns:
            Token ids of the runs before, between and after the gaps, each encoded by itself.

        Raises:
            InputError: As `encode_prompt`.
        """
        ...

    def encode_completion(self, content: str, reasoning: str | None) -> list[int]:
        """Token ids of thought, end-of-think marker, answer and stop token.

        Args:
            content: The answer; in formats with thoughts, behind `</think>` if the thought comes
                with it.
            reasoning: The thought, if it comes by itself.

        Raises:
            InputError: There would be two thoughts.
        """
        ...

    def piece_table(self) -> DetokenizeTable:
        """The arrays with which `detokenize` computes `decode` on the device."""
        ...


def control_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that no text from outside may have: markers, stops, ids without a text."""
    silent = np.flatnonzero(np.asarray(tokenizer.piece_table().length_V) == 0)
    marker = () if tokenizer.end_of_think_id is None else (tokenizer.end_of_think_id,)
    return tuple(sorted({*silent.tolist(), *tokenizer.stop_ids, *tokenizer.forbidden_ids, *marker}))


def thought_end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that bring a thought to its end; none where the format has no thoughts."""
    if tokenizer.end_of_think_id is None:
        return ()
    return *tokenizer.lead_ids, tokenizer.end_of_think_id


def thought_text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a thought, without what leads to its end.

    Args:
        ids: Those before the end-of-think marker, or before a cut.
    """
    ids, lead = list(ids), list(tokenizer.lead_ids)
    for count in range(len(lead), 0, -1):  # a cut may be within the lead
        if ids[-count:] == lead[:count]:
            return tokenizer.decode(ids[:-count])
    return tokenizer.decode(ids)


def same_tokens(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether ids stand for the same texts in both; ids without a text at the end do not count."""
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
    """The text of a message: its content, or its text parts joined; none beside calls of tools."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)
