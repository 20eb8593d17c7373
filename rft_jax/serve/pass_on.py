"""Chats that another server answers, such as vLLM's: requests and answers as they are.

The server has to know the model under the same name, a LoRA adapter or an exported checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from rft_jax.serve.errors import ApiError

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

_PATIENCE = httpx.Timeout(600.0, connect=10.0)  # seconds


async def pass_on(url: str, request: Request, values: JsonObject) -> Response:
    """Asks the other server, and gives its answer.

    Args:
        url: Its base, which ends before `/chat/completions`.
        request: What came.
        values: The body of it.

    Raises:
        ApiError: 502 where it cannot be reached, or what it refuses.
    """
    del request
    stack = contextlib.AsyncExitStack()
    client = await stack.enter_async_context(httpx.AsyncClient(timeout=_PATIENCE))
    target = f"{url.rstrip('/')}/chat/completions"
    try:
        answer = await stack.enter_async_context(client.stream("POST", target, json=values))
    except httpx.HTTPError as error:
        await stack.aclose()
        raise ApiError(502, f"The server of --inference-url does not answer ({error})") from error

    async def body() -> AsyncIterator[bytes]:
        async with stack:
            async for part in answer.aiter_bytes():
                yield part

    kind = answer.headers.get("content-type", "application/json")
    return StreamingResponse(body(), answer.status_code, media_type=kind)
