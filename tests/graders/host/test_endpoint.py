"""`endpoint` graders: what is sent, what counts as an answer, what is tried again."""

import email.utils
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from rft_jax.config import HostOptions
from rft_jax.graders import HostSample, Items
from rft_jax.graders.host import Endpoint
from rft_jax.graders.host.client import RETRIES, Client, _asked_delay
from rft_jax.graders.spec_reader import Fields
from rft_jax.utils.errors import InputError


def parse(**fields):
    return Endpoint.parse("g", Fields({"type": "endpoint", **fields}, "g.json", "", None))


def grade(service, texts, rows=None, requests=4, **fields):
    rows = rows or [{"n": n} for n in range(len(texts))]
    with parse(url=f"{service.url}/score", **fields).open(
        HostOptions(requests=requests)
    ) as session:
        return session.grade_batch(
            [HostSample(text) for text in texts], Items(rows, "rows.jsonl"), range(len(rows))
        )


def answer(value, status=200, **headers):
    return (
        status,
        {name.replace("_", "-"): v for name, v in headers.items()},
        json.dumps(value).encode(),
    )


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({}, "url: is missing"),
        ({"url": "grader.example/score"}, "url: 'grader.example/score' is no web address"),
        ({"url": "file:///etc/passwd"}, "url: .* is no web address"),
        ({"url": "http://["}, "url: .* is no web address"),
        ({"url": "http://h", "headers": {"a": 1}}, "headers: must be an object with strings"),
        ({"url": "http://h", "rate_limit": 0}, "rate_limit: must be a number"),
        ({"url": "http://h", "rate_limit": "50"}, "rate_limit: must be a number"),
        ({"url": "http://h", "timeout": 3}, "timeout: unknown field"),
    ],
)
def test_what_cannot_be_asked_is_refused(fields, sentence):
    with pytest.raises(InputError, match=f"^g.json: {sentence}"):
        parse(**fields)


def test_headers_do_not_show_in_messages():
    assert "secret" not in repr(parse(url="http://h", headers={"Authorization": "secret"}))


def test_sample_item_and_trace_are_sent(serve):
    service = serve(lambda number, body: answer({"score": body["item"]["n"] / 10}))
    scores = grade(service, ["a", '{"b": 1}'], headers={"Authorization": "Bearer x"})
    assert [score.score for score in scores] == [0, 0.1]
    assert all(not score.errors and score.details["g/seconds"] > 0 for score in scores)
    assert service.paths == ["/score"] * 2
    assert {headers["authorization"] for headers in service.headers} == {"Bearer x"}
    by_row = {body["item"]["n"]: body for body in service.bodies}
    assert by_row[1]["sample"]["output_text"] == '{"b": 1}'
    assert by_row[1]["sample"]["output_json"] == {"b": 1}
    traces = {body["trace_id"] for body in service.bodies}
    assert len(traces) == 2 and all(trace.startswith("trace_") for trace in traces)


def test_requests_are_under_way_at_once(serve):
    barrier = threading.Barrier(4)  # breaks unless four requests meet

    def reply(number, body):
        barrier.wait(20)
        return answer({"score": 1})

    assert [score.score for score in grade(serve(reply), ["x"] * 8)] == [1] * 8


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_failures_that_may_pass_are_tried_again(serve, status):
    service = serve(lambda number, body: answer({"score": 1}, 200 if number == RETRIES else status))
    assert grade(service, ["x"])[0].score == 1
    assert len(service.bodies) == RETRIES + 1
    assert len({body["trace_id"] for body in service.bodies}) == 1


def test_a_service_that_always_fails_leaves_the_sample_invalid(serve):
    service = serve(lambda number, body: answer("out of order", 500))
    score = grade(service, ["x"])[0]
    assert (score.score, score.errors) == (0, {"other_error"})
    assert "status 500" in score.message and "out of order" in score.message
    assert len(service.bodies) == RETRIES + 1


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_other_failures_are_not_tried_again(serve, status):
    service = serve(lambda number, body: answer({}, status, Location="/other"))
    assert grade(service, ["x"])[0].errors == {"other_error"}
    assert service.paths == ["/score"]


@pytest.mark.parametrize(
    "body",
    [b'{"score": "1"}', b'{"score": true}', b'{"score": NaN}', b'{"score": 1e99}', b"{}", b"[1]"]
    + [b'{"score": null}', b"1", b"", b"\xff", b"[" * 100_000],
)
def test_an_answer_without_a_number_leaves_the_sample_invalid(serve, body):
    scores = grade(serve(lambda number, _: (200, {}, body)), ["x"])
    assert (scores[0].score, scores[0].errors) == (0, {"other_error"})


def test_one_bad_answer_costs_one_sample(serve):
    service = serve(lambda number, body: answer({"score": 1 if body["item"]["n"] != 1 else "x"}))
    assert [score.score for score in grade(service, ["x"] * 3)] == [1, 0, 1]


def test_an_endless_answer_is_cut_off(serve):
    score = grade(serve(lambda number, body: (200, {}, b"x" * (8 << 20))), ["x"])[0]
    assert score.errors == {"other_error"} and "too long" in score.message


def test_a_payload_beyond_the_limit_is_not_sent(serve):
    service = serve(lambda number, body: answer({"score": 1}))
    scores = grade(service, ["x" * (1 << 20), "x"])
    assert [score.score for score in scores] == [0, 1] and len(service.bodies) == 1


def test_nobody_there_is_an_error_of_the_sample(serve):
    service = serve(lambda number, body: answer({}))
    service.url = "http://127.0.0.1:1"
    assert grade(service, ["x"])[0].errors == {"other_error"}


def test_a_server_s_wish_to_wait_is_heeded_within_reason():
    assert _asked_delay("2.5") == 2.5
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 0 < _asked_delay(soon) <= 30
    refused = ("", "soon", "-1", "nan", "inf", "86400", "Wed, 21 Oct 2015 07:28:00 GMT")
    assert [_asked_delay(text) for text in refused] == [0] * 7


def test_requests_keep_to_the_rate_limit():
    client = Client("http://h", {}, connections=1, timeout_s=1, rate_limit=10)
    began = time.monotonic()
    delays = [client._turn() for _ in range(20)]
    elapsed = time.monotonic() - began
    for n, delay in enumerate(delays):
        assert n / 10 - elapsed <= delay <= n / 10 + 1e-6


def test_a_service_that_does_not_answer_is_given_up(serve, monkeypatch):
    monkeypatch.setattr("rft_jax.graders.host.endpoint.TIMEOUT_S", 0.05)
    over = threading.Event()

    def reply(number, body):
        if body["item"]["n"] == 0:
            over.wait()
        return answer({"score": 1})

    scores = grade(serve(reply), ["x", "x"])
    over.set()
    assert [score.score for score in scores] == [0, 1]
    assert scores[0].errors == {"other_error"} and "timed out" in scores[0].message
