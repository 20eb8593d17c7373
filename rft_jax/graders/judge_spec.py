"""What judges are asked and may answer: fields of those at a server and of those on the device."""

from collections.abc import Sequence
from typing import Any

from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template

_ROLES = ("system", "developer", "user", "assistant")
_TEXT_PARTS = ("input_text", "output_text", "text")

Message = tuple[str, tuple[Template, ...]]  # role, and the parts of the content


def parse_messages(fields: Fields) -> tuple[Message, ...]:
    """Reads `input`, the prompt.

    Raises:
        InputError: naming the path inside the JSON.
    """
    messages = fields.values.get("input")
    if not isinstance(messages, list) or not messages:
        raise fields.error(
            "input", 'must be a list of messages such as {"role": "user", "content": "..."}'
        )
    return tuple(_message(fields, f"input[{i}]", message) for i, message in enumerate(messages))


def templates_of(messages: Sequence[Message]) -> list[Template]:
    """The templates of all messages, in order."""
    return [template for _, parts in messages for template in parts]


def fill_in(messages: Sequence[Message], texts: Sequence[str]) -> list[dict[str, str]]:
    """The conversation with the texts of `templates_of`, in OpenAI's chat format."""
    rest = iter(texts)
    return [
        {"role": role, "content": "\n".join(next(rest) for _ in parts)} for role, parts in messages
    ]


def parse_labels(fields: Fields) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Reads `labels` and `passing_labels`.

    Raises:
        InputError: naming the path inside the JSON.
    """
    labels, passing = _texts(fields, "labels"), _texts(fields, "passing_labels")
    for label in passing:
        if label not in labels:
            raise fields.error("passing_labels", f"{label!r} is none of the labels; add it")
    return labels, passing


def parse_range(fields: Fields) -> tuple[float, float]:
    """Reads `range`, the lowest and the highest score; [0, 1] by default.

    Raises:
        InputError: naming the path inside the JSON.
    """
    bounds = fields.numbers("range", (0.0, 1.0))
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise fields.error("range", "must be the lowest and the highest score, such as [0, 1]")
    return bounds


def _message(fields: Fields, path: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise fields.error(path, 'must be an object with "role" and "content"; correct it')
    inside = fields.inside(path, message)
    role = inside.choice("role", _ROLES)
    content = message.get("content")
    if isinstance(content, dict):
        return role, (_text_part(inside, "content", content),)
    if isinstance(content, list) and content:
        parts = (_text_part(inside, f"content[{i}]", part) for i, part in enumerate(content))
        return role, tuple(parts)
    return role, (inside.template("content"),)


def _text_part(fields: Fields, path: str, part: Any) -> Template:
    if isinstance(part, str):
        part = {"type": "input_text", "text": part}
    if not isinstance(part, dict):
        raise fields.error(path, "must be a text or an object with one; correct it")
    inside = fields.inside(path, part)
    if part.get("type") not in _TEXT_PARTS:
        raise inside.error("type", "only text can be judged; use input_text")
    return inside.template("text")


def _texts(fields: Fields, key: str) -> tuple[str, ...]:
    texts = fields.values.get(key)
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        raise fields.error(key, 'must be a list of strings with at least one, such as ["good"]')
    return tuple(texts)
