"""Bodies of requests: strict JSON, and fields that are checked one by one.

Strict: UTF-8, an object, no NaN or Infinity, no half of a surrogate pair, not deeper than
`MAX_DEPTH`. Each refusal is an `ApiError` of status 400 whose `param` is the dotted path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn

from starlette.requests import Request

from rft_jax.serve.errors import ApiError

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

MAX_DEPTH = 64
JSON_LIMIT = 4 << 20  # bytes


async def read_json(request: Request, limit: int = JSON_LIMIT) -> JsonObject:
    """Reads the body of a request as strict JSON.

    Args:
        limit: The most bytes that are read.

    Raises:
        ApiError: 413 over the limit, 400 for anything that is no strict JSON object.
    """
    return parse_json(await read_body(request, limit))


async def read_body(request: Request, limit: int) -> bytes:
    """Reads a body, of which the bytes that come are counted, whatever the request announced.

    Raises:
        ApiError: 413 over the limit.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large(limit)
    return bytes(body)


def too_large(limit: int) -> ApiError:
    """A body over the limit in bytes.

    The connection stays, and what still comes is dropped: closing it could lose the answer on its
    way to a client that is still sending.
    """
    return ApiError(413, f"The request is too large; at most {limit:,} bytes are taken here")


def parse_json(body: bytes) -> JsonObject:
    """Parses strict JSON.

    Raises:
        ApiError: 400, saying where the fault is.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise _no_json(f"it is not UTF-8 (at byte {error.start})") from error
    except RecursionError as error:
        raise _no_json(f"it is deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # JSONDecodeError, and numbers that are none here
        raise _no_json(str(error)) from error
    if not isinstance(value, dict):
        raise _no_json("it must be an object, in braces")
    _check_tree(value)
    return value


def _no_json(problem: str) -> ApiError:
    return ApiError(400, f"The body of the request is not valid JSON: {problem}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _check_tree(root: JsonObject) -> None:
    """Refuses depth and half surrogates; a loop, since recursion is what is to be prevented."""
    waiting: list[tuple[object, int]] = [(root, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _no_json("a string holds half of a surrogate pair") from error
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise _no_json(f"it is deeper than {MAX_DEPTH} levels")
            below = [*value, *value.values()] if isinstance(value, dict) else value
            waiting.extend((part, depth + 1) for part in below)


class Fields:
    """The fields of a JSON object, each read by a method that checks it. Null is absent.

    Attributes:
        values: The object.
        where: The dotted path of the object in the body; "" for the body itself.
    """

    def __init__(self, values: JsonObject, where: str = ""):
        self.values = values
        self.where = where

    def param(self, key: str) -> str:
        """The dotted path of a field."""
        return f"{self.where}.{key}" if self.where else key

    def refusal(self, key: str, problem: str, code: str | None = None) -> ApiError:
        """The error for a field, to be raised: `refusal("n", "must be at least 1")`."""
        return ApiError(400, f"{self.param(key)}: {problem}", param=self.param(key), code=code)

    def only(self, known: Collection[str]) -> None:
        """Refuses keys that nobody knows, of which the first is named."""
        for key in self.values:
            if key not in known:
                expected = ", ".join(sorted(known))
                raise self.refusal(key, f"is not known here; the fields are {expected}")

    def required(self, key: str) -> object:
        """A field that must be there."""
        value = self.values.get(key)
        if value is None:
            raise self.refusal(key, "is missing; add it")
        return value

    def string(self, key: str, least: int = 0, most: int | None = None) -> str | None:
        """A string of so many characters."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.refusal(key, f"must be a string, not {kind(value)}")
        if len(value) < least or most is not None and len(value) > most:
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise self.refusal(key, f"must have {limits} characters, not {len(value)}")
        return value

    def choice(self, key: str, choices: Collection[str]) -> str | None:
        """One of some strings."""
        value = self.string(key)
        if value is not None and value not in choices:
            raise self.refusal(key, f"must be one of {', '.join(choices)}, not {value[:80]!r}")
        return value

    def integer(self, key: str, low: int | None = None, high: int | None = None) -> int | None:
        """A whole number from `low` to `high`; 3.0 is one, true is not."""
        value = self.number(key, low, high)
        if value is not None and value != int(value):
            raise self.refusal(key, f"must be a whole number, not {value:g}")
        return None if value is None else int(value)

    def number(
        self, key: str, low: float | None = None, high: float | None = None, above: bool = False
    ) -> float | None:
        """A number from `low` to `high`; with `above`, more than `low`."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refusal(key, f"must be a number, not {kind(value)}")
        too_low = low is not None and (value <= low if above else value < low)
        if too_low or high is not None and value > high:
            least = None if low is None else f"{'more than' if above else 'at least'} {low:g}"
            most = None if high is None else f"at most {high:g}"
            raise self.refusal(key, f"must be {' and '.join(filter(None, (least, most)))}")
        return value

    def boolean(self, key: str) -> bool | None:
        """True or false."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.refusal(key, f"must be true or false, not {kind(value)}")
        return value

    def array(self, key: str) -> list[object] | None:
        """A list."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, list):
            raise self.refusal(key, f"must be an array, not {kind(value)}")
        return value

    def section(self, key: str) -> Fields | None:
        """An object, whose fields are read in turn."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.refusal(key, f"must be an object, not {kind(value)}")
        return Fields(value, self.param(key))


def kind(value: object) -> str:
    """What a value is, in JSON's words, for sentences."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, int | float):
        return "a number"
    return "null" if value is None else "a string"
