"""Harmony, gpt-oss's chat format: a thought in one channel, then the answer in another.

https://cookbook.openai.com/articles/openai-harmony

The prompt of a model that thinks goes on into the channel of thoughts. So a completion has one
message marker, that of the answer, which is the end-of-think marker; `LEAD` comes before it.
"""

MESSAGE, RETURN = "<|message|>", "<|return|>"
LEAD = "<|end|><|start|>assistant<|channel|>final"
_THOUGHT = f"<|channel|>analysis{MESSAGE}"
_ANSWER = f"<|channel|>final{MESSAGE}"


def is_harmony(template: str) -> bool:
    """Whether a chat template writes the format."""
    return _THOUGHT in template and RETURN in template


def opening(thinks: bool) -> str:
    """What the assistant's turn begins with, behind the template's prompt."""
    return _THOUGHT if thinks else _ANSWER


def completion(answer: str, thought: str | None, thinks: bool) -> str:
    """What follows such a prompt."""
    before = f"{thought or ''}{LEAD}{MESSAGE}" if thinks else ""
    return f"{before}{answer}{RETURN}"
