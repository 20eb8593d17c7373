"""Errors as OpenAI's API has them: one JSON shape for every status.

Handlers raise `ApiError`; `exception_handlers` turns it, and what Starlette's router raises, into
`{"error": {"message", "type", "param", "code"}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

if TYPE_CHECKING:
    from starlette.types import ExceptionHandler


class ApiError(Exception):
    """A request that is refused; the message is one sentence for the client.

    Attributes:
        status: The HTTP status, from 400 on.
        message: What is wrong and what to do; without paths of this machine.
        param: The dotted path of the field in the body, or the name of a query parameter.
        code: OpenAI's word for this error, if it has one.
        headers: Headers of the answer besides the usual ones.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})


def unknown_model(name: str) -> ApiError:
    """A model that is not served."""
    return ApiError(
        404,
        f"The model {name!r} does not exist here; GET /v1/models lists those that do",
        param="model",
        code="model_not_found",
    )


def error_body(error: ApiError) -> dict[str, dict[str, str | None]]:
    """The JSON of an error; in an event stream too."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "param": error.param,
            "code": error.code,
        }
    }


def error_response(error: ApiError) -> Response:
    """The answer to a refused request."""
    headers = dict(error.headers)
    if error.status == 409:  # OpenAI's clients try a 409 twice more unless they are told not to
        headers.setdefault("x-should-retry", "false")
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses: no such route, no such method, a body that is no form."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"There is nothing at {request.method} {request.url.path}; check the URL"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed for {request.url.path}; check the method"
    else:
        message = error.detail or HTTPStatus(error.status_code).phrase
    return error_response(ApiError(error.status_code, message, headers=dict(error.headers or {})))


def exception_handlers() -> dict[int | type[Exception], ExceptionHandler]:
    """What a Starlette application of this API gets as `exception_handlers`.

    Exceptions that nobody expected are not here: `limits.Answers` logs them and answers 500.
    """
    return {ApiError: _api_error, HTTPException: _http_error}
