"""Graders over the network: `/v1/fine_tuning/alpha/graders/validate` and `/run`.

`Graders` asks a child process (`grader_process`), which has jax and the sandboxes. A child that
ends, or does not come back from a request in time, is replaced; what else it was doing is asked
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import sys
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.serve.bodies import Fields, read_json
from rft_jax.serve.errors import ApiError
from rft_jax.serve.frames import frame, receive_frame
from rft_jax.serve.grader_spec import SERVER_KEY_ENV, check_shape, resolve_judges

if TYPE_CHECKING:
    from rft_jax.serve.context import Context, ServeOptions
    from rft_jax.serve.models import Models
    from rft_jax.utils.types import JsonObject

_AT_ONCE = 8  # requests in the child, which has as many threads
_WAITING = 64  # requests for a place among them
_CHECK_S = 60.0  # for looking at a grader, the child's start included
_RUN_S = 60.0  # for grading, besides four times what Python may take
_TEXT_BYTES = 256 << 10
_PATH = re.compile(r"[\w.\[\]-]+")
_LOG = logging.getLogger(__name__)


class Graders:
    """Checks graders and grades with them, in a child process."""

    def __init__(self, options: ServeOptions, models: Models):
        self._options, self._models = options, models
        self._child: _Child | None = None
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._stopped = False

    async def start(self) -> None:
        """Starts the child, which is ready some seconds later."""
        await self._alive()

    async def stop(self) -> None:
        """Ends the child."""
        self._stopped = True
        if self._child:
            await self._child.stop()

    async def check(self, grader: object, param: str = "grader") -> JsonObject:
        """Looks whether a grader can be used.

        Args:
            grader: As it came.
            param: The dotted path of the grader in the body.

        Returns:
            The grader for the processes that grade, with the addresses of its judges.

        Raises:
            ApiError: 400, with the path inside of the grader.
        """
        spec = self._resolved(grader, param)
        await self._ask({"do": "check", "grader": spec}, param, _CHECK_S)
        return spec

    async def run(self, grader: object, text: str, item: JsonObject) -> JsonObject:
        """Grades an answer.

        Args:
            grader: As it came.
            text: The answer.
            item: The row that it answers.

        Returns:
            The answer to `/graders/run`.

        Raises:
            ApiError: 400, with the path inside of the grader.
        """
        spec = self._resolved(grader, "grader")
        request = {"do": "run", "grader": spec, "text": text, "item": item}
        return await self._ask(request, "grader", _RUN_S + 4 * self._options.python_timeout_s)

    def _resolved(self, grader: object, param: str) -> JsonObject:
        shape = check_shape(grader, param)
        url = server_url(self._options)
        return resolve_judges(shape, param, self._options.judge_url, url, self._is_served)

    def _is_served(self, model: str) -> bool:
        try:
            self._models.find(model)
        except ApiError:
            return False
        return True

    async def _ask(self, request: JsonObject, param: str, seconds: float) -> JsonObject:
        if self._waiting >= _WAITING:
            raise ApiError(
                429, "Too many graders are waiting; try again", headers={"retry-after": "2"}
            )
        self._waiting += 1
        try:
            async with self._places:
                reply = await self._ask_child(request, seconds)
        finally:
            self._waiting -= 1
        if "refused" in reply:
            raise _refusal(str(reply["refused"]), param)
        if "failed" in reply:
            _LOG.error("the grader process failed: %s", reply["failed"])
            raise ApiError(
                500, "The grader could not be run; the server's log says where it failed"
            )
        return reply["result"]

    async def _ask_child(self, request: JsonObject, seconds: float) -> JsonObject:
        for _ in range(3):  # another's grader may have ended the child, twice
            child = await self._alive()
            try:
                async with asyncio.timeout(seconds):  # wait_for of Python 3.11 may lose a `cancel`
                    return await child.ask(request)
            except TimeoutError:
                await child.stop()
                late = f"The grader took longer than {seconds:g} s; make it quicker"
                raise ApiError(400, late, param="grader") from None
            except _Ended:
                continue
        raise ApiError(500, "The process that grades ended each time; make the grader smaller")

    async def _alive(self) -> _Child:
        if self._stopped:
            raise ApiError(503, "The server is ending", headers={"retry-after": "5"})
        if self._child is None or self._child.ended:
            self._child = _Child(self._options)
        await self._child.started()
        return self._child


class _Ended(Exception):
    """The child ended before it replied."""


class _Child:
    """One child process."""

    def __init__(self, options: ServeOptions):
        self.ended = False
        self._options = options
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[JsonObject]] = {}
        self._starting = asyncio.ensure_future(self._start())
        self._reading: asyncio.Task[None] | None = None

    async def started(self) -> None:
        """Returns when there is a process, which may still be importing."""
        await asyncio.shield(self._starting)

    async def _start(self) -> asyncio.subprocess.Process:
        environment = os.environ | {"JAX_PLATFORMS": "cpu", SERVER_KEY_ENV: self._options.api_key}
        environment.pop("RFT_API_KEY", None)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "rft_jax.serve.grader_process",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is the server's, which ends its children in order
        )
        assert process.stdin is not None
        process.stdin.write(
            frame({"options": {"python_timeout_s": self._options.python_timeout_s}})
        )
        self._reading = asyncio.ensure_future(self._read(process))
        return process

    async def ask(self, request: JsonObject) -> JsonObject:
        """The reply to a request.

        Raises:
            _Ended: The process ended.
        """
        process = await asyncio.shield(self._starting)
        if self.ended:
            raise _Ended
        number = next(self._numbers)
        reply = self._replies[number] = asyncio.get_running_loop().create_future()
        assert process.stdin is not None
        try:
            process.stdin.write(frame({"id": number, **request}))
            await process.stdin.drain()
            return await reply
        except ConnectionError as error:
            raise _Ended from error
        finally:
            self._replies.pop(number, None)

    async def stop(self) -> None:
        """Ends the process."""
        process = await asyncio.shield(self._starting)
        self.ended = True
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            while True:
                reply = await receive_frame(process.stdout)
                waiting = self._replies.get(reply["id"])
                if waiting and not waiting.done():
                    waiting.set_result(reply)
        except asyncio.IncompleteReadError:
            pass
        self.ended = True
        await process.wait()
        for waiting in list(self._replies.values()):
            if not waiting.done():
                waiting.set_exception(_Ended())


def server_url(options: ServeOptions) -> str:
    """Where this server's own processes find its API."""
    host = options.host
    if host in ("0.0.0.0", "::", ""):  # these are listened at, but are no address to go to
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{options.port}/v1"


def _refusal(sentence: str, param: str) -> ApiError:
    """The error for a sentence of `load_grader`, which begins with a path in the grader; or for one
    on the item."""
    path, colon, _ = sentence.partition(": ")
    if path.startswith("item, line 1"):
        return ApiError(400, sentence.replace("item, line 1", "item", 1), param="item")
    if colon and _PATH.fullmatch(path):
        return ApiError(400, f"{param}.{sentence}", param=f"{param}.{path}")
    return ApiError(400, f"{param}: {sentence}", param=param)


async def _validate(request: Request) -> Response:
    body = await read_json(request)
    grader = Fields(body).required("grader")
    await _graders(request).check(grader)
    return JSONResponse({"grader": grader})


async def _run(request: Request) -> Response:
    fields = Fields(await read_json(request))
    grader = fields.required("grader")
    fields.required("model_sample")
    text = fields.string("model_sample") or ""
    if len(text.encode()) > _TEXT_BYTES:
        raise fields.refusal("model_sample", f"is longer than {_TEXT_BYTES >> 10} KiB; shorten it")
    item = fields.section("item")
    return JSONResponse(await _graders(request).run(grader, text, item.values if item else {}))


def _graders(request: Request) -> Graders:
    context: Context = request.app.state.context
    return context.graders


def routes(context: Context) -> list[BaseRoute]:
    """The routes of graders."""
    del context  # the requests have it
    base = "/v1/fine_tuning/alpha/graders"
    return [
        Route(f"{base}/validate", _validate, methods=["POST"]),
        Route(f"{base}/run", _run, methods=["POST"]),
    ]
