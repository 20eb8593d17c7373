"""`response_format`: what answers must look like, in OpenAI's JSON or as a regular expression.

    {"type": "json_schema", "json_schema": {"name": "claim", "schema": {...}, "strict": true}}
    {"type": "json_object"}
    {"type": "text"}
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
from rft_jax.grammars.any_json import object_automaton
from rft_jax.grammars.byte_automaton import MOST_STATES, ByteAutomaton, Graph, TooManyStates, build
from rft_jax.grammars.errors import ResponseFormatError, shortened
from rft_jax.grammars.json_schema import schema_automaton
from rft_jax.strings.regex_syntax import RegexError
from rft_jax.utils.types import JsonMapping

_OF_SCHEMAS = ("$ref", "anyOf", "enum", "const")
_SCHEMA_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")


@dataclass(frozen=True)
class ResponseFormat:
    """What answers must look like.

    Attributes:
        content: A schema or a pattern; None: any JSON object.
        place: Where it stands, for messages.
    """

    content: JsonMapping | str | None
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
            ResponseFormatError: Naming what cannot be done.
        """
        if self.content is None:
            return object_automaton(separator)
        if not isinstance(self.content, str):
            return schema_automaton(self.content, self.place, separator)
        graph = Graph()
        try:
            pattern = characters.of_regex(self.content, "fullmatch")
            entry = characters.write(graph, pattern, graph.accept, escaped=False)
            automaton = build(graph, graph.optionally(separator.encode(), entry))
        except RegexError as error:
            raise ResponseFormatError(self.place, str(error)) from None
        except TooManyStates:
            raise ResponseFormatError(
                self.place,
                f"needs an automaton of more than {MOST_STATES} states; write "
                "smaller counts such as x{9}, fewer alternatives, or narrower sets than .",
            ) from None
        if automaton is None:
            raise ResponseFormatError(self.place, "no text matches it; correct it")
        return automaton


def read_response_format(
    value: str | JsonMapping, place: str = "response_format"
) -> ResponseFormat | None:
    """The response format of a setting or a request.

    Args:
        value: Its content, or the path of a JSON file with it.
        place: Where the content stands, for messages; a file is its own place.

    Returns:
        None where answers may be any text.

    Raises:
        ResponseFormatError: It cannot be read, or is none that can be enforced.
    """
    within = "."
    if isinstance(value, str):
        place, within, value = value, ": ", load_response_format(value)
    if not isinstance(value, Mapping):
        raise ResponseFormatError(place, "must be a JSON object, a response format or a schema")
    kind = value.get("type")
    if kind in ("text", "json_object"):
        _only_keys(value, (), f"{place}{within}")
        return None if kind == "text" else ResponseFormat(None, place)
    if kind == "regex":
        return _of_regex(value, f"{place}{within}")
    if kind == "json_schema":
        inner, at = value, f"{place}{within}schema"
        if "json_schema" in value:
            inner, at = value["json_schema"], f"{place}{within}json_schema.schema"
        if not isinstance(inner, Mapping) or not isinstance(inner.get("schema"), Mapping):
            raise ResponseFormatError(at, "is missing or no object; add the JSON Schema")
        return ResponseFormat(inner["schema"], at)
    if isinstance(kind, list) or kind in _SCHEMA_TYPES or any(key in value for key in _OF_SCHEMAS):
        return ResponseFormat(value, place if within == "." else f"{place}: schema")
    raise ResponseFormatError(
        f"{place}{within}type",
        f"{shortened(kind)} cannot be enforced; use json_schema, json_object or regex, or text for "
        "any answer",
    )


def _of_regex(value: JsonMapping, prefix: str) -> ResponseFormat:
    _only_keys(value, ("pattern",), prefix)
    if not isinstance(value.get("pattern"), str):
        raise ResponseFormatError(
            f"{prefix}pattern", "is missing or no string; add the regular expression"
        )
    return ResponseFormat(value["pattern"], f"{prefix}pattern")


def _only_keys(value: JsonMapping, known: tuple[str, ...], prefix: str) -> None:
    for key in value:
        if key not in ("type", *known):
            raise ResponseFormatError(f"{prefix}{key}", "is unknown; remove it")


def load_response_format(path: str) -> Any:
    """The content of a file with a response format.

    Raises:
        ResponseFormatError: It cannot be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResponseFormatError(path, "there is no such file; correct the path") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ResponseFormatError(path, f"cannot be read as JSON ({error}); correct it") from None
