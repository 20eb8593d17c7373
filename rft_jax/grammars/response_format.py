"""`response_format`: what answers must look like, in OpenAI's JSON or as a regular expression.

    {"type": "json_schema", "json_schema": {"name": "claim", "schema": {...}, "strict": true}}
    {"type": "regex", "pattern": "(yes|no), because .+"}

A schema may also stand alone. A pattern has to match the whole answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rft_jax.grammars import characters
from rft_jax.grammars.byte_automaton import MOST_STATES, ByteAutomaton, Graph, TooManyStates, build
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.strings.regex_syntax import RegexError
from rft_jax.utils.errors import InputError

_OF_SCHEMAS = ("$ref", "anyOf", "enum", "const")
_SCHEMA_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True)
class ResponseFormat:
    """A schema or a pattern, and where it stands for messages."""

    content: Mapping[str, Any] | str
    place: str

    @property
    def text(self) -> str:
        """The content as JSON, in its own order, which is that of the answers' keys."""
        return json.dumps(self.content)

    def automaton(self, separator: str = "") -> ByteAutomaton:
        """The automaton of the answers' bytes.

        Args:
            separator: What may stand in front of an answer.

        Raises:
            InputError: Naming what cannot be done.
        """
        if not isinstance(self.content, str):
            return schema_automaton(self.content, self.place, separator)
        graph = Graph()
        try:
            pattern = characters.of_regex(self.content, "fullmatch")
            entry = characters.write(graph, pattern, graph.accept, escaped=False)
            automaton = build(graph, graph.optionally(separator.encode(), entry))
        except RegexError as error:
            raise InputError(f"{self.place}: {error}") from None
        except TooManyStates:
            raise InputError(
                f"{self.place}: needs an automaton of more than {MOST_STATES} states; write "
                "smaller counts such as x{9}, fewer alternatives, or narrower sets than ."
            ) from None
        if automaton is None:
            raise InputError(f"{self.place}: no text matches it; correct it")
        return automaton


def read_response_format(value: str | Mapping[str, Any]) -> ResponseFormat:
    """The response format of a setting.

    Args:
        value: Its content, or the path of a JSON file with it.

    Raises:
        InputError: It cannot be read, or is none that can be enforced.
    """
    place = "response_format"
    if isinstance(value, str):
        place, value = value, load_response_format(value)
    if not isinstance(value, Mapping):
        raise InputError(f"{place}: must be a JSON object, a response format or a schema")
    kind = value.get("type")
    if kind == "regex":
        return _of_regex(value, place)
    if kind == "json_schema":
        place = f"{place}: json_schema" if "json_schema" in value else place
        inner = value.get("json_schema", value)
        if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
            raise InputError(f"{place}.schema: is missing or no object; add the JSON Schema")
        return ResponseFormat(inner["schema"], f"{place}.schema")
    if isinstance(kind, list) or kind in _SCHEMA_TYPES or any(key in value for key in _OF_SCHEMAS):
        return ResponseFormat(value, f"{place}: schema")
    raise InputError(
        f"{place}.type: {kind!r} cannot be enforced; use json_schema or regex, or leave the "
        "response format out"
    )


def _of_regex(value: Mapping[str, Any], place: str) -> ResponseFormat:
    for key in value:
        if key not in ("type", "pattern"):
            raise InputError(f"{place}.{key}: is unknown; remove it")
    if not isinstance(value.get("pattern"), str):
        raise InputError(f"{place}.pattern: is missing or no string; add the regular expression")
    return ResponseFormat(value["pattern"], f"{place}.pattern")


def load_response_format(path: str) -> Any:
    """The content of a file with a response format.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; correct the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); correct it") from None
