"""Recording: what a model behind an API in OpenAI's format answers to the items of a file.

An old model's answers, asked for while it lives, are what a new one can be compared with: the file
has an answer an item, in their order, as `EvalStage.baselines`, `rft eval --answers` and `rft grade
--answers` read it. While it grows it is FILE.part, whose first line says what is recorded; the same
command goes on with what is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rft_jax.data.items import load_items
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError, RunFailed
from rft_jax.utils.files import write_atomically
from rft_jax.utils.types import JsonObject

if TYPE_CHECKING:
    import openai

RETRIES = 8  # of a request, by the client, with pauses that grow to 8 s or as the server asks
_REQUEST_S = 600.0
_TELL_S = 5.0  # between two lines of progress
_KEPT = ("role", "content", "name", "tool_calls", "tool_call_id")


@dataclass(frozen=True)
class Recording:
    """What is asked of whom.

    Attributes:
        model: As the server calls it.
        base_url: The server's, with /v1; "" for OPENAI_BASE_URL, or else OpenAI's own.
        temperature: None for the server's default; so for the others.
        reasoning_effort: One of the server's.
        response_format: As in a request.
        max_completion_tokens: Thought included.
    """

    model: str
    base_url: str = ""
    temperature: float | None = None
    reasoning_effort: str | None = None
    response_format: JsonObject | None = None
    max_completion_tokens: int | None = None

    @property
    def parameters(self) -> JsonObject:
        """Those of a request besides its messages."""
        fields = asdict(self)
        del fields["base_url"]
        return {name: value for name, value in fields.items() if value is not None}


def record(recording: Recording, data_file: Path, out: Path, at_once: int = 8) -> int:
    """Records an answer an item.

    Args:
        recording: What is asked.
        data_file: The items, as JSON lines.
        out: The file of answers.
        at_once: Requests under way at once.

    Returns:
        How many answers the server refused to give; they are recorded as empty.

    Raises:
        InputError: A file or the key cannot be used, or the server takes neither key nor model.
        RunFailed: The server gave no answer for all retries; what is recorded stays.
    """
    items = load_items(data_file)
    journal = _Journal(out, recording, data_file, len(items))
    rows = journal.rows
    if rows:
        log(f"{len(rows)} of {len(items)} answers are recorded already")
    left = [n for n in range(1, len(items) + 1) if n not in rows]
    if left:
        with journal.open() as file:
            asyncio.run(_record(recording, items, left, rows, file, at_once))
    journal.finish()
    return sum(bool(row.get("refusal")) for row in rows.values())


async def _record(
    recording: Recording,
    items: Sequence[JsonObject],
    left: Sequence[int],
    rows: dict[int, JsonObject],
    file: IO[str],
    at_once: int,
) -> None:
    """Asks about the items that are left, the first alone: it shows whether key and model do."""
    told = time.monotonic()
    async with _client(recording.base_url) as client:
        for numbers in (left[:1], left[1:]):
            async for n, row in _ask_all(client, recording, items, numbers, at_once, bool(rows)):
                rows[n] = row
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                if time.monotonic() - told > _TELL_S:
                    told = time.monotonic()
                    log(f"{len(rows)} of {len(items)} answers recorded")


async def _ask_all(
    client: openai.AsyncOpenAI,
    recording: Recording,
    items: Sequence[JsonObject],
    numbers: Sequence[int],
    at_once: int,
    works: bool,
) -> AsyncIterator[tuple[int, JsonObject]]:
    """The answers as they come, with the items' numbers."""
    waiting = iter(numbers)
    running: dict[asyncio.Task[JsonObject], int] = {}
    try:
        while True:
            for n in itertools.islice(waiting, at_once - len(running)):
                running[asyncio.ensure_future(_ask(client, recording, items[n - 1], n, works))] = n
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()


async def _ask(
    client: openai.AsyncOpenAI, recording: Recording, item: JsonObject, n: int, works: bool
) -> JsonObject:
    """The row of one item.

    Args:
        works: Whether the server has answered before: then a 400 is about this item.
    """
    import openai

    messages = [{k: v for k, v in m.items() if k in _KEPT} for m in item["messages"]]
    try:
        answer = await client.post(
            "/chat/completions",
            body={"messages": messages, **recording.parameters},
            cast_to=object,
        )
    except (openai.AuthenticationError, openai.PermissionDeniedError):
        # The server's own sentence may repeat the key.
        raise InputError(
            "the server does not take the key; set OPENAI_API_KEY to its own"
        ) from None
    except openai.NotFoundError as error:
        raise InputError(f"--model {recording.model}: {_sentence(error)}") from None
    except openai.BadRequestError as error:
        if not works:
            raise InputError(f"line {n}: the server refuses it: {_sentence(error)}") from None
        return {"item": n, "output_text": "", "refusal": _sentence(error)}
    except openai.APIError as error:
        raise RunFailed(
            f"line {n}: no answer after {RETRIES} retries ({_sentence(error)}); start the same "
            "command to go on"
        ) from None
    return _row(answer, n)


def _row(answer: object, n: int) -> JsonObject:
    """A completion as it is recorded; a cut one as it is."""
    try:
        assert isinstance(answer, dict)
        choice = answer["choices"][0]
        message = choice["message"]
        content, refusal = message.get("content"), message.get("refusal")
        row = {"item": n, "output_text": content if isinstance(content, str) else ""}
        row |= {"model": answer.get("model"), "finish_reason": choice.get("finish_reason")}
        row["usage"] = answer.get("usage")
    except (AssertionError, LookupError, TypeError, AttributeError):
        raise RunFailed(
            f"line {n}: the server's answer is no chat completion; look at --base-url"
        ) from None
    return row | ({"refusal": refusal} if refusal else {})


def _sentence(error: openai.APIError) -> str:
    """What a server said, without what it may have repeated of the request's head."""
    text = " ".join(str(error.message).split())[:300]
    key = os.environ.get("OPENAI_API_KEY")
    return text.replace(key, "...") if key else text


def _client(base_url: str) -> openai.AsyncOpenAI:
    try:
        import openai
    except ImportError:
        raise InputError("rft record needs openai; pip install 'rft_jax[serve]'") from None
    try:
        return openai.AsyncOpenAI(
            base_url=base_url or None, max_retries=RETRIES, timeout=_REQUEST_S
        )
    except openai.OpenAIError:
        raise InputError("there is no key; set OPENAI_API_KEY to the server's") from None


class _Journal:
    """The file while it grows.

    Attributes:
        rows: By the number of their item what is recorded.
    """

    def __init__(self, out: Path, recording: Recording, data_file: Path, items: int):
        self._out, self._part = out, out.with_name(out.name + ".part")
        digest = hashlib.sha256(data_file.read_bytes()).hexdigest()
        self._head = {"recording": recording.parameters, "data": digest, "items": items}
        if out.exists():
            raise InputError(f"--out {out}: exists; name another file, or remove it")
        self.rows: dict[int, JsonObject] = self._read() if self._part.exists() else {}

    def _read(self) -> dict[int, JsonObject]:
        """What an earlier command recorded; a line that a kill cut short is not counted."""
        lines = self._part.read_text(encoding="utf-8").split("\n")[:-1]
        head = json.loads(lines[0]) if lines else self._head
        if head != self._head:
            raise InputError(
                f"{self._part}: is of another model, other settings or other data; remove it, or "
                "name another --out"
            )
        return {row["item"]: row for row in map(json.loads, lines[1:])}

    def open(self) -> IO[str]:
        """The file, to be written on; what is there is written anew, whole."""
        rows = [self._head, *self.rows.values()]
        try:
            write_atomically(self._part, _lines(rows))
            return self._part.open("a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"--out {self._out}: cannot be written ({error.strerror}); name another file"
            ) from None

    def finish(self) -> None:
        """Writes the file, in the items' order."""
        write_atomically(self._out, _lines([self.rows[n] for n in sorted(self.rows)]))
        self._part.unlink(missing_ok=True)


def _lines(rows: Sequence[JsonObject]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
