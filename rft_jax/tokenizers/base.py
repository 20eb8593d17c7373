"""What the rest of the system asks of a tokenizer.

A second implementation (Hugging Face, byte-level BPE) provides the same members; it brings its own
chat template and, since it repairs invalid UTF-8 otherwise, its own rule in `detokenize`.
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
        bos_id: starts every prompt.
        stop_ids: a completion ends with one of these.
        end_of_think_id: separates thought and answer; None if the format has no thoughts.
        forbidden_ids: never to be sampled (padding, start, unknown, role markers).
    """

    vocab_size: int
    pad_id: int
    bos_id: int
    stop_ids: tuple[int, ...]
    end_of_think_id: int | None
    forbidden_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; no text can produce a control token."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; control tokens have none."""
        ...

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ending where the assistant's completion begins."""
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
