"""JSON on the host, read as `strings.scan_last_json` reads it on the device.

The JSON of an answer is the whole text, or the last object in it, as `strings.json_anywhere` says.
What Python's `json` takes is valid, without NaN and the infinities; of equal keys the last counts;
lone surrogates become U+FFFD; nesting beyond `strings.MAX_DEPTH` is told apart.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from rft_jax.strings import MAX_DEPTH
from rft_jax.strings.json_anywhere import BEFORE_END, ENDS_VALUE, TRIES
from rft_jax.strings.json_equal import read_number

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^{}\[\],:"\s]+', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = " \t\r\n\0"
_MOST_DIGITS = 4300  # Python's limit for integers; longer ones become floats


@dataclass(frozen=True)
class Value:
    """A JSON value and how it is written.

    Attributes:
        data: As Python's `json` has it.
        source: Its text without insignificant white space.
        members: Those of an object by key, of an array by index.
        canonical: A text that is the same for equal values only, however they are written.
    """

    data: Any
    source: str
    members: dict[str | int, "Value"] = field(default_factory=dict)
    canonical: str = ""

    def show(self) -> str:
        """As templates show it: a string as it is, anything else as its source."""
        return self.data if isinstance(self.data, str) else self.source


@dataclass(frozen=True)
class Document:
    """A text read as JSON.

    Attributes:
        root: The value; None if the text is not valid or too deep.
        too_deep: Valid, but nested deeper than `strings.MAX_DEPTH`.
        whole: It is the whole text.
    """

    root: Value | None
    too_deep: bool = False
    whole: bool = True

    def find(self, path: tuple[str | int, ...]) -> Value | None:
        """The value at keys and indices, or None; of keys that only differ in case, the last."""
        value = self.root
        for step in path:
            value = value and _member(value.members, step)
        return value


def _member(members: dict[str | int, Value], step: str | int) -> Value | None:
    if step in members or isinstance(step, int):
        return members.get(step)
    folded = step.encode().lower()
    alike = [v for k, v in members.items() if isinstance(k, str) and k.encode().lower() == folded]
    return alike[-1] if alike else None


def parse_document(text: str) -> Document:
    """Reads the JSON of an answer."""
    document = _parse(text)
    if document.root is not None or document.too_deep:
        return document
    for end in itertools.islice(_ends(text), TRIES):
        start = _start(text, end)
        found = Document(None) if start is None else _parse(text[start : end + 1])
        if found.root is not None or found.too_deep:
            return Document(found.root, found.too_deep, whole=False)
    return Document(None)


def _ends(text: str) -> Iterator[int]:
    """The closing brackets that can end a container, the last first, braces before the others."""
    for bracket in "}]":
        end = len(text)
        while (end := text.rfind(bracket, 0, end)) >= 0:
            before = _solid_before(text, end)
            if before >= 0 and text[before] in BEFORE_END.decode():
                yield end


def _start(text: str, end: int) -> int | None:
    """Where the container begins that a bracket closes; None if it is a part of something."""
    depth, quoted = 0, False
    for index in range(end, -1, -1):
        character = text[index]
        if character == '"':
            backslashes = 0
            while backslashes < index and text[index - 1 - backslashes] == "\\":
                backslashes += 1
            quoted ^= backslashes % 2 == 0
        elif not quoted and character in "{}[]":
            depth += 1 if character in "}]" else -1
            if depth == 0:
                return None if _is_inside(text, index) else index
    return None


def _is_inside(text: str, start: int) -> bool:
    """Whether what stands before shows that this is a part of something."""
    before = _solid_before(text, start)
    if before < 0 or text[before] not in "[{:,":
        return False
    earlier = _solid_before(text, before)
    return text[before] in "[{" or (earlier >= 0 and text[earlier] in ENDS_VALUE.decode())


def _solid_before(text: str, index: int) -> int:
    """The last character before that is no white space; -1 without one."""
    index -= 1
    while index >= 0 and text[index] in _SPACE:
        index -= 1
    return index


def _parse(text: str) -> Document:
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


def _refuse(constant: str) -> NoReturn:
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
        text = _SURROGATE.sub("\ufffd", json.loads(token))
        return Value(text, token, canonical=json.dumps(text))
    return Value(json.loads(token, parse_int=_integer), token, canonical=_canonical_scalar(token))


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MOST_DIGITS else float(digits)


def _object(tokens: Iterator[str]) -> Value:
    members, sources, canonical = {}, [], []
    while (token := next(tokens)) != "}":
        if token == ",":
            continue
        key = _after(token, tokens)
        next(tokens)  # the colon
        members[key.data] = value = _value(tokens)
        sources.append(f"{key.source}:{value.source}")
        canonical.append(f"{key.canonical}:{value.canonical}")
    data = {key: value.data for key, value in members.items()}
    in_order = ",".join(sorted(canonical))
    return Value(data, "{" + ",".join(sources) + "}", members, "{" + in_order + "}")


def _array(tokens: Iterator[str]) -> Value:
    values = []
    while (token := next(tokens)) != "]":
        if token != ",":
            values.append(_after(token, tokens))
    source = "[" + ",".join(value.source for value in values) + "]"
    canonical = "[" + ",".join(value.canonical for value in values) + "]"
    return Value([value.data for value in values], source, dict(enumerate(values)), canonical)


def canonical(value: object) -> str:
    """`Value.canonical` of a value as `json.loads` gives it."""
    if isinstance(value, dict):
        members = sorted(f"{json.dumps(key)}:{canonical(v)}" for key, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else _canonical_scalar(json.dumps(value))


def _canonical_scalar(source: str) -> str:
    """The canonical text of a number or literal."""
    if not (number := read_number(source)):
        return source
    negative, digits, exponent = number
    return f"{'-' if negative else ''}0.{digits}e{exponent}"
