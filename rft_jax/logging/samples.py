"""What a model wrote and earned, as a JSON value for people to read."""

from collections.abc import Mapping, Sequence
from typing import Any

from rft_jax.logging.metrics import to_numbers
from rft_jax.tokenizers import Tokenizer


def sample_row(
    tokenizer: Tokenizer,
    tokens: Sequence[int],
    text: bytes,
    *,
    thinking_tokens: int,
    stopped: bool,
    reward: float,
    valid: bool,
    scores: Mapping[str, float],
    errors: Mapping[str, bool],
) -> dict[str, Any]:
    """One completion.

    Args:
        tokens: Of the thought first, `thinking_tokens` of them.
        text: The answer as it was graded.
        errors: By name whether it was made.
    """
    return {
        "thought": tokenizer.decode([int(token) for token in tokens[:thinking_tokens]]),
        "answer": text.decode(errors="replace"),
        "stop_reason": "stop" if stopped else "length",
        "reward": to_numbers(reward),
        "valid": bool(valid),
        "scores": to_numbers(dict(scores)),
        "errors": [name for name, made in errors.items() if made],
    }
