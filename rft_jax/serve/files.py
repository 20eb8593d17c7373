"""`/v1/files`: upload, list, content, deletion and expiry."""

import os
import unicodedata
from pathlib import Path

from sqlalchemy import or_, select
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.data.items import check_rows
from rft_jax.serve.context import Context
from rft_jax.serve.errors import ApiError
from rft_jax.serve.multipart import Form, read_form
from rft_jax.serve.paging import limit_of, list_body, page
from rft_jax.serve.store import FileRow, Store, new_id, now
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

TRAINING = "fine-tune"  # the purpose of files that jobs read
RESULTS = "fine-tune-results"
PURPOSES = ("assistants", "batch", TRAINING, "vision", "user_data", "evals")
_INCOMING = ".incoming-"  # begins the names of files that are being uploaded
_MOST_NAME = 255  # characters


def routes(context: Context) -> list[BaseRoute]:
    """The routes of files."""
    files = Files(context)
    return [
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files", files.list, methods=["GET"]),
        Route("/v1/files/{id}", files.retrieve, methods=["GET"]),
        Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{id}/content", files.content, methods=["GET"]),
    ]


def file_json(row: FileRow) -> JsonObject:
    """A file as clients see it."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.size,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def find_file(store: Store, identity: str) -> FileRow:
    """A file that has not expired.

    Raises:
        ApiError: 404, if there is none.
    """
    with store.read() as session:
        row = session.scalar(select(FileRow).where(FileRow.id == identity, _alive()))
    if row is None:
        raise ApiError(404, f"There is no file {identity[:80]!r}", param="id")
    return row


def add_file(store: Store, content: bytes) -> str:
    """Writes a file of ours, for which a row is yet to be added; returns its id."""
    identity = new_id("file-")
    temporary = store.files / f"{_INCOMING}{identity}"
    temporary.write_bytes(content)
    _keep(temporary, store.files / identity)
    return identity


def sweep_files(store: Store) -> None:
    """Deletes expired files, and what an upload left that was cut off by the server's end."""
    with store.write() as session:
        gone = session.scalars(select(FileRow).where(FileRow.expires_at <= now())).all()
        for row in gone:
            session.delete(row)
    for row in gone:
        (store.files / row.id).unlink(missing_ok=True)


def sweep_uploads(store: Store) -> None:
    """Removes, before the first request, files that have no row."""
    with store.read() as session:
        known = set(session.scalars(select(FileRow.id)))
    for path in store.files.iterdir():
        if path.name not in known:
            path.unlink()


class Files:
    """The routes' handlers."""

    def __init__(self, context: Context):
        self._store, self._limit = context.store, context.options.max_file_bytes

    async def create(self, request: Request) -> Response:
        """Takes a file; nothing is kept of one that is refused."""
        identity = new_id("file-")
        incoming = self._store.files / f"{_INCOMING}{identity}"
        try:
            form = await read_form(request, incoming, self._limit)
            row = await run_in_threadpool(self._add, identity, incoming, form)
        finally:
            incoming.unlink(missing_ok=True)
        return JSONResponse(file_json(row))

    def _add(self, identity: str, incoming: Path, form: Form) -> FileRow:
        purpose = form.fields.get("purpose")
        if purpose not in PURPOSES:
            given = "is missing" if purpose is None else f"{purpose[:80]!r} is not taken"
            expected = ", ".join(PURPOSES)
            raise ApiError(400, f"purpose: {given}; use one of {expected}", param="purpose")
        if form.filename is None:
            raise ApiError(400, "file: is missing; add the file", param="file")
        created = now()
        expires = _expiry(form.fields, created)
        filename = clean_filename(form.filename)
        if form.size == 0:
            raise ApiError(400, f"{filename}: is empty; send a file with content", param="file")
        if purpose == TRAINING:
            try:
                check_rows(incoming)
            except InputError as error:
                message = str(error).replace(str(incoming), filename)
                raise ApiError(400, message, param="file") from None
        _keep(incoming, self._store.files / identity)
        row = FileRow(
            id=identity,
            filename=filename,
            purpose=purpose,
            size=form.size,
            created_at=created,
            expires_at=expires,
        )
        with self._store.write() as session:
            session.add(row)
        return row

    def list(self, request: Request) -> Response:
        """Pages of files."""
        query = request.query_params
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise ApiError(400, "order: must be asc or desc", param="order")
        conditions = [_alive()]
        if purpose := query.get("purpose"):
            conditions.append(FileRow.purpose == purpose)
        limit = limit_of(request, 10_000, 10_000)
        with self._store.read() as session:
            rows, more = page(
                session, FileRow, request, limit, *conditions, ascending=order == "asc"
            )
        return JSONResponse(list_body([file_json(row) for row in rows], more))

    def retrieve(self, request: Request) -> Response:
        """One file's description."""
        return JSONResponse(file_json(find_file(self._store, request.path_params["id"])))

    def content(self, request: Request) -> Response:
        """The bytes, as they came."""
        row = find_file(self._store, request.path_params["id"])
        path = self._store.files / row.id
        if not path.is_file():  # it was deleted a moment ago
            raise ApiError(404, f"There is no file {row.id!r}", param="id")
        headers = {"x-content-type-options": "nosniff", "content-disposition": "attachment"}
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    def delete(self, request: Request) -> Response:
        """Deletes a file; jobs that use it have copies of their own."""
        row = find_file(self._store, request.path_params["id"])
        with self._store.write() as session:
            found = session.scalar(select(FileRow).where(FileRow.id == row.id))
            if found is None:
                raise ApiError(404, f"There is no file {row.id!r}", param="id")
            session.delete(found)
        (self._store.files / row.id).unlink(missing_ok=True)
        return JSONResponse({"id": row.id, "object": "file", "deleted": True})


def clean_filename(name: str) -> str:
    """The client's name without folders and control characters, of at most 255 characters."""
    name = name.replace("\\", "/").rpartition("/")[2]
    name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cs"))[:_MOST_NAME]
    return "file" if name.strip() in ("", ".", "..") else name


def _alive():
    return or_(FileRow.expires_at.is_(None), FileRow.expires_at > now())


def _expiry(fields: dict[str, str], created: int) -> int | None:
    """When a file is deleted, by the form's `expires_after`."""
    anchor, text = (fields.get(f"expires_after[{key}]") for key in ("anchor", "seconds"))
    if anchor is None and text is None:
        return None
    if anchor != "created_at":
        param = "expires_after.anchor"
        raise ApiError(400, f"{param}: must be created_at", param=param)
    seconds = int(text) if text and text.isascii() and text.isdecimal() and len(text) < 9 else 0
    if not 3600 <= seconds <= 2_592_000:
        param = "expires_after.seconds"
        raise ApiError(400, f"{param}: must be a number from 3600 to 2592000", param=param)
    return created + seconds


def _keep(temporary: Path, path: Path) -> None:
    """Gives a file its name when its bytes are on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
