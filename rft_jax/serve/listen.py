"""Listening: uvicorn with deadlines for slow clients, and an orderly end.

uvicorn waits for ever for a request that never ends. `DeadlineProtocol` gives a head `HEAD_S`
seconds, and closes a connection whose body comes more slowly than `BODY_BYTES` in `BODY_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from rft_jax.serve.errors import ApiError, error_body
from rft_jax.serve.limits import OPENAI_VERSION
from rft_jax.utils.errors import InputError

if TYPE_CHECKING:
    from rft_jax.serve.context import ServeOptions

_HEAD_BYTES = 64 << 10
_MOST_CONNECTIONS = 1000
_KEEP_ALIVE_S = 65  # longer than the clients', so that it is they who close idle connections
_LAST_ANSWERS_S = 10  # that running requests have when the server is to end
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class DeadlineProtocol(H11Protocol):
    """uvicorn's protocol for one connection, which ends with clients that take their time.

    Attributes:
        HEAD_S: Seconds for the head of a request.
        BODY_S: Seconds after which the bytes of a body are counted, again and again.
        BODY_BYTES: The fewest of them.
        REST_S: Seconds in which what is left of a body is dropped, once the answer is given.
    """

    HEAD_S = 30.0
    BODY_S = 15.0
    BODY_BYTES = 15 << 10
    REST_S = 60.0

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._phase = ""
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.timeout_keep_alive_task is not None:  # the first of a request on a kept connection
            self._arm("", 0)
        self._received += len(data)
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._arm("", 0)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        super().on_response_complete()
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the API's shape, too."""
        body = json.dumps(error_body(ApiError(400, msg))).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", f"req_{uuid.uuid4().hex}"),
            ("openai-processing-ms", "0"),
            ("openai-version", OPENAI_VERSION),
        ]
        # Nothing can be said after a fault in a body that is answered already.
        with contextlib.suppress(h11.LocalProtocolError):
            events = (
                h11.Response(status_code=400, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _watch(self) -> None:
        """Sets the timer that what is being received calls for."""
        state = self.conn.their_state
        if state is h11.IDLE:
            self._arm("head", self.HEAD_S)
        elif state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self._arm("rest", self.REST_S)
        elif state is h11.SEND_BODY:
            self._arm("body", self.BODY_S)
        else:
            self._arm("", 0)

    def _arm(self, phase: str, seconds: float) -> None:
        """Starts a timer when a phase begins; one that runs is left alone."""
        if phase == self._phase:
            return
        self._phase = phase
        if self._timer:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._expire) if phase else None
        self._received = 0

    def _expire(self) -> None:
        phase, self._phase = self._phase, ""
        waits_for_us = self.flow.read_paused or self.conn.they_are_waiting_for_100_continue
        idle = self.timeout_keep_alive_task is not None  # between two requests; uvicorn's affair
        if self.transport.is_closing():
            return
        slow = {
            "head": not idle,
            "body": not waits_for_us and self._received < self.BODY_BYTES,
            "rest": True,
        }
        if slow[phase]:
            self.transport.abort()
        else:
            self._watch()


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens and ends with status 0 when it is told to."""

    def __init__(self, config: uvicorn.Config, url: str):
        super().__init__(config)
        self._url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started:
            print(f"rft serve listens at {self._url}/v1; its page is {self._url}/", flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal anew in the end."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run_server(app: ASGIApp, options: ServeOptions) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        InputError: The address cannot be listened at.
    """
    listener = bind(options.host, options.port)
    port = listener.getsockname()[1]
    shown = f"[{options.host}]" if ":" in options.host else options.host
    if options.host not in _LOOPBACK:
        print(
            f"rft serve: warning: {options.host} can be reached from other machines, and the key "
            "travels unencrypted; put a proxy with TLS in front",
            file=sys.stderr,
        )
    _open_log()
    config = uvicorn.Config(
        app,
        http=DeadlineProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,  # its access log has queries
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEAD_BYTES,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_LAST_ANSWERS_S,
    )
    _Server(config, f"http://{shown}:{port}").run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        InputError: The address cannot be listened at.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=512)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"--host {host} --port {port}: cannot be listened at ({reason}); choose another port"
        ) from None
    # asyncio does so only for sockets that name their protocol; without, an answer of a head and a
    # body waits for the 40 ms after which the client's system acknowledges the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _open_log() -> None:
    """Requests are logged on standard error, a line each."""
    log = logging.getLogger("rft_jax.serve")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
