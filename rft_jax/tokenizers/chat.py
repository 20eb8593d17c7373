"""Chat templates: a conversation as the text that a checkpoint's Jinja template makes of it.

`ChatTemplate(source, place, special_tokens).render(messages)` gives the string that transformers'
`apply_chat_template` gives. A template is somebody else's program, so it runs in Jinja's sandbox.
"""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rft_jax.tokenizers.base import Message, message_text
from rft_jax.utils.errors import InputError

Clock = Callable[[], datetime.datetime]

_PROBE = "a text that no template has"


class ChatTemplate:
    """A template and the variables that are the same for all conversations.

    Attributes:
        source: the template's text.
    """

    def __init__(
        self,
        source: str,
        place: str,
        variables: Mapping[str, Any],
        now: Clock = datetime.datetime.now,
    ):
        """Compiles a template.

        Args:
            source: in Jinja's language.
            place: where it is from, for messages.
            variables: what it can refer to: the special tokens by name (`bos_token`), and options
                such as `enable_thinking`.
            now: what `strftime_now` tells. Some templates (Llama 3) write the date into the prompt.

        Raises:
            InputError: if it is not a template.
        """
        self.source = source
        self._place = place
        self._variables = dict(variables)
        try:
            self._template = _environment(now).from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{place}: the chat template is not valid Jinja ({error})") from error
        self._takes_parts = self._renders_parts_as_text()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of a conversation.

        Fields that are null are left out, as transformers does. A `developer` message becomes a
        `system` message if the template does not know developers. Content in parts is passed on to
        a template that renders a text in one part as it does the text; for others (which would drop
        the parts, or write them as JSON) the texts of the parts are joined.

        Args:
            messages: at least one.
            tools: functions that the model may call, as JSON schemas.
            add_generation_prompt: whether to end with the marker of an answer to come.

        Raises:
            InputError: if the template refuses the conversation.
        """
        if not messages:
            raise InputError(f"{self._place}: a conversation has no messages; give at least one")
        prepared = [self._prepare(message) for message in messages]
        try:
            return self._render(prepared, tools, add_generation_prompt)
        # The template is a program, so that any error may come out of it.
        except Exception as error:
            raise InputError(
                f"{self._place}: the chat template cannot render the messages ({error}); change "
                "their roles or content, or use another template"
            ) from error

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
    ) -> str:
        return self._template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._variables,
        )

    def _prepare(self, message: Message) -> Message:
        message = {key: value for key, value in message.items() if value is not None}
        if message.get("role") == "developer" and "developer" not in self.source:
            message["role"] = "system"
        if isinstance(message.get("content"), list) and not self._takes_parts:
            message["content"] = message_text(message)
        return message

    def _renders_parts_as_text(self) -> bool:
        parts = [{"type": "text", "text": _PROBE}]
        try:
            return self._render([{"role": "user", "content": parts}]) == self._render(
                [{"role": "user", "content": _PROBE}]
            )
        except Exception:  # as in `render`; what is wrong shows there
            return False


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks the assistant's part for losses, renders what is in it."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_body")
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment(now: Clock) -> jinja2.sandbox.SandboxedEnvironment:
    """What templates are written for (transformers, utils/chat_template_utils.py)."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter is for HTML and escapes <, > and &."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
