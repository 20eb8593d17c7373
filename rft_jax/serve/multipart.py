"""Multipart forms with one file, read from the request as it comes.

The file goes to disk piece by piece; every byte is counted, so that neither a wrong content-length
nor a chunked body brings more than the limit.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from rft_jax.serve.errors import ApiError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MOST_PARTS = 16
_MOST_FIELD = 4 << 10  # bytes of a part that is no file
_MOST_HEADER = 8 << 10  # of one part
_OVERHEAD = 64 << 10  # what boundaries, headers and fields may add to the file


@dataclass
class Form:
    """What came.

    Attributes:
        fields: The texts by name.
        filename: The client's name of the file; None without one.
        size: The bytes of the file.
    """

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None
    size: int = 0


async def read_form(request: Request, path: Path, limit: int) -> Form:
    """Reads a form, whose part `file` is written to `path`.

    Args:
        limit: The largest file, in bytes.

    Raises:
        ApiError: 413 over the limit; 400 for what is no form with one file. `path` may be left.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 200:
        raise ApiError(400, "The body must be multipart/form-data with a boundary", param="file")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:18]) > limit + _OVERHEAD:
        raise _too_large(limit)
    with path.open("wb") as file:
        reader = _Reader(file, limit)
        parser = MultipartParser(boundary, reader.callbacks())
        try:
            async for chunk in request.stream():
                if chunk:
                    parser.write(chunk)
            parser.finalize()
        except FormParserError as error:
            raise ApiError(400, f"The form cannot be read ({error})") from None
    if not reader.ended:
        raise ApiError(400, "The form is cut off; send it again")
    return reader.form


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The file is larger than the {limit:,} bytes that this server takes",
        param="file",
        headers={"connection": "close"},  # the rest of the body is not read
    )


class _Reader:
    """What the parser calls while a form comes in."""

    def __init__(self, file: BinaryIO, limit: int):
        self.form, self.ended = Form(), False
        self._file, self._limit = file, limit
        self._parts = 0
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name, self._is_file = "", False
        self._text = bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """Those of `MultipartParser`."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise ApiError(400, f"The form has more than {_MOST_PARTS} parts")
        self._disposition = b""
        self._text = bytearray()

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._check_header()

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._header) + len(self._value) > _MOST_HEADER:
            raise ApiError(400, "A header of a part of the form is too long")

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        self._is_file = self._name == "file"
        if self._is_file:
            if self.form.filename is not None:
                raise ApiError(400, "file: stands in the form twice", param="file")
            name = options.get(b"filename", b"").decode(errors="replace")
            self.form.filename = name.replace("%22", '"')  # as HTML has quotes escaped

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.form.size += end - start
            if self.form.size > self._limit:
                raise _too_large(self._limit)
            self._file.write(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > _MOST_FIELD:
            raise ApiError(400, "A field of the form is too long", param=self._name[:80])

    def _end(self) -> None:
        if not self._is_file:
            self.form.fields[self._name] = self._text.decode(errors="replace")

    def _finish(self) -> None:
        self.ended = True
