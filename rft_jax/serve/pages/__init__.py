"""The pages for a browser: jobs, one job, files, graders. They need no network but this server.

A page is the same small shell, which `app.js` fills from the API itself; what clients wrote (names,
metadata, answers) becomes text nodes and never markup, and the content security policy lets nothing
but our own script run. Curves and samples of a job are the run's `report.html`, in a frame that has
no rights.
"""

from __future__ import annotations

import html
import os
import re
import shutil
from importlib import resources
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from rft_jax.serve.errors import ApiError
from rft_jax.serve.limits import page_token

if TYPE_CHECKING:
    from pathlib import Path

    from rft_jax.serve.context import Context

_JOB = re.compile(r"ftjob-[0-9a-f]{24}")
_LOG_BYTES = 64 << 10  # of the end of a log
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "frame-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "referrer-policy": "no-referrer"}
_STATIC = {"app.js": "text/javascript", "app.css": "text/css"}


def routes(context: Context) -> list[BaseRoute]:
    """The pages, and what they need besides the API."""
    pages = _Pages(context)
    return [
        *(Route(path, pages.shell) for path in ("/", "/jobs/{id}", "/files", "/graders")),
        Route("/pages/state", pages.state),
        Route("/pages/{name}", pages.static),
        Route("/jobs/{id}/report", pages.report),
        Route("/jobs/{id}/settings", pages.settings),
        Route("/jobs/{id}/log", pages.log),
    ]


class _Pages:
    def __init__(self, context: Context):
        self._dir = context.options.dir
        token = html.escape(page_token(context.options.api_key))
        self._shell = _resource("shell.html").replace("@@token@@", token)

    async def shell(self, request: Request) -> Response:
        """A page, to be filled by the script."""
        return Response(self._shell, media_type="text/html", headers=_HEADERS)

    async def static(self, request: Request) -> Response:
        """Script and style."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise ApiError(404, "There is no such file")
        return Response(_resource(name), media_type=_STATIC[name], headers=_HEADERS)

    async def state(self, request: Request) -> Response:
        """What the server's data take of the disk."""
        used = await run_in_threadpool(_size, self._dir)
        return JSONResponse({"used": used, "free": shutil.disk_usage(self._dir).free})

    async def report(self, request: Request) -> Response:
        """The report of a job's run, which has a policy of its own besides this one."""
        path = self._folder(request) / "run" / "report.html"
        content = await run_in_threadpool(_read, path)
        policy = "sandbox allow-scripts; frame-ancestors 'self'"
        headers = _HEADERS | {"content-security-policy": policy}
        return Response(content, media_type="text/html", headers=headers)

    async def settings(self, request: Request) -> Response:
        """The configuration that a job was trained with."""
        path = self._folder(request) / "config.json"
        content = await run_in_threadpool(_read, path)
        return Response(content, media_type="application/json", headers=_HEADERS)

    async def log(self, request: Request) -> Response:
        """The end of a job's log."""
        content = await run_in_threadpool(_read, self._folder(request) / "log")
        text = content[-_LOG_BYTES:].decode(errors="replace")
        return PlainTextResponse(text, headers=_HEADERS)

    def _folder(self, request: Request) -> Path:
        identity = request.path_params["id"]
        if not _JOB.fullmatch(identity):
            raise ApiError(404, "There is no such job")
        return self._dir / "jobs" / identity


def _resource(name: str) -> str:
    return resources.files("rft_jax.serve.pages").joinpath(name).read_text(encoding="utf-8")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise ApiError(404, "It is not there yet") from None


def _size(folder: Path) -> int:
    """Bytes on the disk of all files below a folder; hard links of a file count once."""
    found: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:  # gone meanwhile
                continue
            found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())
