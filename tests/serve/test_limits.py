"""What stands before the routes, by raw sockets against a real uvicorn with short deadlines."""

import asyncio
import base64
import json
import logging
import socket
import threading
import time
from contextlib import closing

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from rft_jax.serve.bodies import JSON_LIMIT, read_body, read_json
from rft_jax.serve.errors import exception_handlers
from rft_jax.serve.limits import middleware, page_token
from rft_jax.serve.listen import DeadlineProtocol, bind

KEY = "rft-secret-key"
AUTH = f"Authorization: Bearer {KEY}"
FILE_BYTES = 1 << 20


class QuickProtocol(DeadlineProtocol):
    HEAD_S = 0.6
    BODY_S = 0.6
    REST_S = 0.6


read_bytes = []


async def echo(request: Request):
    return JSONResponse(await read_json(request))


async def upload(request: Request):
    read_bytes.append(len(await read_body(request, 1 << 30)))
    return JSONResponse({})


async def broken(request: Request):
    raise RuntimeError(f"holds {await request.body()!r}")


async def stream(request: Request):
    async def pieces():
        yield b"data: 1\n\n"
        await asyncio.sleep(0.01)
        yield b"data: [DONE]\n\n"

    return StreamingResponse(pieces(), media_type="text/event-stream")


async def slow(request: Request):
    await asyncio.sleep(1.5)  # longer than the deadlines, which are for the client only
    return JSONResponse({"slow": True})


@pytest.fixture(scope="module")
def port():
    app = Starlette(
        routes=[
            Route("/v1/echo", echo, methods=["POST"]),
            Route("/v1/files", upload, methods=["POST"]),
            Route("/v1/broken", broken),
            Route("/v1/stream", stream),
            Route("/v1/slow", slow),
            Route("/page", slow),
        ],
        exception_handlers=exception_handlers(),
        middleware=middleware(KEY, FILE_BYTES),
    )
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=QuickProtocol, ws="none", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def read_answer(connection):
    """Status, headers and body of one answer."""
    file = connection.makefile("rb")
    line = file.readline()
    if not line:
        return None
    headers = {}
    while (header := file.readline().strip()) != b"":
        name, _, value = header.decode().partition(": ")
        headers[name.lower()] = value
    if "content-length" in headers:
        body = file.read(int(headers["content-length"]))
    else:
        body = b""
        while size := int(file.readline(), 16):
            body += file.read(size)
            file.readline()
    return int(line.split()[1]), headers, body


def ask(port, head, body=b""):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall((head.replace("\n", "\r\n") + "\r\n\r\n").encode() + body)
        return read_answer(connection)


def check_error(answer, status, code=None):
    assert answer[0] == status, answer
    error = json.loads(answer[2])["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == code
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    check_headers(answer[1])


def check_headers(headers):
    assert headers["x-request-id"].startswith("req_")
    assert headers["openai-version"] == "2020-10-01"
    assert int(headers["openai-processing-ms"]) >= 0


@pytest.mark.parametrize("path", ["/v1/echo", "/v1/no/such/route", "/", "/../v1/echo", "/metrics"])
@pytest.mark.parametrize("shown", ["", "\nAuthorization: Bearer wrong", "\nAuthorization: Bearer",
                                   f"\nAuthorization: {KEY}", f"\nAuthorization: Digest {KEY}",
                                   "\nAuthorization: Basic !!!"])  # fmt: skip
def test_every_route_wants_the_key(port, path, shown):
    answer = ask(port, f"POST {path} HTTP/1.1\nHost: x\nContent-Length: 0{shown}")
    check_error(answer, 401, "invalid_api_key")
    assert KEY not in answer[2].decode() and "wrong" not in answer[2].decode()


def test_the_key_is_looked_at_before_the_body_comes(port):
    head = "POST /v1/files HTTP/1.1\nHost: x\nContent-Length: 900000"
    began = time.monotonic()
    check_error(ask(port, head, b"x" * 1000), 401, "invalid_api_key")
    assert time.monotonic() - began < 0.5


def test_request_ids_differ_and_streams_have_them(port):
    head = f"GET /v1/stream HTTP/1.1\nHost: x\n{AUTH}"
    first, second = ask(port, head), ask(port, head)
    assert first[2].endswith(b"data: [DONE]\n\n")
    check_headers(first[1])
    assert first[1]["x-request-id"] != second[1]["x-request-id"]


def test_errors_of_all_kinds_have_the_shape(port):
    check_error(ask(port, f"GET /v1/nothing HTTP/1.1\nHost: x\n{AUTH}"), 404)
    answer = ask(port, f"GET /v1/echo HTTP/1.1\nHost: x\n{AUTH}")
    check_error(answer, 405)
    assert "POST" in answer[1]["allow"]
    answer = ask(port, f"GET /v1/broken HTTP/1.1\nHost: x\n{AUTH}")
    check_error(answer, 500)
    check_error(ask(port, f"POST /v1/echo HTTP/1.1\nHost: x\n{AUTH}\nContent-Length: 1", b"["), 400)
    check_error(ask(port, "GET / HTTP/1.1\nHost: x\nbad header"), 400)
    check_error(ask(port, "\x01\x02"), 400)
    long_id = f"GET /v1/slow HTTP/1.1\nHost: x\n{AUTH}\nX-Client-Request-Id: " + "x" * 513
    check_error(ask(port, long_id), 400)


@pytest.mark.parametrize("path, limit", [("/v1/echo", JSON_LIMIT), ("/v1/files", FILE_BYTES)])
def test_bodies_are_limited_by_what_is_announced_and_by_what_comes(port, path, limit):
    head = f"POST {path} HTTP/1.1\nHost: x\n{AUTH}\n"
    check_error(ask(port, head + f"Content-Length: {2 * limit}"), 413)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall((head + "Transfer-Encoding: chunked\n\n").replace("\n", "\r\n").encode())
        for _ in range(limit // 0x10000 + 3):
            connection.sendall(chunk)
        check_error(read_answer(connection), 413)
        connection.sendall(
            b"0\r\n\r\n"
        )  # what still comes is dropped, and the connection serves on
        connection.sendall(f"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode())
        check_error(read_answer(connection), 404)


def test_a_file_may_be_larger_than_json(port):
    body = b"x" * FILE_BYTES
    head = f"POST /v1/files HTTP/1.1\nHost: x\n{AUTH}\nContent-Length: {len(body)}"
    assert ask(port, head, body)[0] == 200 and read_bytes[-1] == len(body)


def seconds_until_closed(port, first, pieces, interval=0.1):
    """How long a connection lives on which pieces come one by one."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall(first)
        began = time.monotonic()
        connection.settimeout(interval)
        for piece in pieces:
            try:
                if connection.recv(1000) == b"":
                    break
            except TimeoutError:
                pass
            except ConnectionError:
                break
            try:
                connection.sendall(piece)
            except OSError:
                break
        return time.monotonic() - began


def test_a_head_that_never_ends_is_cut(port):
    assert 0.4 < seconds_until_closed(port, b"GET / HTTP/1.1\r\nHost: x\r\nX: ", [b"a"] * 30) < 2


def test_a_connection_that_says_nothing_is_cut(port):
    assert 0.4 < seconds_until_closed(port, b"", [b""] * 30) < 2


def test_a_body_that_trickles_is_cut(port):
    head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\n{AUTH}\r\nContent-Length: 9999\r\n\r\n".encode()
    assert 0.4 < seconds_until_closed(port, head, [b"a"] * 30) < 2


def test_a_body_at_a_fair_rate_goes_on_and_so_does_a_slow_answer(port):
    size = 20 * 4096
    head = f"POST /v1/files HTTP/1.1\r\nHost: x\r\n{AUTH}\r\nContent-Length: {size}\r\n\r\n"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
        connection.sendall(head.encode())
        for _ in range(20):
            connection.sendall(b"x" * 4096)
            time.sleep(0.08)
        assert read_answer(connection)[0] == 200
        connection.sendall(f"GET /v1/slow HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode())
        assert json.loads(read_answer(connection)[2]) == {"slow": True}
        time.sleep(0.8)  # an idle connection is kept for longer than a head may take
        connection.sendall(f"GET /v1/nothing HTTP/1.1\r\nHost: x\r\n{AUTH}\r\n\r\n".encode())
        assert read_answer(connection)[0] == 404


def test_the_rest_of_a_refused_body_is_not_taken_for_ever(port):
    head = b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert seconds_until_closed(port, head, [b"3e8\r\n" + b"x" * 1000 + b"\r\n"] * 30) < 2


def basic(password):
    return "Authorization: Basic " + base64.b64encode(b"any:" + password.encode()).decode()


def test_pages_take_the_key_as_a_password_and_want_a_token_to_change_things(port):
    assert ask(port, f"GET /page HTTP/1.1\nHost: x\n{basic(KEY)}")[0] == 200
    check_error(ask(port, f"GET /page HTTP/1.1\nHost: x\n{basic('no')}"), 401, "invalid_api_key")
    assert ask(port, "GET /page HTTP/1.1\nHost: x")[1]["www-authenticate"].startswith("Basic")
    assert ask(port, "GET /v1/x HTTP/1.1\nHost: x")[1]["www-authenticate"] == "Bearer"
    called = ask(port, "GET /v1/x HTTP/1.1\nHost: x\nX-Rft-Token: any")
    assert called[1]["www-authenticate"].startswith("Basic"), "a page's call, to be tried with it"
    post = f"POST /v1/echo HTTP/1.1\nHost: x\nContent-Length: 2\n{basic(KEY)}"
    check_error(ask(port, post, b"{}"), 403)
    check_error(ask(port, post + "\nX-Rft-Token: guess", b"{}"), 403)
    assert ask(port, post + f"\nX-Rft-Token: {page_token(KEY)}", b"{}")[0] == 200


def test_the_log_has_no_secrets(port, caplog):
    with caplog.at_level(logging.INFO, "rft_jax.serve.limits"):
        body = b'{"a": "prompt-secret"}'
        ask(port, f"POST /v1/echo?q=query-secret HTTP/1.1\nHost: x\n{AUTH}\n"
            f"Content-Length: {len(body)}", body)  # fmt: skip
        ask(port, "GET /v1/echo%0Ainjected HTTP/1.1\nHost: x\nAuthorization: Bearer tried-secret")
        ask(port, f"GET /v1/broken HTTP/1.1\nHost: x\n{AUTH}\nContent-Length: {len(body)}", body)
        time.sleep(0.05)
    assert "POST /v1/echo 200" in caplog.text and "RuntimeError" in caplog.text
    assert "secret" not in caplog.text and "\ninjected" not in caplog.text


def test_answers_do_not_wait_until_their_heads_are_acknowledged():
    with closing(bind("127.0.0.1", 0)) as listener:
        with (
            closing(socket.create_connection(listener.getsockname())),
            closing(listener.accept()[0]) as connection,
        ):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
