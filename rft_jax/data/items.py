"""Items from JSON lines: `messages` in OpenAI's chat format, and any other keys for the grader.

A reinforcement fine-tuning item ends with a message to answer, a supervised one with the answer.
Rows come back as they are in the file, item i from line i + 1. Whatever cannot be used is refused
with one sentence that names file, line and field.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, JsonObject

_LONG_PROMPT = 1 << 17  # characters; some 30,000 tokens
_MARK = b"\xef\xbb\xbf"  # of the byte order, which is harmless
_HEAD = 1 << 16  # bytes, by which another format is known
_LONGEST_LINE = 64 << 20  # bytes of one row
ROLES = ("system", "developer", "user", "assistant", "tool")


def load_items(path: str | Path) -> list[JsonObject]:
    """Reads reinforcement fine-tuning items.

    Returns:
        The rows; the last message of each is not the assistant's.

    Raises:
        InputError: Naming file, line, field and remedy.
    """
    items = _read_rows(path)
    for number, item in enumerate(items, start=1):
        check_prompt(item, f"{path}, line {number}")
    return items


def check_prompt(item: JsonObject, where: str) -> list[JsonObject]:
    """The messages of an item whose answer is to be sampled.

    Raises:
        InputError: Naming field and remedy, after `where`.
    """
    messages = _check_messages(item, where)
    if messages[-1]["role"] == "assistant":
        raise InputError(
            f"{where}: messages[{len(messages) - 1}]: the last message is the assistant's, whose "
            "answer is to be sampled; end with the user's and keep a reference answer under a key "
            "of its own"
        )
    return messages


def check_keys(items: Sequence[JsonMapping], keys: Iterable[str], path: str | Path) -> None:
    """Items may lack a key, but not all of them.

    Raises:
        InputError: Naming the key that no item has.
    """
    for key in keys:
        if not any(key in item for item in items):
            raise InputError(
                f"{path}: no item has the key {key!r}; they have {', '.join(sorted(items[0]))}"
            )


def load_rows(path: str | Path) -> list[JsonObject]:
    """Reads JSON objects, one a line, without looking at what is in them.

    Raises:
        InputError: Naming file, line and remedy.
    """
    return _read_rows(path)


def check_rows(path: Path) -> None:
    """Looks whether every line of a file is a JSON object; the file may be larger than memory.

    Raises:
        InputError: As `load_rows`.
    """
    with path.open("rb") as file:
        if problem := _other_format(file.read(_HEAD).removeprefix(_MARK).split(b"\n")):
            raise InputError(f"{path}, line 1: the file {problem}")
        file.seek(0)
        number, blank = 0, 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            line = line.removeprefix(_MARK) if number == 1 else line
            if len(line) == _LONGEST_LINE:
                raise InputError(
                    f"{path}, line {number}: is longer than {_LONGEST_LINE:,} bytes; shorten it"
                )
            if not line.strip():
                blank = blank or number
            elif blank:
                raise InputError(f"{path}, line {blank}: is blank; remove it")
            else:
                _parse(line.rstrip(b"\r\n"), f"{path}, line {number}")
    if blank == 1 or not number:
        raise InputError(f"{path}: is empty; give at least one line of JSON lines")


def load_answers(path: str | Path, items: int) -> list[str]:
    """Reads the `output_text` of answers, one for each item of a file, in their order.

    Raises:
        InputError: Naming file, line, field and remedy.
    """
    rows = _read_rows(path)
    if len(rows) != items:
        raise InputError(f"{path}: has {len(rows)} answers to {items} items; give one for each")
    return [output_text(row, f"{path}, line {n}") for n, row in enumerate(rows, start=1)]


def output_text(row: JsonObject, where: str) -> str:
    """The answer in a row of answers.

    Raises:
        InputError: It is missing, null or no string.
    """
    text = row.get("output_text")
    if isinstance(text, str):
        return text
    if "output_text" not in row:
        raise InputError(f"{where}: output_text: is missing; add the answer, as a string")
    if text is None:
        raise InputError(f'{where}: output_text: is null; write the answer, or "" for none')
    raise InputError(
        f"{where}: output_text: must be a string, not {_kind(text)}; put the answer in quotes"
    )


def suspicions(items: Sequence[JsonMapping], source: str) -> list[str]:
    """Sentences on items that can be used but are hardly meant: prompts that stand there twice, or
    are very long.

    Args:
        items: From `load_items`.
        source: The file.
    """
    lines: dict[str, int] = {}
    repeated, long = [], []
    for number, item in enumerate(items, start=1):
        prompt = json.dumps(item["messages"], sort_keys=True)
        if (first := lines.setdefault(prompt, number)) != number:
            repeated.append(f"line {number}: the same prompt is in line {first}")
        if len(prompt) > _LONG_PROMPT:
            long.append(f"line {number}: the prompt has {len(prompt):,} characters; is it meant?")
    found = []
    for sentences in filter(None, (repeated, long)):
        more = f" (and {len(sentences) - 1} more like it)" if len(sentences) > 1 else ""
        found.append(f"{source}, {sentences[0]}{more}")
    return found


def load_supervised_items(path: str | Path) -> list[JsonObject]:
    """Reads supervised items: the last message is the assistant's, with the thought, if any, under
    `reasoning_content` or between `<think>` and `</think>` at the start of `content`.

    Returns:
        The rows.

    Raises:
        InputError: Naming file, line, field and remedy.
    """
    items = _read_rows(path)
    for number, item in enumerate(items, start=1):
        messages = _check_messages(item, f"{path}, line {number}")
        where = f"{path}, line {number}: messages[{len(messages) - 1}]"
        answer = messages[-1]
        if answer["role"] != "assistant":
            raise InputError(
                f"{where}: the last message is from {answer['role']!r}; a supervised item ends "
                "with the assistant's answer"
            )
        if answer.get("content") is None:
            raise InputError(
                f"{where}.content: is null; an answer that only calls tools cannot be learned, "
                "remove the row or write it as text"
            )
        if not isinstance(answer.get("reasoning_content"), str | None):
            raise InputError(f"{where}.reasoning_content: must be a string; correct or remove it")
        if answer.get("weight", 1) != 1:
            raise InputError(f"{where}.weight: only 1 is supported; remove the row or the weight")
    return items


def check_disjoint(
    train: Sequence[JsonObject], valid: Sequence[JsonObject], names: tuple[str, str]
) -> None:
    """Refuses data of which a row is both for training and for validation.

    Args:
        train: Rows for training.
        valid: Rows for validation.
        names: The files of the two.

    Raises:
        InputError: Naming the first such row's line in both files.
    """
    lines = {_canonical(item): number for number, item in reversed([*enumerate(train, start=1)])}
    for number, item in enumerate(valid, start=1):
        if (line := lines.get(_canonical(item))) is not None:
            raise InputError(
                f"{names[1]}, line {number}: the same row is in {names[0]}, line {line}; remove it "
                "from one of the two"
            )


def _canonical(item: JsonObject) -> str:
    return json.dumps(item, sort_keys=True)


def load_lines(path: str | Path) -> list[str]:
    """Reads a text a line.

    Raises:
        InputError: Naming file, line and remedy.
    """
    lines = _read_lines(Path(path), "a text a line")
    try:
        return [line.decode().removesuffix("\r") for line in lines]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save the file as UTF-8") from error


def _read_rows(path: str | Path) -> list[JsonObject]:
    """The JSON objects of a file; blank lines only at its end."""
    if url := re.match(r"(https?|gs|s3):/+", str(path)):  # a Path has lost one of the slashes
        rest = str(path)[url.end() :]
        raise InputError(f"{url[1]}://{rest}: is a URL; download the file and name it instead")
    lines = _read_lines(Path(path), "JSON lines")
    if problem := _other_format(lines):
        raise InputError(f"{path}: {problem}")
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
    content = content.removeprefix(_MARK).rstrip()
    if not content:
        raise InputError(f"{path}: is empty; give at least one line of {kind}")
    return content.split(b"\n")


def _other_format(lines: list[bytes]) -> str:
    """What a file is, if it plainly is no JSON lines, and the remedy; else nothing."""
    first = lines[0].strip()
    for magic, kind, remedy in _FORMATS:
        if first.startswith(magic):
            return f"is {kind}, not JSON lines; {remedy}"
    if first[:1] not in (b"[", b"{"):
        try:
            json.loads(first)
        except ValueError:
            columns = first.count(b",") + first.count(b"\t") + first.count(b";")
            same = {line.count(b",") for line in lines[:3]} == {first.count(b",")}
            if columns and same and len(lines) > 1 and b'":' not in first:
                return (
                    "looks like a table (CSV), not JSON lines; write an object with `messages` and "
                    "the columns for each row, one a line"
                )
        return ""
    try:
        json.loads(first)
        if len(lines) > 1 or first[:1] == b"{":
            return ""
    except (ValueError, RecursionError):
        pass
    try:
        whole = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return ""
    if isinstance(whole, list):
        return "is one JSON array, not JSON lines; write its members one a line, without commas"
    return "is one JSON object over several lines, not JSON lines; write each object on one line"


def _refuse_repeats(pairs: list[tuple[str, object]]) -> JsonObject:
    """An object's members; for `json.loads`."""
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise RepeatedKey(repeated)
    return row


class RepeatedKey(Exception):
    """An object has a key twice."""


def _parse(line: bytes, where: str) -> JsonObject:
    if not line.strip():
        raise InputError(f"{where}: is blank; remove it")
    try:
        row = json.loads(
            line.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeats
        )
    except RepeatedKey as error:
        raise InputError(
            f"{where}: has the key {str(error)!r} twice in one object; remove one"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}: not JSON ({error.msg}, column {error.colno}); write one object a line"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{where}: not usable as JSON ({error}); write one object a line"
        ) from error
    if not isinstance(row, dict):
        raise InputError(
            f"{where}: expected a JSON object, got {_kind(row)}; write "
            '{"messages": [...], ...}, one a line'
        )
    # Only an escape can bring half of a surrogate pair past the UTF-8 decoder.
    if b"\\u" in line and not _encodable(row):
        raise InputError(
            f"{where}: has half of a surrogate pair (\\ud800 to \\udfff), which is no character; "
            "remove it"
        )
    return row


_FORMATS = (
    (b"\x1f\x8b", "compressed (gzip)", "unpack it with `gunzip`"),
    (b"PK\x03\x04", "an archive (zip, or an Excel file)", "unpack it or export JSON lines"),
    (b"(\xb5/\xfd", "compressed (zstd)", "unpack it with `unzstd`"),
    (b"BZh", "compressed (bzip2)", "unpack it with `bunzip2`"),
    (b"PAR1", "a Parquet file", "export JSON lines"),
)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _encodable(row: JsonObject) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_messages(item: JsonObject, where: str) -> list[JsonObject]:
    """The item's messages, each with a known role and text."""
    if "messages" not in item:
        raise InputError(
            f'{where}: messages: is missing; add [{{"role": "user", "content": "..."}}]'
        )
    messages = item["messages"]
    if not isinstance(messages, list) or not messages:
        got = "an empty array" if messages == [] else _kind(messages)
        remedy = "add one"
        if isinstance(messages, str):
            remedy = 'write [{"role": "user", "content": "..."}] around the text'
        elif isinstance(messages, dict):
            remedy = "put the message in brackets: [{...}]"
        raise InputError(f"{where}: messages: expected an array of messages, got {got}; {remedy}")
    for index, message in enumerate(messages):
        _check_message(message, f"{where}: messages[{index}]")
    tools = item.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f"{where}: tools: expected an array of functions, got {_kind(tools)}")
    return messages


def _check_message(message: object, where: str) -> None:
    if not isinstance(message, dict):
        raise InputError(
            f"{where}: expected an object, got {_kind(message)}; "
            'write {"role": ..., "content": ...}'
        )
    if "role" not in message:
        raise InputError(f"{where}.role: is missing; use one of {', '.join(ROLES)}")
    if message["role"] not in ROLES:
        raise InputError(
            f"{where}.role: {json.dumps(message['role'])} is unknown; use one of {', '.join(ROLES)}"
        )
    content = message.get("content")
    if message.get("tool_calls") is not None:
        _check_calls(message, where)
        if content is None:
            return
    if content is None:
        raise InputError(f"{where}.content: is missing; a message needs text")
    if isinstance(content, str):
        return
    if not isinstance(content, list) or not content:
        raise InputError(
            f"{where}.content: expected text, got {_kind(content)}; write a string or an array of "
            '{"type": "text", "text": "..."}'
        )
    for index, part in enumerate(content):
        _check_part(part, f"{where}.content[{index}]")


def _check_calls(message: JsonObject, where: str) -> None:
    """The calls of tools in an assistant's message, in OpenAI's form."""
    calls, where = message["tool_calls"], f"{where}.tool_calls"
    if message["role"] != "assistant":
        raise InputError(f"{where}: only the assistant calls tools; remove them or change the role")
    if not isinstance(calls, list) or not calls:
        raise InputError(f"{where}: expected an array of calls, got {_kind(calls)}; remove it")
    for index, call in enumerate(calls):
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InputError(
                f'{where}[{index}]: write {{"type": "function", "function": {{"name": "...", '
                '"arguments": "{...}"}}'
            )
        if not isinstance(function.get("arguments"), str | dict | None):
            raise InputError(
                f"{where}[{index}].function.arguments: expected an object or its JSON as a string; "
                "correct it"
            )


def _check_part(part: object, where: str) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind.startswith(("image", "input_image")):
        raise InputError(
            f"{where}: images are not supported; describe it in text or remove the row"
        )
    if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
        raise InputError(
            f'{where}: only text parts are supported; write {{"type": "text", "text": "..."}}'
        )


def _kind(value: object) -> str:
    """What JSON calls the value's type."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), "a number")
