"""Fixtures of the graders that run on the host."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

# From the number of a request, and what was posted, to status, headers and body.
Reply = Callable[[int, Any], tuple[int, dict[str, str], bytes]]


@dataclass
class Service:
    """A service on this machine, and what it was sent."""

    url: str
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)


@contextlib.contextmanager
def _serve(reply: Reply) -> Iterator[Service]:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(service.bodies)
                service.paths.append(self.path)
                service.headers.append({k.lower(): v for k, v in self.headers.items()})
                service.bodies.append(body)
            status, headers, content = reply(number, body)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        service = Service(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield service
        server.shutdown()
        thread.join()


@pytest.fixture
def serve(monkeypatch):
    """Starts a service that answers by a function of the test's; retries come at once."""
    monkeypatch.setattr("rft_jax.graders.host.client._FIRST_DELAY_S", 1e-4)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        yield lambda reply: stack.enter_context(_serve(reply))
