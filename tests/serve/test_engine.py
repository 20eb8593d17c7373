"""The engine's process: what it refuses, its events, and that it comes back when it is killed."""

import asyncio
import contextlib
import os
import signal
import threading

import pytest

from rft_jax.serve.engine import AnswerRequest, Engine
from rft_jax.serve.engine_process import OpenModels, Refused, Worker, prepare
from rft_jax.serve.errors import ApiError
from rft_jax.serve.loaded import load_model

from .small_run import QUESTION
from .small_run import small_stage as small_stage

REQUEST = {
    "id": 1, "messages": QUESTION, "samples": 1, "seed": 5, "temperature": 1.0, "top_p": 1.0,
    "limit": None, "stops": [], "top": None, "streams": False, "format": None, "effort": "",
}  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return OpenModels(1 << 30, load_model)


@pytest.fixture(scope="module")
def served(models, small_stage):
    return models.get(str(small_stage))


def answer(models, *requests):
    """The events of requests, by their number."""
    found, done, lock = {}, threading.Event(), threading.Lock()
    waiting = {request["id"] for request in requests if "id" in request}

    def send(events):
        with lock:
            for event in events:
                found.setdefault(event["id"], []).append(event)
                if "done" in event or "error" in event:
                    waiting.discard(event["id"])
            if not waiting:
                done.set()

    worker = Worker(models, send)
    running = threading.Thread(target=worker.run)
    running.start()
    for request in requests:
        worker.take(request)
    assert done.wait(120)
    worker.close()
    running.join(60)
    return found


def test_a_worker_answers_several_and_refuses_one(models, small_stage):
    path = str(small_stage)
    requests = [
        REQUEST | {"path": path, "samples": 3},
        REQUEST | {"path": path, "id": 2, "messages": [{"role": "user", "content": "a " * 9000}]},
        REQUEST | {"path": path, "id": 3, "streams": True},
        REQUEST | {"path": str(small_stage.parent / "none"), "id": 4},
        REQUEST | {"path": path, "id": 5, "format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "object", "properties": {"a": {"type": "wrong"}},
                                    "required": ["a"], "additionalProperties": False}}}},
    ]  # fmt: skip
    found = answer(models, *requests)
    begin, *parts, done = found[1]
    assert begin["begin"]["prompt"] > 0 and begin["begin"]["fingerprint"].startswith("fp_")
    assert sorted(part["sample"] for part in parts) == [0, 1, 2] and done["usage"]["completion"] > 0
    first = next(part["text"] for part in parts if part["sample"] == 0)
    streamed = [event for event in found[3] if "sample" in event]
    assert "".join(part["text"] for part in streamed) == first and len(streamed) > 1
    assert found[2][0]["error"]["code"] == "context_length_exceeded"
    assert found[4][0]["error"]["status"] == 500 and "none" not in found[4][0]["error"]["message"]
    error = found[5][0]["error"]
    assert error["status"] == 400
    assert error["param"] == "response_format.json_schema.schema.properties.a.type"


def test_limits_are_those_of_the_context(served):
    model = served.batcher.model
    assert prepare(REQUEST, served).limit == model.default_tokens == 40
    assert prepare(REQUEST | {"effort": "minimal"}, served).thinking_tokens == 3
    task = prepare(REQUEST | {"limit": 2**31 - 1}, served)
    assert task.limit == model.context - len(task.prompt)
    long = [{"role": "user", "content": "a b c d " * 400}]
    with pytest.raises(Refused, match=rf"context is {model.context} tokens"):
        prepare(REQUEST | {"messages": long}, served)


def test_models_are_dropped_and_loaded_again(small_stage):
    loaded = []

    def load(path, bases):
        loaded.append(path.name)
        return load_model(small_stage, bases)

    models = OpenModels(1, load)
    for name in ("a", "a", "b", "b", "a"):
        models.get(name)
    assert loaded == ["a", "b", "a"]


@contextlib.asynccontextmanager
async def running(path):
    engine = Engine([path])
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def collect(engine, request):
    texts = [""] * request.samples
    async with contextlib.aclosing(engine.answer(request)) as events:
        async for event in events:
            if "sample" in event:
                texts[event["sample"]] += event["text"]
    return texts


@pytest.mark.slow
def test_a_killed_engine_comes_back(small_stage):
    request = AnswerRequest(small_stage, QUESTION, samples=3, seed=5)

    async def main():
        async with running(small_stage) as engine:
            expected = await collect(engine, request)
            killed = engine.pid
            waiting = [asyncio.create_task(collect(engine, request)) for _ in range(4)]
            await asyncio.sleep(0)
            os.kill(killed, signal.SIGKILL)
            assert await asyncio.gather(*waiting) == [expected] * 4, "asked once more"
            assert engine.pid != killed
            stream = engine.answer(AnswerRequest(small_stage, QUESTION, samples=128, streams=True))
            with pytest.raises(ApiError) as caught:
                async for event in stream:
                    if "sample" in event:
                        os.kill(engine.pid, signal.SIGKILL)
            assert caught.value.status == 503 and caught.value.headers["retry-after"]
            left = engine.answer(AnswerRequest(small_stage, QUESTION, samples=128, limit=900))
            await anext(left)
            await left.aclose()
            assert await collect(engine, request) == expected
            full = [AnswerRequest(small_stage, QUESTION, samples=128)] * 17
            outcome = await asyncio.gather(
                *(collect(engine, one) for one in full), return_exceptions=True
            )
            refused = [one for one in outcome if isinstance(one, ApiError)]
            assert [one.status for one in refused] == [429] and refused[0].headers["retry-after"]
            return engine

    engine = asyncio.run(main())
    assert engine.pid is None
