"""What the rest of the system asks of a tokenizer.

`spm` and `hugging_face` implement it. Each brings its own chat format, and the rules by which
`detokenize` computes its `decode` on the device.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rft_jax.tokenizers.detokenize import DetokenizeTable

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

    def encode_completion(self, content: str, reasoning: str | None) -> list[int]:
        """Token ids of thought, end-of-think marker, answer and stop token."""
        ...

    def piece_table(self) -> DetokenizeTable:
        """The arrays with which `detokenize` computes `decode` on the device."""
        ...


def message_text(message: Message) -> str:
    """The text of a message: its content, or its text parts joined."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)
