"""JSON objects through a pipe: the length in four bytes, most significant first, then the JSON."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from rft_jax.utils.types import JsonObject

_HEAD = struct.Struct(">I")


def frame(message: JsonObject) -> bytes:
    """An object as it is sent."""
    body = json.dumps(message, allow_nan=False).encode()
    return _HEAD.pack(len(body)) + body


def read_frame(stream: BinaryIO) -> JsonObject | None:
    """The next object; None at the end."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    return json.loads(stream.read(_HEAD.unpack(head)[0]))


async def receive_frame(stream: asyncio.StreamReader) -> JsonObject:
    """The next object.

    Raises:
        asyncio.IncompleteReadError: The stream has ended.
    """
    size = _HEAD.unpack(await stream.readexactly(_HEAD.size))[0]
    return json.loads(await stream.readexactly(size))
