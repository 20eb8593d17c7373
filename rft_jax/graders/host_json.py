"""JSON on the host, read as `strings.scan_json` reads it on the device.

What Python's `json` takes is valid, without NaN and the infinities; of equal keys the last counts;
lone surrogates become U+FFFD; nesting beyond `strings.MAX_DEPTH` is told apart.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rft_jax.strings import MAX_DEPTH

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"\s]+', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_DIGITS = 4300  # Python's limit for integers; longer ones become floats


@dataclass(frozen=True)
class Value:
    """A JSON value and how it is written.

    Attributes:
        data: as Python's `json` has it.
        source: its text without insignificant white space.
        members: those of an object by key, of an array by index.
    """

    data: Any
    source: str
    members: dict[str | int, "Value"] = field(default_factory=dict)

    def show(self) -> str:
        """As templates show it: a string as it is, anything else as its source."""
        return self.data if isinstance(self.data, str) else self.source


@dataclass(frozen=True)
class Document:
    """A text read as JSON.

    Attributes:
        root: the value; None if the text is not valid or too deep.
        too_deep: valid, but nested deeper than `strings.MAX_DEPTH`.
    """

    root: Value | None
    too_deep: bool = False

    def find(self, path: tuple[str | int, ...]) -> Value | None:
        """The value at keys and indices, or None."""
        value = self.root
        for step in path:
            value = value and value.members.get(step)
        return value


def parse_document(text: str) -> Document:
    """Reads a text as one JSON document."""
    try:
        json.loads(text, parse_constant=_refuse, parse_int=float)
    except ValueError:
        return Document(None)
    except RecursionError:
        return Document(None, too_deep=True)
    tokens = _TOKEN.findall(text)
    depth = deepest = 0
    for token in tokens:
        depth += (token in "{[") - (token in "}]")
        deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        return Document(None, too_deep=True)
    return Document(_value(iter(tokens)))


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _value(tokens: Iterator[str]) -> Value:
    """Reads the next value of a valid document."""
    return _after(next(tokens), tokens)


def _after(token: str, tokens: Iterator[str]) -> Value:
    """Reads the value that a token starts."""
    if token == "{":
        return _object(tokens)
    if token == "[":
        return _array(tokens)
    if token.startswith('"'):
        return Value(_SURROGATE.sub("\ufffd", json.loads(token)), token)
    return Value(json.loads(token, parse_int=_integer), token)


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _object(tokens: Iterator[str]) -> Value:
    members, sources = {}, []
    while (token := next(tokens)) != "}":
        if token == ",":
            continue
        key = _after(token, tokens)
        next(tokens)  # the colon
        members[key.data] = value = _value(tokens)
        sources.append(f"{key.source}:{value.source}")
    data = {key: value.data for key, value in members.items()}
    return Value(data, "{" + ",".join(sources) + "}", members)


def _array(tokens: Iterator[str]) -> Value:
    values = []
    while (token := next(tokens)) != "]":
        if token != ",":
            values.append(_after(token, tokens))
    source = "[" + ",".join(value.source for value in values) + "]"
    return Value([value.data for value in values], source, dict(enumerate(values)))
