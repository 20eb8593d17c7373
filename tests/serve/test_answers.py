"""Chat and responses: parameters, shapes and streams, with an engine that says what it is told."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.testclient import TestClient

from rft_jax.serve.answers import routes
from rft_jax.serve.context import ServeOptions
from rft_jax.serve.engine import Engine
from rft_jax.serve.errors import ApiError, exception_handlers, unknown_model

CHAT = {"model": "claims/tiny", "messages": [{"role": "user", "content": "broken ski"}]}
RESPONSE = {"model": "claims/tiny", "input": "broken ski"}
PATH = Path("/runs/claims")


class Models:
    def find(self, name):
        if name != "claims/tiny":
            raise unknown_model(name)
        return SimpleNamespace(path=PATH)


class ScriptedEngine(Engine):
    """Answers every sample with "de", "ny"; keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.asked, self.error, self.after = [], None, 0
        self.finish = "stop"

    async def answer(self, request):
        self.asked.append(request)
        events = [{"begin": {"prompt": 7, "fingerprint": "fp_1"}}]
        for text in ("de", "ny"):
            token = {"token": text, "logprob": -0.5, "bytes": list(text.encode())}
            tokens = {} if request.top is None else {"tokens": [token | {"top_logprobs": []}]}
            for sample in range(request.samples):
                ends = {"finish": self.finish} if text == "ny" else {}
                events.append({"sample": sample, "text": text, **tokens, **ends})
        usage = {"completion": 5 * request.samples, "reasoning": 2 * request.samples}
        events.append({"done": True, "usage": usage})
        for number, event in enumerate(events):
            if self.error and number == self.after:
                raise self.error
            yield event


@pytest.fixture
def engine():
    return ScriptedEngine()


@pytest.fixture
def client(engine):
    options = ServeOptions(Path("/nowhere"), "key")
    context = SimpleNamespace(options=options, models=Models(), engine=engine)
    app = Starlette(routes=routes(context), exception_handlers=exception_handlers())
    return TestClient(app, raise_server_exceptions=False)


def chat(client, **settings):
    return client.post("/v1/chat/completions", json=CHAT | settings)


def respond(client, **settings):
    return client.post("/v1/responses", json=RESPONSE | settings)


def events(answer):
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line.removeprefix("data: ") for line in lines]


def test_a_chat_is_of_openais_type(client, engine):
    answer = chat(client, n=2, seed=3)
    found = ChatCompletion.model_validate(answer.json())
    assert [choice.message.content for choice in found.choices] == ["deny", "deny"]
    assert found.choices[0].finish_reason == "stop" and found.choices[0].logprobs is None
    assert found.id.startswith("chatcmpl-") and found.model == "claims/tiny"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (7, 10)
    assert found.usage.total_tokens == 17
    assert found.usage.completion_tokens_details.reasoning_tokens == 4
    (asked,) = engine.asked
    assert (asked.path, asked.samples, asked.seed, asked.limit) == (PATH, 2, 3, None)


def test_parameters_reach_the_engine(client, engine):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}] * 2},
        {"role": "user", "content": "broken ski", "name": "me"},
    ]
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    chat(
        client, messages=messages, temperature=0, top_p=0.5, stop="x", max_tokens=9, seed=-1,
        logprobs=True, top_logprobs=4, reasoning_effort="xhigh", response_format=form,
        user="me", store=True, metadata={"a": "b"}, some_day=1, n=None, presence_penalty=0,
    )  # fmt: skip
    (asked,) = engine.asked
    assert asked.messages[0] == {"role": "developer", "content": "Be Be "}
    assert asked.messages[1] == {"role": "user", "content": "broken ski"}
    assert (asked.temperature, asked.top_p, asked.stops, asked.limit) == (0, 0.5, ("x",), 9)
    assert (asked.seed, asked.top, asked.effort) == (2**64 - 1, 4, "xhigh")
    assert asked.format["json_schema"]["schema"] == schema
    chat(client, max_tokens=9, max_completion_tokens=2**40, stop=["a", "b"])
    assert engine.asked[1].limit == 2**31 - 1 and engine.asked[1].stops == ("a", "b")
    chat(client)
    seeds = {asked.seed for asked in engine.asked[1:]}
    assert len(seeds) == 2, "a seed is drawn where none is given"


@pytest.mark.parametrize(
    "settings, param",
    [
        ({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": True}, "n"), ({"n": "2"}, "n"),
        ({"temperature": 2.5}, "temperature"), ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"), ({"seed": 1.5}, "seed"), ({"seed": 2**70}, "seed"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"), ({"max_tokens": -1}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"), ({"stop": ""}, "stop"), ({"stop": [1]}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"), ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"), ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
         "messages[0].tool_calls"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"), ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
         "response_format.json_schema.name"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema"),
        ({"model": None}, "model"), ({"model": 5}, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_parameter(client, engine, settings, param):
    answer = chat(client, **settings)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(f"{param}:") and error["type"] == "invalid_request_error"
    assert not engine.asked


def test_an_unknown_model_is_404(client):
    for answer in (chat(client, model="x"), chat(client, model="x", stream=True),
                   respond(client, model="x")):  # fmt: skip
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"


def test_a_stream_of_chunks(client):
    settings = {"n": 2, "logprobs": True, "stream": True}
    *parts, end = events(chat(client, **settings, stream_options={"include_usage": True}))
    assert end == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(part) for part in parts]
    *body, last = chunks
    assert len({chunk.id for chunk in chunks}) == 1
    assert last.choices == [] and last.usage.completion_tokens == 10
    assert all(json.loads(part)["usage"] is None for part in parts[:-1])
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in body if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == "deny"
        assert [choice.finish_reason for choice in mine] == [None, None, None, "stop"]
        told = [token for choice in mine if choice.logprobs for token in choice.logprobs.content]
        assert b"".join(bytes(token.bytes) for token in told) == b"deny"
    assert not any("usage" in part for part in events(chat(client, stream=True)))


def test_errors_before_and_in_a_stream(client, engine):
    engine.error = ApiError(400, "too long", param="messages", code="context_length_exceeded")
    answer = chat(client, stream=True)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    assert respond(client, stream=True).json()["error"]["param"] == "input"
    engine.error, engine.after = ApiError(503, "it ended"), 2
    *_, last = events(chat(client, stream=True))
    assert json.loads(last)["error"]["message"] == "it ended"
    *_, last = events(respond(client, stream=True))
    assert json.loads(last)["type"] == "error"


def test_the_places_of_a_schema_are_the_requests_own(client, engine):
    place = "response_format.json_schema.schema.type"
    engine.error = ApiError(400, f"{place}: unknown", param=place)
    assert chat(client).json()["error"]["param"] == place
    assert respond(client).json()["error"]["param"] == "text.format.schema.type"
    assert respond(client).json()["error"]["message"].startswith("text.format.schema.type:")


def test_a_response_is_of_openais_type(client, engine):
    answer = Response.model_validate(respond(client, instructions="Be brief.").json())
    assert answer.id.startswith("resp_") and answer.status == "completed" and answer.error is None
    assert answer.output_text == "deny" and answer.output[-1].id.startswith("msg_")
    assert answer.usage.input_tokens_details.cache_write_tokens == 0
    assert (answer.usage.total_tokens, answer.usage.output_tokens_details.reasoning_tokens) == (
        12,
        2,
    )
    assert [message["role"] for message in engine.asked[0].messages] == ["developer", "user"]
    engine.finish = "length"
    cut = Response.model_validate(respond(client, max_output_tokens=16).json())
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"
    assert engine.asked[1].limit == 16


def test_a_response_asks_as_a_chat_does(client, engine):
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "broken ski"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ]
    schema = {"type": "object"}
    respond(
        client, input=items, temperature=0.5, reasoning={"effort": "low"}, store=True,
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}},
    )  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    messages = [{"role": "user", "content": "broken ski"}, {"role": "assistant", "content": "a"}]
    chat(client, messages=messages, temperature=0.5, reasoning_effort="low", response_format=form)
    one, other = (dataclasses.replace(asked, seed=0) for asked in engine.asked)
    assert one == other


@pytest.mark.parametrize(
    "settings, param",
    [
        ({"input": None}, "input"), ({"input": []}, "input"), ({"input": 5}, "input"),
        ({"input": [{"type": "function_call"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"max_output_tokens": 15}, "max_output_tokens"), ({"background": True}, "background"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"tools": [{"type": "web_search"}]}, "tools"), ({"text": "json"}, "text"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.name"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"), ({"top_p": -1}, "top_p"),
    ],
)  # fmt: skip
def test_responses_are_refused_with_the_parameter(client, settings, param):
    answer = respond(client, **settings)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_events_of_a_response(client):
    kinds = TypeAdapter(ResponseStreamEvent)
    include = ["message.output_text.logprobs"]
    found = [
        kinds.validate_json(part) for part in events(respond(client, stream=True, include=include))
    ]
    assert [event.sequence_number for event in found] == list(range(len(found)))
    assert [event.type.removeprefix("response.") for event in found] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta",
        "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in found if event.type.endswith("delta")) == "deny"
    assert found[-1].response.output_text == "deny" and found[-1].response.usage.total_tokens == 12
    assert found[0].response.output == [] and found[0].response.status == "in_progress"
