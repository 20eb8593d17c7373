"""Routes that answer prompts: `/v1/chat/completions` and `/v1/responses`.

They check parameters and write OpenAI's formats; the engine answers. With `--inference-url` chats
are passed on to another server instead.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from rft_jax.serve import chat, responses
from rft_jax.serve.ask import Answers, Ask
from rft_jax.serve.bodies import read_json
from rft_jax.serve.context import Context
from rft_jax.serve.errors import ApiError, error_body
from rft_jax.serve.pass_on import pass_on

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

_CLOSED_REQUEST = 499  # nobody reads it
_OWN_PARAMS = {"response_format.json_schema": "text.format", "response_format": "text.format"}

T = TypeVar("T")


def routes(context: Context) -> list[BaseRoute]:
    """The routes of this module."""

    async def chat_completions(request: Request) -> Response:
        values = await read_json(request)
        ask = _with_path(context, chat.read_chat(values))
        if context.options.inference_url:
            return await pass_on(context.options.inference_url, request, values)
        if not ask.streams:
            return await _whole(request, context, ask, chat.completion)
        chunks = chat.Chunks(ask)

        def failed(error: ApiError) -> JsonObject:
            return dict(error_body(error))

        return await _stream(context, ask, chunks.of, failed, _data, "data: [DONE]\n\n")

    async def create_response(request: Request) -> Response:
        ask = _with_path(context, responses.read_response(await read_json(request)))
        response = responses.Response(ask)
        with _own_params():
            if ask.streams:
                return await _stream(context, ask, response.events, response.failed, _event, "")
            return await _whole(request, context, ask, lambda _, answers: response.of(answers))

    return [
        Route("/v1/chat/completions", chat_completions, methods=["POST"]),
        Route("/v1/responses", create_response, methods=["POST"]),
    ]


@contextlib.contextmanager
def _own_params() -> Iterator[None]:
    """Names parameters of responses where the engine names those of chat."""
    try:
        yield
    except ApiError as error:
        if error.param == "messages":
            error.param = "input"
        elif error.param is not None:
            for theirs, ours in _OWN_PARAMS.items():
                error.param = error.param.replace(theirs, ours)
                error.message = error.message.replace(theirs, ours)
        raise


def _with_path(context: Context, ask: Ask) -> Ask:
    """The question with the model's path."""
    path = context.models.find(ask.model).path
    return dataclasses.replace(ask, request=dataclasses.replace(ask.request, path=path))


async def _whole(
    request: Request, context: Context, ask: Ask, write: Callable[[Ask, Answers], JsonObject]
) -> Response:
    """The answer when it is complete."""

    async def collect() -> Answers:
        answers = Answers.to(ask.request)
        async with contextlib.aclosing(context.engine.answer(ask.request)) as events:
            async for event in events:
                answers.take(event)
        return answers

    answers = await _unless_left(request, collect())
    if answers is None:
        return Response(status_code=_CLOSED_REQUEST)
    return JSONResponse(write(ask, answers))


async def _unless_left(request: Request, work: Coroutine[object, object, T]) -> T | None:
    """The result of some work, which is given up when the client leaves; None then."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    context: Context,
    ask: Ask,
    write: Callable[[JsonObject], Iterable[JsonObject]],
    failed: Callable[[ApiError], JsonObject],
    encode: Callable[[JsonObject], str],
    end: str,
) -> Response:
    """The answer as server-sent events; what is refused before the first is a plain error."""
    events = context.engine.answer(ask.request)
    first = await anext(events)

    async def body() -> AsyncGenerator[str]:
        async with contextlib.aclosing(events):
            try:
                for part in write(first):
                    yield encode(part)
                async for event in events:
                    if "begin" in event:  # of the engine's next process
                        continue
                    for part in write(event):
                        yield encode(part)
            except ApiError as error:
                yield encode(failed(error))
                return
        if end:
            yield end

    headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def _data(part: JsonObject) -> str:
    return f"data: {json.dumps(part)}\n\n"


def _event(part: JsonObject) -> str:
    return f"event: {part['type']}\ndata: {json.dumps(part)}\n\n"
