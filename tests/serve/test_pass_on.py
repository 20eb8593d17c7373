"""Chats that another server answers: requests, answers, streams and refusals pass as they are."""

import http.server
import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from rft_jax.serve.answers import routes
from rft_jax.serve.context import ServeOptions
from rft_jax.serve.errors import exception_handlers

CHAT = {"model": "m", "messages": [{"role": "user", "content": "broken ski"}], "some_day": 1}


class Other(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body))
        status, kind = (400, "application/json") if body.get("seed") == 0 else (200, "text/x-echo")
        self.send_response(status)
        self.send_header("content-type", kind)
        self.end_headers()
        self.wfile.write(b"data: 1\n\ndata: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def other():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def client_of(url):
    models = SimpleNamespace(find=lambda name: SimpleNamespace(path=Path("/runs/claims")))
    options = ServeOptions(Path("/nowhere"), "key", inference_url=url)
    context = SimpleNamespace(options=options, models=models, engine=None)
    return TestClient(Starlette(routes=routes(context), exception_handlers=exception_handlers()))


def test_a_chat_passes_as_it_is(other):
    client = client_of(f"http://127.0.0.1:{other.server_port}/v1/")
    answer = client.post("/v1/chat/completions", json=CHAT)
    assert other.asked == [("/v1/chat/completions", CHAT)]
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/x-echo")
    assert answer.text == "data: 1\n\ndata: [DONE]\n\n"
    refused = client.post("/v1/chat/completions", json=CHAT | {"seed": 0})
    assert refused.status_code == 400
    assert client.post("/v1/chat/completions", json=CHAT | {"n": 0}).json()["error"]["param"] == "n"
    assert len(other.asked) == 2, "what is refused here is not passed on"


def test_a_server_that_does_not_answer_is_502():
    answer = client_of("http://127.0.0.1:9/v1").post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 502 and answer.json()["error"]["type"] == "server_error"
