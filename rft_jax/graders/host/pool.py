"""Warm workers that grade in Python: started once, asked side by side, replaced when they fail.

with WorkerPool(source, options) as pool:
    outcomes = pool.grade(requests)
"""

import contextlib
import functools
import json
import os
import queue
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rft_jax.config import HostOptions
from rft_jax.graders.host.payload import finite_number
from rft_jax.graders.host.sandbox import (
    NO_SANDBOX,
    SCRATCH,
    Sandbox,
    library_paths,
    start_unsandboxed,
)
from rft_jax.utils.errors import InputError

_SCRIPT = Path(__file__).with_name("worker.py")
_START_S = 120.0  # for importing the libraries that the source names
_GRACE_S = 15.0  # beyond the time for a sample, to tidy up after it
_MESSAGE_BYTES = 1 << 20  # of the longest message that a worker may send


class Outcome(NamedTuple):
    """What came of grading one sample.

    Attributes:
        score: Finite as a float32; 0 if there is an error.
        error: A name of `types.ERRORS`, or empty.
        message: What went wrong, for people; empty if nothing did.
        seconds: The time that grading took.
    """

    score: float
    error: str = ""
    message: str = ""
    seconds: float = 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerPool:
    """Workers that grade with one source; a context manager.

    Entering it raises InputError where Python cannot be isolated, which names the remedy.
    """

    def __init__(self, source: str, options: HostOptions):
        self._source = source
        self._options = options

    def __enter__(self) -> "WorkerPool":
        with contextlib.ExitStack() as stack:
            slots = self._slots(stack)
            # A sandbox ends with the thread that started it: these last as long as the pool.
            self._threads = ThreadPoolExecutor(len(slots))
            for slot in slots:
                stack.callback(slot.stop)
            stack.callback(self._threads.shutdown, cancel_futures=True)
            for slot in slots:
                stack.callback(slot.close)
            self._idle: queue.SimpleQueue[_Slot] = queue.SimpleQueue()
            for slot, _ in zip(slots, self._threads.map(_Slot.start, slots), strict=True):
                self._idle.put(slot)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.close()

    def grade(self, requests: Sequence[bytes]) -> list[Outcome]:
        """Grades samples; one that fails fails alone, without raising.

        Args:
            requests: For each a line of JSON with `sample` and `item`, the arguments of `grade`.
        """
        return list(self._threads.map(self._grade_one, requests))

    def _grade_one(self, request: bytes) -> Outcome:
        slot = self._idle.get()
        began = time.monotonic()
        try:
            answer = slot.ask(request, self._options.python_timeout_s + _GRACE_S)
        except _Lost as error:
            seconds = time.monotonic() - began
            return Outcome(0.0, "python_grader_server_error", f"sandbox: {error}", seconds)
        finally:
            self._idle.put(slot)
        return _judge(answer, self._options.python_timeout_s)

    def _slots(self, stack: contextlib.ExitStack) -> list["_Slot"]:
        numbers = range(self._options.workers or min(16, _cores()))
        if self._options.sandbox:
            sandbox = Sandbox(_SCRIPT)
            setup = self._setup(SCRATCH, sandbox.packages)
            return [_Slot(functools.partial(sandbox.start, n), setup) for n in numbers]
        slots = []
        for _ in numbers:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            start = functools.partial(start_unsandboxed, _SCRIPT, folder)
            slots.append(_Slot(start, self._setup(folder, library_paths())))
        return slots

    def _setup(self, scratch: str, path: Sequence[str]) -> dict[str, Any]:
        return {
            "source": self._source,
            "path": path,
            "scratch": scratch,
            "timeout_s": self._options.python_timeout_s,
        }


class _Lost(Exception):
    """A worker ended, hangs or does not keep to the protocol."""


class _Slot:
    """A place in the pool: one worker at a time, the next when it cannot go on."""

    def __init__(self, launch: Callable[[], subprocess.Popen[bytes]], setup: Mapping[str, Any]):
        self._launch = launch
        self._setup = json.dumps(setup).encode()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()  # no worker is started in a slot that is closed

    def start(self) -> None:
        """Starts the worker.

        Raises:
            InputError: it does not start; naming the remedy.
        """
        try:
            with self._lock:
                if self._closed:
                    raise _Lost("the pool is closed")
                self._process = self._launch()
            _exchange(self._process, self._setup, _START_S)
        except (_Lost, OSError) as error:
            said = _ended(self._process) if self._process else ""
            raise InputError(
                f"a worker for python graders does not start ({said or error}); to isolate it, "
                "allow user namespaces with `sysctl -w user.max_user_namespaces=10000`, on Ubuntu "
                "also `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, in a container "
                f"start that with --privileged, {NO_SANDBOX}"
            ) from None

    def ask(self, request: bytes, timeout_s: float) -> dict[str, Any]:
        """The worker's answer to a request.

        Raises:
            _Lost: there is none; the next request finds another worker.
        """
        try:
            if not self._process:
                self.start()
            answer = _exchange(self._process, request, timeout_s)
        except InputError as error:
            self.stop()
            raise _Lost(str(error)) from None
        except _Lost:
            self.stop()
            raise
        if answer.get("last"):
            self.stop()
        return answer

    def close(self) -> None:
        """Ends the worker for good; whoever waits for its answer will know."""
        with self._lock:
            self._closed = True
            if self._process:
                self._process.kill()

    def stop(self) -> None:
        """Ends the worker and frees what it took; not while another thread waits for it."""
        process, self._process = self._process, None
        if process:
            _ended(process)


def _ended(process: subprocess.Popen[bytes]) -> str:
    """Ends a process and all in its sandbox; the last of what it wrote to standard error."""
    process.kill()
    _, said = process.communicate()
    return said.decode(errors="replace").strip()[-300:]


def _exchange(process: subprocess.Popen[bytes], request: bytes, timeout_s: float) -> dict[str, Any]:
    """Sends a line and waits for one.

    Raises:
        _Lost: none comes in time, or it is not an object.
    """
    unsent, answer = memoryview(request + b"\n"), b""
    deadline = time.monotonic() + timeout_s
    with selectors.DefaultSelector() as selector:
        for stream, event in (
            (process.stdin, selectors.EVENT_WRITE),
            (process.stdout, selectors.EVENT_READ),
        ):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, event)
        while not answer.endswith(b"\n"):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _Lost(f"the worker did not answer within {timeout_s:g} s")
            for key, _ in ready:
                if key.fileobj is process.stdin:
                    unsent = unsent[_write(key.fd, unsent) :]
                    if not unsent:
                        selector.unregister(process.stdin)
                    continue
                chunk = os.read(key.fd, 1 << 16)
                answer += chunk
                if not chunk or len(answer) > _MESSAGE_BYTES:
                    raise _Lost("the worker ended" if not chunk else "the worker says too much")
    return _object(answer)


def _write(descriptor: int, content: memoryview) -> int:
    try:
        return os.write(descriptor, content)
    except BrokenPipeError:
        raise _Lost("the worker ended") from None


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _Lost("the worker does not speak JSON")
    return value


def _judge(answer: Mapping[str, Any], timeout_s: float) -> Outcome:
    """What a worker's answer comes to; what is in the reply is the graded code's own word."""
    seconds = float(answer.get("seconds", 0.0))

    def failed(message: str) -> Outcome:
        return Outcome(0.0, "python_grader_runtime_error", message, seconds)

    match answer.get("end"):
        case "whole":
            pass
        case "timeout":
            return failed(f"grade took longer than {timeout_s:g} s")
        case "too long":
            return failed("grade wrote to the worker's pipe")
        case _:
            return failed(f"grade ended its process (status {answer.get('status')})")
    try:
        reply = _object(str(answer.get("reply")).encode("latin-1"))
    except (_Lost, UnicodeEncodeError):
        reply = {}
    if isinstance(reply.get("error"), str):
        return failed(reply["error"])
    score = finite_number(reply.get("score"))
    if score is None:
        return failed("grade wrote to the worker's pipe, or returned more than float32 can hold")
    return Outcome(score, seconds=seconds)
