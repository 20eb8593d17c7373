"""Demonstrations: items that end with the assistant's answer, as a student and a teacher read them.

The student reads the conversation without the answer. The teacher's last message shows the answer
as well, as an example (SDFT, https://arxiv.org/abs/2601.19897).
"""

import re
from collections.abc import Sequence

from rft_jax.config import DEMONSTRATION_GAPS
from rft_jax.data.items import load_supervised_items
from rft_jax.tokenizers import message_text
from rft_jax.tokenizers.thoughts import split_thought
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

_GAP = re.compile("|".join(map(re.escape, DEMONSTRATION_GAPS)))


def load_demonstrations(path: str) -> list[JsonObject]:
    """Reads supervised items of which each has a question before its answer.

    Raises:
        InputError: Naming file, line, field and remedy.
    """
    items = load_supervised_items(path)
    for number, item in enumerate(items, start=1):
        before = item["messages"][:-1]
        if not before or before[-1]["role"] == "assistant":
            raise InputError(
                f"{path}, line {number}: messages: no question stands before the demonstration; "
                "put the user's message there, or remove the row"
            )
    return items


def without_answers(items: Sequence[JsonObject]) -> list[JsonObject]:
    """The items as they are asked."""
    return [item | {"messages": item["messages"][:-1]} for item in items]


def with_demonstrations(items: Sequence[JsonObject], template: str) -> list[JsonObject]:
    """The items as they are asked of somebody who is shown the answer.

    Args:
        items: From `load_demonstrations`.
        template: The last message; `{{ prompt }}` and `{{ demonstration }}` stand for what it was
            and for the answer, behind its thought if it has one.
    """
    return [_shown(item, template) for item in items]


def _shown(item: JsonObject, template: str) -> JsonObject:
    *before, question, answer = item["messages"]
    text, thought = split_thought(message_text(answer), answer.get("reasoning_content"))
    shown = "\n".join(filter(None, (thought, text)))
    texts: dict[str, str] = dict(
        zip(DEMONSTRATION_GAPS, (message_text(question), shown), strict=True)
    )
    content = _GAP.sub(lambda gap: texts[gap[0]], template)
    return item | {"messages": [*before, question | {"content": content}]}
