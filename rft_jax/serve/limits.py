"""What stands between the network and the routes: the key, limits on bodies, headers, the log.

`middleware` is what an application gets around its routes. In this order: every answer has its own
request id, its time and OpenAI's shape; then the key is looked at, before anything of the body is
read and whatever the route; then the bytes of the body are counted as they come.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import time
import traceback
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rft_jax.serve.bodies import JSON_LIMIT, too_large
from rft_jax.serve.errors import ApiError, error_response

OPENAI_VERSION = "2020-10-01"
TOKEN_HEADER = "x-rft-token"
_FILES = "/v1/files"
_FORM_BYTES = 64 << 10  # of a form besides its file
_MOST_AT_ONCE = 512  # requests; what waits for the engine has a limit of its own
_LONGEST_CLIENT_ID = 512  # characters, OpenAI's
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOGGED = 200  # characters of a path
_LOG = logging.getLogger(__name__)


def middleware(key: str, max_file_bytes: int) -> list[Middleware]:
    """The middlewares of an application, outermost first.

    Args:
        key: What clients have to show.
        max_file_bytes: The largest file that is taken.
    """
    return [
        Middleware(Answers),
        Middleware(Key, key=key),
        Middleware(BodyLimit, max_file_bytes=max_file_bytes),
    ]


def page_token(key: str) -> str:
    """What a page sends with its POSTs, which a page of somebody else's cannot know: a browser
    sends the password by itself, whoever asks it to."""
    return hmac.new(key.encode(), b"pages of rft serve", hashlib.sha256).hexdigest()


class Answers:
    """Gives every answer its headers and every failure its shape, and writes the log.

    The log has method, path, status, time and request id; no headers, queries or bodies, and of
    exceptions the place without the message, which may quote what a client sent.
    """

    def __init__(self, app: ASGIApp):
        self._app = app
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, request_id, status = time.monotonic(), f"req_{uuid.uuid4().hex}", 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(_milliseconds(began))
                headers["openai-version"] = OPENAI_VERSION
                headers.setdefault("x-content-type-options", "nosniff")
                headers.setdefault("cache-control", "no-store")
            await send(message)

        self._running += 1
        try:
            await self._answer(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = status or 499  # as nginx calls it: nobody is there to be answered
        except Exception as error:
            _LOG.error("%s: %s\n%s", request_id, type(error).__name__, _frames(error))
            if not status:
                failure = ApiError(500, f"The server had an error; its log has {request_id}")
                await error_response(failure)(scope, receive, send_with_headers)
        finally:
            self._running -= 1
            path = (scope.get("raw_path") or b"").decode("ascii", "replace")[:_LOGGED]
            took = _milliseconds(began)
            _LOG.info("%s %s %d %d ms %s", scope["method"], path, status, took, request_id)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._running > _MOST_AT_ONCE:
            busy = ApiError(503, "Too many requests at once; try again", headers=_LATER)
            await error_response(busy)(scope, receive, send)
            return
        await self._app(scope, receive, send)


_LATER = {"retry-after": "1"}


def _milliseconds(began: float) -> int:
    return round(1000 * (time.monotonic() - began))


def _frames(error: BaseException) -> str:
    """Where an exception comes from, and what it was raised for."""
    lines: list[str] = []
    found: BaseException | None = error
    while found is not None and len(lines) < 100:
        lines += [f"{type(found).__name__}\n", *traceback.format_tb(found.__traceback__)]
        found = found.__cause__ or found.__context__
    return "".join(lines).rstrip()


class Key:
    """Lets in who has the key: `Authorization: Bearer KEY`, or as the password of HTTP Basic.

    Basic is for browsers, which send it by themselves, whatever page made them ask: with it, what
    changes something needs the token of our own pages besides.
    """

    def __init__(self, app: ASGIApp, key: str):
        assert key, "a server without a key would be open to all"
        self._app = app
        self._digest = _digest(key.encode())
        self._token = _digest(page_token(key).encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if refusal := self._refusal(scope):
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        scheme, shown = scheme.lower(), shown.strip()
        if not shown:
            return self._unauthorized(scope, "You did not show an API key; send Authorization")
        basic = scheme == "basic"
        key = _password(shown) if basic else shown.encode("latin-1", "replace")
        if scheme not in ("basic", "bearer") or not self._is(key, self._digest):
            return self._unauthorized(scope, "The API key is not right; look at the server's own")
        if basic and scope["method"] not in _SAFE:
            token = headers.get(TOKEN_HEADER, "").encode("latin-1", "replace")
            if not self._is(token, self._token):
                return ApiError(403, "This needs a page of this server; load the page again")
        client_id = headers.get("x-client-request-id", "")
        if not client_id.isascii() or len(client_id) > _LONGEST_CLIENT_ID:
            return ApiError(
                400, f"X-Client-Request-Id must be ASCII, at most {_LONGEST_CLIENT_ID} characters"
            )
        return None

    @staticmethod
    def _is(given: bytes, digest: bytes) -> bool:
        """Digests are compared, so that the time tells nothing, not even a length."""
        return hmac.compare_digest(_digest(given), digest)

    @staticmethod
    def _unauthorized(scope: Scope, message: str) -> ApiError:
        # Told of Basic, a browser shows the password it has, or asks for it; clients of the API are
        # not told, but our pages are when they call the API.
        api = scope["path"].startswith("/v1") and TOKEN_HEADER not in Headers(scope=scope)
        challenge = "Bearer" if api else 'Basic realm="rft serve", charset="UTF-8"'
        return ApiError(
            401, message, code="invalid_api_key", headers={"www-authenticate": challenge}
        )


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _password(shown: str) -> bytes:
    """The password out of the credentials of HTTP Basic; empty if they are none."""
    try:
        return base64.b64decode(shown, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""


class BodyLimit:
    """Refuses bodies that are too large: by the length that is announced, or when so much came."""

    def __init__(self, app: ASGIApp, max_file_bytes: int):
        self._app = app
        self._max_file_bytes = max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            await error_response(too_large(limit))(scope, receive, send)
            return
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise too_large(limit)
            return message

        await self._app(scope, counted, send)

    def _limit(self, scope: Scope) -> int:
        if scope["path"].rstrip("/") == _FILES:
            return self._max_file_bytes + _FORM_BYTES
        return JSON_LIMIT
