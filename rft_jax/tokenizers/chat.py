"""Chat templates: a conversation as the text that a checkpoint's Jinja template makes of it.

`ChatTemplate(source, where, variables).render(messages)` gives the string that transformers'
`apply_chat_template` gives. A template is somebody else's program, so it runs in Jinja's sandbox.
"""

import contextlib
import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from rft_jax.tokenizers.base import Message, message_text
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, JsonObject

Clock = Callable[[], datetime.datetime]

# For models that were trained on no conversations; they end with the token that ends a document.
PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n\n"
    "{% elif message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}\n\n"
    "{% else %}User: {{ message.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

_PROBE = "a text that no template has"


class ChatTemplate:
    """A template and the variables that are the same for all conversations.

    Attributes:
        source: The template's text.
    """

    def __init__(
        self,
        source: str,
        where: str,
        variables: Mapping[str, object],
        now: Clock = datetime.datetime.now,
    ):
        """Compiles a template.

        Args:
            source: The template, in Jinja's language.
            where: Where the template is from, for messages.
            variables: What it can refer to: the special tokens by name (`bos_token`), and options
                such as `enable_thinking`.
            now: What `strftime_now` tells. Some templates (Llama 3) write the date into the prompt.

        Raises:
            InputError: If it is not a template.
        """
        self.source = source
        self._where = where
        self._variables = dict(variables)
        try:
            self._template = _environment(now).from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{where}: the chat template is not valid Jinja ({error})") from error
        self._takes_parts = self._renders_parts_as_text()

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of a conversation.

        Fields that are null are left out, as transformers does. A `developer` message becomes a
        `system` message if the template does not know developers. Content in parts is passed on to
        a template that renders a text in one part as it does the text; for others (which would drop
        the parts, or write them as JSON) the texts of the parts are joined.

        Args:
            messages: At least one.
            tools: Functions that the model may call, as JSON schemas.
            add_generation_prompt: Whether to end with the marker of an answer to come.

        Raises:
            InputError: If the template refuses the conversation.
        """
        if not messages:
            raise InputError(f"{self._where}: a conversation has no messages; give at least one")
        if any(message.get("tool_calls") for message in messages) and not self._shows_calls:
            raise InputError(
                f"{self._where}: the chat template shows no calls of tools; write them into the "
                "content, or use another template"
            )
        prepared = [self._prepare(message) for message in messages]
        try:
            return self._render(prepared, tools, add_generation_prompt)
        # The template is a program, so that any error may come out of it.
        except Exception as error:
            raise InputError(
                f"{self._where}: the chat template cannot render the messages ({error}); change "
                "their roles or content, or use another template"
            ) from error

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] | None = None,
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
        if message.get("tool_calls") and self._takes_objects:
            message["tool_calls"] = [_with_object(call) for call in message["tool_calls"]]
        return message

    @functools.cached_property
    def _shows_calls(self) -> bool:
        texts = self._call_text({"a": _PROBE}), self._call_text(f'{{"a": "{_PROBE}"}}')
        return any(text is not None and _PROBE in text for text in texts)

    @functools.cached_property
    def _takes_objects(self) -> bool:
        """Whether the arguments of a call have to be an object, and not its JSON: written as they
        are, strings would be quoted once more or refused."""
        as_object, as_text = {"a": 1}, '{"a": 1}'
        rendered = self._call_text(as_object)
        return rendered is not None and rendered != self._call_text(as_text)

    def _call_text(self, arguments: JsonMapping | str) -> str | None:
        """A conversation with a call; None if the template refuses it."""
        function = {"name": "f", "arguments": arguments}
        call = {"id": "call00001", "type": "function", "function": function}
        question = {"role": "user", "content": "?"}
        try:
            return self._render([question, {"role": "assistant", "tool_calls": [call]}])
        except Exception:  # as in `render`
            return None

    def _renders_parts_as_text(self) -> bool:
        parts = [{"type": "text", "text": _PROBE}]
        try:
            return self._render([{"role": "user", "content": parts}]) == self._render(
                [{"role": "user", "content": _PROBE}]
            )
        except Exception:  # as in `render`; what is wrong shows there
            return False


def _with_object(call: JsonMapping) -> JsonObject:
    """The call with its arguments read, if they are JSON."""
    function = dict(call.get("function", call))
    if isinstance(function.get("arguments"), str):
        with contextlib.suppress(ValueError):
            function["arguments"] = json.loads(function["arguments"])
    return {**call, "function": function} if "function" in call else function


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
    value: object,
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
