"""Conversations in bodies of requests: messages of chat, input of responses; text only.

Both become messages of OpenAI's chat format whose contents are strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rft_jax.serve.bodies import Fields, kind
from rft_jax.serve.errors import ApiError

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")


def read_messages(body: Fields) -> list[JsonObject]:
    """The `messages` of a request.

    Raises:
        ApiError: 400, naming the message.
    """
    given = body.required("messages")
    if not isinstance(given, list):
        raise body.refusal("messages", f"must be an array, not {kind(given)}")
    if not given:
        raise body.refusal("messages", "is empty; send one message at least")
    return [
        _read_message(_object(message, f"messages[{index}]"), ROLES)
        for index, message in enumerate(given)
    ]


def read_input(body: Fields) -> list[JsonObject]:
    """The `instructions` and the `input` of a request for a response.

    Raises:
        ApiError: 400, naming the item.
    """
    instructions = body.string("instructions")
    given = body.required("input")
    messages: list[JsonObject] = []
    if instructions is not None:
        messages.append({"role": "developer", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list):
        raise body.refusal("input", f"must be a string or an array, not {kind(given)}")
    for index, item in enumerate(given):
        fields = _object(item, f"input[{index}]")
        form = fields.string("type") or "message"
        if form == "reasoning":  # of an answer before, which goes without its thought
            continue
        if form != "message":
            raise fields.refusal("type", f"{form[:40]!r} is not supported here; send messages")
        messages.append(_read_message(fields, ROLES[:-1]))
    if not messages[instructions is not None :]:
        raise body.refusal("input", "is empty; send one message at least")
    return messages


def _object(value: object, where: str) -> Fields:
    if not isinstance(value, dict):
        raise ApiError(400, f"{where}: must be an object, not {kind(value)}", param=where)
    return Fields(value, where)


def _read_message(message: Fields, roles: tuple[str, ...]) -> JsonObject:
    message.required("role")
    role = message.choice("role", roles)
    if message.values.get("tool_calls") or message.values.get("function_call"):
        raise message.refusal("tool_calls", "are not supported here; write them as text")
    content = message.values.get("content")
    if content is None:
        raise message.refusal("content", "is missing; give a string, or parts of type text")
    if isinstance(content, str):
        return {"role": role, "content": content}
    if not isinstance(content, list):
        problem = f"must be a string or an array of parts, not {kind(content)}"
        raise message.refusal("content", problem)
    if not content:
        raise message.refusal("content", "is an empty array; give a string, or parts of type text")
    parts = [
        _read_part(_object(part, f"{message.param('content')}[{index}]"))
        for index, part in enumerate(content)
    ]
    return {"role": role, "content": "".join(parts)}


def _read_part(part: Fields) -> str:
    form = part.string("type")
    if form not in _TEXT_PARTS:
        shown = "is missing" if form is None else f"{form[:40]!r} is not supported"
        raise part.refusal("type", f"{shown}; only text is read here, as parts of type text")
    text = part.string("text")
    if text is None:
        raise part.refusal("text", "is missing; add the text")
    return text
