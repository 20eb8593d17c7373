"""Graders over the network, with the real child process and its sandboxes."""

import asyncio
import contextlib
import http.server
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette

from rft_jax.serve import graders as routes
from rft_jax.serve.context import ServeOptions
from rft_jax.serve.errors import ApiError, exception_handlers, unknown_model
from rft_jax.serve.grader_spec import resolve_judges
from rft_jax.serve.graders import Graders

needs_sandbox = pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")
FLAGS = {
    "formula_parse_error", "sample_parse_error", "truncated_observation_error",
    "unresponsive_reward_error", "invalid_variable_error", "other_error",
    "python_grader_server_error", "python_grader_runtime_error", "model_grader_server_error",
    "model_grader_refusal_error", "model_grader_parse_error",
}  # fmt: skip
DETAILS = {
    "python_grader_server_error_type",
    "python_grader_runtime_error_details",
    "model_grader_server_error_details",
}


class Models:
    """What the server serves: one model."""

    def find(self, name):
        if name != "claims/tiny":
            raise unknown_model(name)


class Api:
    """The routes with a child, asked from a test without asyncio."""

    def __init__(self, options):
        self.loop = asyncio.new_event_loop()
        self.graders = self.loop.run_until_complete(self._open(options))
        app = Starlette(routes=routes.routes(None), exception_handlers=exception_handlers())
        app.state.context = SimpleNamespace(graders=self.graders)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x")

    async def _open(self, options):
        graders = Graders(options, Models())
        await graders.start()
        return graders

    async def post(self, route, **body):
        return await self.client.post(f"/v1/fine_tuning/alpha/graders/{route}", json=body)

    def run(self, grader, sample, item):
        body = {"grader": grader, "model_sample": sample, "item": item}
        return self.loop.run_until_complete(self.post("run", **body))

    def validate(self, grader):
        return self.loop.run_until_complete(self.post("validate", grader=grader))

    def close(self):
        self.loop.run_until_complete(self.graders.stop())
        self.loop.close()


@pytest.fixture(scope="module")
def judge():
    """A judge that finds everything worth 0.25."""
    asked = []

    class Judge(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append((dict(self.headers), body))
            usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            content = json.dumps({"steps": [], "result": 0.25})
            answer = json.dumps(
                {"choices": [{"message": {"content": content}}], "usage": usage}
            ).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/v1", asked=asked)
    server.shutdown()


@pytest.fixture(scope="module")
def api(judge):
    made = Api(ServeOptions(Path("unused"), api_key="k", python_timeout_s=1.5, judge_url=judge.url))
    yield made
    made.close()


def check(operation="eq", given="{{sample.output_text}}", reference="{{item.answer}}"):
    return {"type": "string_check", "name": "check", "operation": operation,
            "input": given, "reference": reference}  # fmt: skip


def python(source):
    return {"type": "python", "name": "mine", "source": f"def grade(sample, item):\n    {source}"}


def both(formula="0.75 * a + 0.25 * b", **more):
    graders = {"a": check(), "b": check("like", reference="{{item.part}}")}
    return {
        "type": "multi",
        "name": "both",
        "graders": graders,
        "calculate_output": formula,
        **more,
    }


SCORE_MODEL = {
    "type": "score_model",
    "name": "judge",
    "model": "some-model",
    "input": [{"role": "user", "content": "Rate {{sample.output_text}}"}],
}
RESEARCHER = "\U0001f9d1\u200d\U0001f52c\u0000\ufeff"


def test_a_run_has_every_field(api):
    result = api.run(check(), "Paris", {"answer": "Paris"}).json()
    assert result["reward"] == 1 and result["sub_rewards"] == {}
    assert result["model_grader_token_usage_per_model"] == {}
    meta = result["metadata"]
    assert (meta["name"], meta["type"]) == ("check", "string_check")
    assert meta["execution_time"] >= 0 and meta["scores"] == {}
    assert meta["token_usage"] is None and meta["sampled_model_name"] is None
    assert set(meta["errors"]) == FLAGS | DETAILS
    assert {meta["errors"][name] for name in FLAGS} == {False}
    assert {meta["errors"][name] for name in DETAILS} == {None}


@pytest.mark.parametrize(
    ("grader", "sample", "item", "reward", "flags"),
    [
        (check("ne"), "Rome", {"answer": "Paris"}, 1, []),
        (check(), RESEARCHER, {"answer": RESEARCHER}, 1, []),
        (check(given="{{sample.output_json.a[1]}}", reference="2"), '{"a": [1, 2]}', {}, 1, []),
        (check(given="{{sample.output_json.a}}"), "no", {"answer": ""}, 0, ["sample_parse_error"]),
        (check(given="{{sample.output_json.a}}"), "{}", {"answer": ""}, 0,
         ["invalid_variable_error"]),
        (check(), "x", {}, 0, ["invalid_variable_error"]),
        (both(), "xy", {"answer": "no", "part": "y"}, 0.25, []),
        (both("a / (b - b)"), "x", {"answer": "x", "part": "x"}, 0, ["formula_parse_error"]),
        (both("0.1 * a + 0.2 * b"), "x", {"answer": "x", "part": "x"}, 0.3, []),
        ({"type": "number", "name": "n", "input": "{{sample.output_text}}",
          "reference": "{{item.n}}"}, "it is 1,250.0", {"n": 1250}, 1, []),
        ({"type": "switch", "name": "s", "on": "{{item.kind}}", "graders": {"t": check()}}, "x",
         {"kind": "t", "answer": "x"}, 1, []),
    ],
)  # fmt: skip
def test_rewards_and_flags(api, grader, sample, item, reward, flags):
    result = api.run(grader, sample, item).json()
    assert result["reward"] == reward, result  # as written: a float32 does not show its rounding
    assert [name for name in FLAGS if result["metadata"]["errors"][name]] == flags


def test_parts_of_a_multi(api):
    item = {"answer": "no", "part": "y"}
    assert api.run(both(), "xy", item).json()["sub_rewards"] == {"a": 0, "b": 1}
    named = both(graders=[check() | {"name": "a"}, check("like", reference="y") | {"name": "b"}])
    assert api.run(named, "xy", item).json()["sub_rewards"] == {"a": 0, "b": 1}
    lacking = api.run(both(), "xy", {"part": "y"}).json()
    assert lacking["reward"] == 0 and lacking["sub_rewards"] == {"a": 0, "b": 1}
    assert lacking["metadata"]["errors"]["invalid_variable_error"]


@needs_sandbox
@pytest.mark.parametrize(
    ("source", "reward", "details"),
    [
        ("return item['n'] / 4", 0.75, None),
        ("return -0.5", -0.5, None),
        ("return 1 / 0", 0, "ZeroDivisionError"),
        ("return 'high'", 0, "number"),
        ("return float('nan')", 0, "finite"),
        ("while True: pass", 0, "longer than 1.5 s"),
        ("import os\n    while True: os.fork()", 0, "BlockingIOError"),
        ("import os\n    os._exit(7)", 0, "ended its process"),
        ("import sys\n    sys.exit(7)", 0, "SystemExit"),
        ("return open('/etc/shadow').read()", 0, "Error"),
        ("return len('x' * 10**10)", 0, "MemoryError"),
        ("print('x' * 10**6); return 1", 1, None),
        ("raise ValueError('é\\ud800' * 9999)", 0, ""),
    ],
)
def test_python_and_what_hostile_python_comes_to(api, source, reward, details):
    result = api.run(python(source), "x", {"n": 3})
    assert result.status_code == 200, result.text
    errors = result.json()["metadata"]["errors"]
    assert result.json()["reward"] == reward
    flags = [name for name in FLAGS if errors[name]]
    assert flags == ([] if details is None else ["python_grader_runtime_error"])
    assert (details or "") in (errors["python_grader_runtime_error_details"] or "")


@needs_sandbox
def test_the_sandbox_sees_neither_key_nor_network(api):
    tried = "import os, socket\n    assert not [k for k in os.environ if 'RFT' in k]\n"
    result = api.run(python(tried + "    socket.create_connection(('127.0.0.1', 22))"), "", {})
    details = result.json()["metadata"]["errors"]["python_grader_runtime_error_details"]
    assert "AssertionError" not in details and "Error" in details


def test_a_judge_is_asked_at_judge_url(api, judge, monkeypatch):
    result = api.run(SCORE_MODEL, "this", {}).json()
    assert result["reward"] == 0.25
    tokens = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "cached_tokens": 0}
    assert result["model_grader_token_usage_per_model"] == {"some-model": tokens}
    assert result["metadata"]["token_usage"] == 10
    assert result["metadata"]["sampled_model_name"] == "some-model"
    headers, body = judge.asked[-1]
    assert body["messages"] == [{"role": "user", "content": "Rate this"}]
    assert "Authorization" not in headers, "the server's key is for the server's own models"


def test_judges_of_this_server_and_of_another_in_one_grader(monkeypatch):
    monkeypatch.setenv("RFT_JUDGE_KEY", "k")
    graders = {"own": SCORE_MODEL | {"model": "claims/tiny"}, "other": SCORE_MODEL}
    grader = {"type": "multi", "graders": graders, "calculate_output": "own + other"}
    found = resolve_judges(
        grader, "grader", "https://j/v1", "http://s/v1", lambda name: name == "claims/tiny"
    )["graders"]
    assert found["own"]["base_url"] == "http://s/v1"
    assert found["own"]["api_key_env"] == "RFT_JUDGE_SERVER_KEY"
    assert found["other"]["base_url"] == "https://j/v1"
    assert found["other"]["api_key_env"] == "RFT_JUDGE_KEY"
    assert "base_url" not in graders["own"], "what the client sent is not changed"
    with pytest.raises(ApiError) as caught:
        resolve_judges(grader, "grader", "", "http://s/v1", lambda name: name == "claims/tiny")
    assert caught.value.param == "grader.graders.other.model"


@pytest.mark.parametrize(
    ("grader", "param"),
    [
        ("my_module:grader", "grader"),
        (["x"], "grader"),
        ({"type": "nonsense"}, "grader.type"),
        ({}, "grader.type"),
        (check("matches"), "grader.operation"),
        (check(given="{{ sample.output_text"), "grader.input"),
        (check() | {"weight": 2}, "grader.weight"),
        (both("a + c"), "grader.calculate_output"),
        (both(graders={}), "grader.graders"),
        (both(graders=check()), "grader.graders"),
        (both(graders={"a": check("no"), "b": check()}), "grader.graders.a.operation"),
        (both("+".join(["a"] * 20_000) + "+ b"), "grader"),
        (python("return (") | {"name": "p"}, "grader.source"),
        ({"type": "endpoint", "url": "http://127.0.0.1:1"}, "grader.type"),
        (both(graders={"a": {"type": "endpoint", "url": "x"}, "b": check()}),
         "grader.graders.a.type"),
        (SCORE_MODEL | {"base_url": "http://169.254.169.254"}, "grader.base_url"),
        (SCORE_MODEL | {"api_key_env": "AWS_SECRET_ACCESS_KEY"}, "grader.api_key_env"),
        (SCORE_MODEL | {"model": "device:/etc"}, "grader.model"),
        ({"type": "switch", "on": "{{item.k}}", "graders": {"t": SCORE_MODEL | {"base_url": "x"}}},
         "grader.graders.t.base_url"),
        (both(graders={f"p{n}": python("return 1") for n in range(17)}), "grader"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(api, grader, param):
    for answer in (api.validate(grader), api.run(grader, "x", {"answer": "x", "part": "x"})):
        assert answer.status_code == 400, answer.text
        error = answer.json()["error"]
        assert error["param"] == param and error["message"].startswith(param)


def test_validate_gives_the_grader_back(api):
    for grader in (check(), both(), SCORE_MODEL):
        assert api.validate(grader).json() == {"grader": grader}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model_sample": "x"}, "grader"),
        ({"grader": check()}, "model_sample"),
        ({"grader": check(), "model_sample": 3}, "model_sample"),
        ({"grader": check(), "model_sample": "x", "item": []}, "item"),
        ({"grader": check(), "model_sample": "x" * 300_000}, "model_sample"),
        ({"grader": {"type": "number", "name": "n", "input": "{{sample.output_text}}",
                     "reference": "{{item.n}}"}, "model_sample": "3", "item": {"n": "x"}}, "item"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be_run(api, body, param):
    answer = api.loop.run_until_complete(api.post("run", **body))
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_a_child_that_is_killed_is_replaced_and_asked_again(api):
    async def main():
        process = await api.graders._child._starting
        body = {"grader": check(), "model_sample": "a", "item": {"answer": "a"}}
        asked = [asyncio.ensure_future(api.post("run", **body)) for _ in range(4)]
        await asyncio.sleep(0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        return [answer.json()["reward"] for answer in await asyncio.gather(*asked)]

    assert api.loop.run_until_complete(main()) == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grader", "sample", "reward"),
    [
        ({"metric": "fuzzy_match"}, "the same words", 1),
        ({"metric": "rouge_l"}, "nothing alike", 0),
        ({"pattern": "(a|a)*b"}, "a" * 5000, 0),
    ],
)
def test_graders_that_are_compiled(api, grader, sample, reward):
    if "pattern" in grader:
        spec = {"type": "regex", "name": "r", "input": "{{sample.output_text}}", **grader}
    else:
        spec = {"type": "text_similarity", "name": "s", "evaluation_metric": grader["metric"],
                "input": "{{sample.output_text}}", "reference": "{{item.answer}}"}  # fmt: skip
    result = api.run(spec, sample, {"answer": "the same words"}).json()
    assert result["reward"] == pytest.approx(reward, abs=1e-6)
