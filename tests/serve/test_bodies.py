"""Bodies: what is strict JSON, and where a refusal points."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from rft_jax.serve.bodies import MAX_DEPTH, Fields, parse_json, read_json
from rft_jax.serve.errors import ApiError, exception_handlers, unknown_model


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "Expecting value"),
        (b"[1]", "must be an object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "digits"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"\udc00x": 1}', "surrogate"),
        (b'{"a": "\xff"}', "UTF-8"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 200_000, "deeper"),
        (b'{"a": 1} x', "Extra data"),
    ],
)
def test_what_is_no_strict_json_is_refused(body, says):
    with pytest.raises(ApiError, match=says) as caught:
        parse_json(body)
    assert caught.value.status == 400


def test_what_strict_json_is():
    deepest = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert parse_json(deepest)["a"]
    assert parse_json(rb'{"a": "\ud83d\ude00"}') == {"a": "😀"}


def test_fields_point_at_the_place():
    fields = Fields({"method": {"n": "4", "s": "x" * 70, "b": 1, "l": {}, "f": 2.5, "t": True}})
    method = fields.section("method")
    for read, param in (
        (lambda: method.integer("n", 1, 8), "method.n"),
        (lambda: method.string("s", 1, 64), "method.s"),
        (lambda: method.boolean("b"), "method.b"),
        (lambda: method.array("l"), "method.l"),
        (lambda: method.integer("f"), "method.f"),
        (lambda: method.number("t"), "method.t"),
        (lambda: method.number("f", 2.5, above=True), "method.f"),
        (lambda: method.choice("s", ("a", "b")), "method.s"),
        (lambda: method.required("no"), "method.no"),
        (lambda: method.only(("n", "s")), "method.b"),
        (lambda: fields.string("method"), "method"),
    ):
        with pytest.raises(ApiError) as caught:
            read()
        assert (caught.value.status, caught.value.param) == (400, param)
        assert caught.value.message.startswith(param + ": ")
    assert method.number("f", 2.5, 3) == 2.5
    assert Fields({"a": None}).string("a") is None


def test_errors_have_one_shape_and_conflicts_are_not_tried_again():
    async def echo(request: Request):
        return JSONResponse(await read_json(request, limit=100))

    async def conflict(request: Request):
        raise ApiError(409, "The job is done")

    async def model(request: Request):
        raise unknown_model("x")

    routes = [
        Route("/echo", echo, methods=["POST"]),
        Route("/conflict", conflict),
        Route("/model", model),
    ]
    app = Starlette(routes=routes, exception_handlers=exception_handlers())

    async def main():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return [
                await client.post("/echo", content=b'{"a": 1}'),
                await client.post("/echo", content=b'{"a": "' + b"x" * 200 + b'"}'),
                await client.get("/echo"),
                await client.get("/nothing"),
                await client.get("/conflict"),
                await client.get("/model"),
            ]

    good, large, method, route, conflict, model = asyncio.run(main())
    assert good.json() == {"a": 1}
    statuses = [large, method, route, conflict, model]
    assert [answer.status_code for answer in statuses] == [413, 405, 404, 409, 404]
    for answer in statuses:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error" and error["message"]
    assert conflict.headers["x-should-retry"] == "false"
    assert (model.json()["error"]["code"], model.json()["error"]["param"]) == (
        "model_not_found",
        "model",
    )
