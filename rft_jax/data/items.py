"""Items from JSON lines: `messages` in OpenAI's chat format, and any other keys for the grader.

A reinforcement fine-tuning item ends with a message to answer, a supervised one with the answer.
Rows come back as they are in the file, item i from line i + 1. Whatever cannot be used is refused
with one sentence that names file, line and field.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rft_jax.utils.errors import InputError

ROLES = ("system", "developer", "user", "assistant", "tool")


def load_items(path: str | Path) -> list[dict[str, Any]]:
    """Reads reinforcement fine-tuning items.

    Returns:
        The rows; the last message of each is not the assistant's.

    Raises:
        InputError: naming file, line, field and remedy.
    """
    items = _read_rows(Path(path))
    for number, item in enumerate(items, start=1):
        messages = _check_messages(item, f"{path}, line {number}")
        if messages[-1]["role"] == "assistant":
            raise InputError(
                f"{path}, line {number}: messages[{len(messages) - 1}]: the last message is the "
                "assistant's, whose answer is to be sampled; end with the user's and keep a "
                "reference answer under a key of its own"
            )
    return items


def check_keys(items: Sequence[dict[str, Any]], keys: Iterable[str], path: str | Path) -> None:
    """Items may lack a key, but not all of them.

    Raises:
        InputError: naming the key that no item has.
    """
    for key in keys:
        if not any(key in item for item in items):
            raise InputError(
                f"{path}: no item has the key {key!r}; they have {', '.join(sorted(items[0]))}"
            )


def load_rows(path: str | Path) -> list[dict[str, Any]]:
    """Reads JSON objects, one a line, without looking at what is in them.

    Raises:
        InputError: naming file, line and remedy.
    """
    return _read_rows(Path(path))


def load_answers(path: str | Path, items: int) -> list[str]:
    """Reads the `output_text` of answers, one for each item of a file, in their order.

    Raises:
        InputError: naming file, line, field and remedy.
    """
    rows = _read_rows(Path(path))
    if len(rows) != items:
        raise InputError(f"{path}: has {len(rows)} answers to {items} items; give one for each")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("output_text"), str):
            raise InputError(
                f"{path}, line {number}: output_text: must be a string; add the answer"
            )
    return [row["output_text"] for row in rows]


def load_supervised_items(path: str | Path) -> list[dict[str, Any]]:
    """Reads supervised items: the last message is the assistant's, with the thought, if any, under
    `reasoning_content`.

    Returns:
        The rows.

    Raises:
        InputError: naming file, line, field and remedy.
    """
    items = _read_rows(Path(path))
    for number, item in enumerate(items, start=1):
        messages = _check_messages(item, f"{path}, line {number}")
        place = f"{path}, line {number}: messages[{len(messages) - 1}]"
        answer = messages[-1]
        if answer["role"] != "assistant":
            raise InputError(
                f"{place}: the last message is from {answer['role']!r}; a supervised item ends "
                "with the assistant's answer"
            )
        if not isinstance(answer.get("reasoning_content"), str | None):
            raise InputError(f"{place}.reasoning_content: must be a string; correct or remove it")
        if answer.get("weight", 1) != 1:
            raise InputError(f"{place}.weight: only 1 is supported; remove the row or the weight")
    return items


def check_disjoint(
    train: Sequence[dict[str, Any]], valid: Sequence[dict[str, Any]], names: tuple[str, str]
) -> None:
    """Refuses data of which a row is both for training and for validation.

    Args:
        train: rows for training.
        valid: rows for validation.
        names: the files of the two.

    Raises:
        InputError: naming the first such row's line in both files.
    """
    lines = {_canonical(item): number for number, item in reversed([*enumerate(train, start=1)])}
    for number, item in enumerate(valid, start=1):
        if (line := lines.get(_canonical(item))) is not None:
            raise InputError(
                f"{names[1]}, line {number}: the same row is in {names[0]}, line {line}; remove it "
                "from one of the two"
            )


def _canonical(item: dict[str, Any]) -> str:
    return json.dumps(item, sort_keys=True)


def load_lines(path: str | Path) -> list[str]:
    """Reads a text a line.

    Raises:
        InputError: naming file, line and remedy.
    """
    lines = _read_lines(Path(path), "a text a line")
    try:
        return [line.decode().removesuffix("\r") for line in lines]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file; blank lines only at its end."""
    lines = _read_lines(path, "JSON lines")
    return [_parse(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1)]


def _read_lines(path: Path, kind: str) -> list[bytes]:
    """Bytes are split, not text: str.splitlines would also break at U+2028, which JSON allows."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory; give a file of {kind}")
    if not path.exists():
        raise InputError(f"{path}: there is no such file; correct the path")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check permissions") from error
    content = content.removeprefix(b"\xef\xbb\xbf").rstrip()  # a byte order mark is harmless
    if not content:
        raise InputError(f"{path}: is empty; give at least one line of {kind}")
    return content.split(b"\n")


def _parse(line: bytes, place: str) -> dict[str, Any]:
    if not line.strip():
        raise InputError(f"{place}: is blank; remove it")
    try:
        row = json.loads(line.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{place}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON ({error.msg}, column {error.colno}); write one object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: not usable as JSON ({error}); write one object a line"
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f"{place}: expected a JSON object, got {_kind(row)}; write "
            '{"messages": [...], ...}, one a line'
        )
    # Only an escape can bring half of a surrogate pair past the UTF-8 decoder.
    if b"\\u" in line and not _encodable(row):
        raise InputError(
            f"{place}: has half of a surrogate pair (\\ud800 to \\udfff), which is no character; "
            "remove it"
        )
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encodable(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_messages(item: dict[str, Any], place: str) -> list[dict[str, Any]]:
    """The item's messages, each with a known role and text."""
    if "messages" not in item:
        raise InputError(
            f'{place}: messages: is missing; add [{{"role": "user", "content": "..."}}]'
        )
    messages = item["messages"]
    if not isinstance(messages, list) or not messages:
        got = "an empty array" if messages == [] else _kind(messages)
        raise InputError(f"{place}: messages: expected an array of messages, got {got}; add one")
    for index, message in enumerate(messages):
        _check_message(message, f"{place}: messages[{index}]")
    tools = item.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"{place}: tools: expected an array of functions, got {_kind(tools)}")
    return messages


def _check_message(message: Any, place: str) -> None:
    if not isinstance(message, dict):
        raise InputError(
            f"{place}: expected an object, got {_kind(message)}; "
            'write {"role": ..., "content": ...}'
        )
    if "role" not in message:
        raise InputError(f"{place}.role: is missing; use one of {', '.join(ROLES)}")
    if message["role"] not in ROLES:
        raise InputError(
            f"{place}.role: {json.dumps(message['role'])} is unknown; use one of {', '.join(ROLES)}"
        )
    content = message.get("content")
    if content is None:
        raise InputError(f"{place}.content: is missing; a message needs text")
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise InputError(
            f"{place}.content: expected text, got {_kind(content)}; write a string or an array of "
            '{"type": "text", "text": "..."}'
        )
    for index, part in enumerate(content):
        _check_part(part, f"{place}.content[{index}]")


def _check_part(part: Any, place: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.startswith(("image", "input_image")):
        raise InputError(
            f"{place}: images are not supported; describe it in text or remove the row"
        )
    if kind != "text" or not isinstance(part.get("text"), str):
        raise InputError(
            f'{place}: only text parts are supported; write {{"type": "text", "text": "..."}}'
        )


def _kind(value: Any) -> str:
    """What JSON calls the value's type."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
