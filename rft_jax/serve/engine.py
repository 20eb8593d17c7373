"""The engine as the server sees it: `Engine.answer` asks a child process that has the device.

The child (`engine_process`) is started with the server, and again whenever it ends. A request of
which nothing has been handed out yet is then asked once more; others end with a 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rft_jax.serve.errors import ApiError
from rft_jax.serve.frames import frame, receive_frame

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

_log = logging.getLogger("rft_jax.engine")

MOST_WAITING = 2048  # samples, of all requests together
GPU_MEMORY_FRACTION = "0.3"  # a training beside it takes the rest
_SHORT = 20.0  # seconds; an engine that ends sooner has failed
_MOST_FAILURES = 3  # in a row, after which there is a pause
_PAUSE = 5.0  # seconds


@dataclass(frozen=True)
class AnswerRequest:
    """What a client asks, checked.

    Attributes:
        path: The model, as for `open_model`.
        messages: The conversation in OpenAI's format, contents as text.
        samples: How many answers, n.
        seed: 0 to 2**64 - 1.
        limit: Tokens of an answer with its thought; None: as the model was trained.
        stops: Texts that end an answer.
        top: Alternatives whose log-probabilities are told; None: no log-probabilities.
        streams: Whether parts of answers are wanted before their end.
        format: OpenAI's `response_format`, json_schema or json_object; None: text.
        effort: OpenAI's `reasoning_effort`; "": as the model was trained.
    """

    path: Path
    messages: Sequence[JsonObject]
    samples: int = 1
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    limit: int | None = None
    stops: Sequence[str] = ()
    top: int | None = None
    streams: bool = False
    format: Mapping[str, object] | None = None
    effort: str = ""


@dataclass
class _Pending:
    """A request that is being answered."""

    message: JsonObject
    samples: int
    events: asyncio.Queue[JsonObject] = field(default_factory=asyncio.Queue)
    answered: bool = False  # a part of an answer has been handed out
    tries: int = 1


class Engine:
    """A child process that answers.

    Args:
        load: Paths of models that are loaded at the start already.
        environment: That of the child, which may use the devices; None: this process's.
    """

    def __init__(self, load: Sequence[Path] = (), environment: Mapping[str, str] | None = None):
        self._load = [str(path) for path in load]
        self._environment = _environment(os.environ if environment is None else environment)
        self._pending: dict[int, _Pending] = {}
        self._numbers = itertools.count(1)
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.Task[None] | None = None
        self._down = False  # it ends again and again

    async def start(self) -> None:
        """Starts the child; answers wait until it is ready."""
        self._watch = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Ends the child; who still waits gets a 503."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._end_process()
        self._fail(list(self._pending))

    @property
    def pid(self) -> int | None:
        """The child's process id; None while there is none."""
        return None if self._process is None else self._process.pid

    async def answer(self, request: AnswerRequest) -> AsyncGenerator[JsonObject]:
        """Asks, and gives events as they come; leaving the iterator cancels the request.

        Yields:
            `{"begin": {"prompt", "fingerprint"}}` once; `{"sample", "text"}` for parts of answers,
            with `tokens` where log-probabilities are wanted and `finish` at the last of a sample;
            `{"done", "usage": {"completion", "reasoning"}}` at the end.

        Raises:
            ApiError: 400 for what the model cannot do, 429 and 503 with `retry-after`.
        """
        waiting = sum(pending.samples for pending in self._pending.values())
        if waiting and waiting + request.samples > MOST_WAITING:
            raise ApiError(
                429,
                "Too many requests are waiting for an answer; try again in some seconds",
                code="rate_limit_exceeded",
                headers={"retry-after": "2"},
            )
        if self._down:
            raise _unavailable()
        number = next(self._numbers)
        message = _message(number, request)
        pending = self._pending[number] = _Pending(message, request.samples)
        self._send(message)
        try:
            while True:
                event = await pending.events.get()
                if (error := event.get("error")) is not None:
                    raise _api_error(error)
                pending.answered |= "sample" in event
                yield event
                if "done" in event:
                    return
        finally:
            if self._pending.pop(number, None) is not None:
                self._send({"cancel": number})

    def _send(self, message: JsonObject) -> None:
        if self._writer is not None:
            self._writer.write(frame(message))

    async def _keep_running(self) -> None:
        """Starts the child whenever there is none."""
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._run_once()
            except OSError:
                _log.exception("the engine cannot be started")
            await self._end_process()
            self._again()
            _log.warning("the engine has ended; starting it again")
            failures = failures + 1 if time.monotonic() - began < _SHORT else 0
            if failures >= _MOST_FAILURES:
                self._down = True
                self._fail(list(self._pending))
                await asyncio.sleep(_PAUSE)
                self._down = False

    async def _run_once(self) -> None:
        """Starts the child and hands out its events until it ends."""
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "rft_jax.serve.engine_process", str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, env=self._environment,
            )  # fmt: skip
        finally:
            theirs.close()
        reader, self._writer = await asyncio.open_connection(sock=ours)
        for path in self._load:
            self._send({"load": path})
        for pending in self._pending.values():
            self._send(pending.message)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                for event in (await receive_frame(reader))["events"]:
                    if (pending := self._pending.get(event["id"])) is not None:
                        pending.events.put_nowait(event)

    async def _end_process(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if (process := self._process) is not None:
            self._process = None
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # it has nothing to save
            await process.wait()

    def _again(self) -> None:
        """Prepares what nothing has been handed out of for the next child; the rest fails."""
        lost = []
        for number, pending in self._pending.items():
            parts = [event for event in _drained(pending.events) if "sample" in event]
            if pending.answered or parts or pending.tries > 1:
                lost.append(number)
            pending.tries += 1
        self._fail(lost)

    def _fail(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            message = "The engine ended before the answer was complete; try again"
            error = {"status": 503, "message": message, "param": None, "code": None}
            if (pending := self._pending.pop(number, None)) is not None:
                pending.events.put_nowait({"error": error})


def _message(number: int, request: AnswerRequest) -> JsonObject:
    return {
        "id": number,
        "path": str(request.path),
        "messages": list(request.messages),
        "samples": request.samples,
        "seed": request.seed,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "limit": request.limit,
        "stops": list(request.stops),
        "top": request.top,
        "streams": request.streams,
        "format": request.format,
        "effort": request.effort,
    }


def _drained(events: asyncio.Queue[JsonObject]) -> list[JsonObject]:
    found = []
    while not events.empty():
        found.append(events.get_nowait())
    return found


def _api_error(error: Mapping[str, object]) -> ApiError:
    status = error["status"]
    assert isinstance(status, int), "the engine's own"
    headers = {"retry-after": "2"} if status == 503 else None
    param, code = error["param"], error["code"]
    return ApiError(
        status,
        str(error["message"]),
        param=None if param is None else str(param),
        code=None if code is None else str(code),
        headers=headers,
    )


def _unavailable() -> ApiError:
    return ApiError(
        503,
        "The engine that answers does not start; see the server's log",
        headers={"retry-after": "5"},
    )


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The child's environment.

    A process takes the chips of a TPU for itself, which a training needs; so the engine answers
    from the CPU there. On a GPU the two share the memory.
    """
    environment = dict(given)
    environment.pop("RFT_API_KEY", None)
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    if chips:
        environment["JAX_PLATFORMS"] = "cpu"
    environment.setdefault("XLA_CLIENT_MEM_FRACTION", GPU_MEMORY_FRACTION)
    return environment
