"""`/v1/chat/completions`: its parameters, its answer, and the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rft_jax.serve.ask import (
    EFFORTS,
    MOST_TOKENS,
    Answers,
    Ask,
    read_format,
    read_model,
    read_seed,
    refuse_set,
)
from rft_jax.serve.bodies import Fields
from rft_jax.serve.conversation import read_messages
from rft_jax.serve.engine import AnswerRequest

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

MOST_SAMPLES, MOST_STOPS, MOST_TOP = 128, 4, 20
# Parameters that would change the answer, each with a value that does not.
_UNSUPPORTED = {
    "tools": [],
    "tool_choice": "none",
    "functions": [],
    "function_call": "none",
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "audio": None,
    "web_search_options": None,
    "modalities": ["text"],
}


def read_chat(values: JsonObject) -> Ask:
    """Checks the parameters; those that change no answer are not looked at.

    Raises:
        ApiError: 400 with the parameter.
    """
    body = Fields(values)
    model = read_model(body)
    messages = read_messages(body)
    refuse_set(body, _UNSUPPORTED)
    samples = body.integer("n", 1, MOST_SAMPLES)
    temperature = body.number("temperature", 0, 2)
    top_p = body.number("top_p", 0, 1)
    limit = body.integer("max_completion_tokens", 1)
    old_limit = body.integer("max_tokens", 1)
    limit = old_limit if limit is None else limit
    streams = body.boolean("stream") or False
    request = AnswerRequest(
        path=Path(),
        messages=messages,
        samples=1 if samples is None else samples,
        seed=read_seed(body),
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        limit=None if limit is None else min(limit, MOST_TOKENS),
        stops=_read_stops(body),
        top=_read_top(body),
        streams=streams,
        format=read_format(body.section("response_format"), "json_schema"),
        effort=body.choice("reasoning_effort", EFFORTS) or "",
    )
    return Ask(model, request, streams, _read_usage(body, streams), values)


def _read_stops(body: Fields) -> tuple[str, ...]:
    stops = body.values.get("stop")
    if stops is None:
        return ()
    stops = [stops] if isinstance(stops, str) else body.array("stop")
    assert stops is not None, "it is there"
    if len(stops) > MOST_STOPS:
        raise body.refusal("stop", f"must be {MOST_STOPS} texts at most, not {len(stops)}")
    found = []
    for index, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            raise body.refusal("stop", f"must be texts, and none of them empty; see [{index}]")
        found.append(stop)
    return tuple(found)


def _read_top(body: Fields) -> int | None:
    wanted = body.boolean("logprobs")
    top = body.integer("top_logprobs", 0, MOST_TOP)
    if top is not None and not wanted:
        raise body.refusal("top_logprobs", "needs logprobs; set it to true")
    return (top or 0) if wanted else None


def _read_usage(body: Fields, streams: bool) -> bool:
    options = body.section("stream_options")
    if options is None:
        return False
    if not streams:
        raise body.refusal("stream_options", "is for streams; set stream to true, or leave it out")
    return options.boolean("include_usage") or False


def completion(ask: Ask, answers: Answers) -> JsonObject:
    """The answer to a request."""
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                "content": sample.text,
                "refusal": None,
                "annotations": [],
            },
            "logprobs": _logprobs(ask, sample.tokens),
            "finish_reason": sample.finish,
        }
        for index, sample in enumerate(answers.samples)
    ]
    return {
        **_head("chat.completion"),
        "model": ask.model,
        "choices": choices,
        "usage": _usage(answers),
        "system_fingerprint": answers.fingerprint,
        "service_tier": "default",
    }


class Chunks:
    """The chunks of a stream, from the engine's events."""

    def __init__(self, ask: Ask):
        self._ask = ask
        self._answers = Answers.to(ask.request)
        self._head = {**_head("chat.completion.chunk"), "model": ask.model}

    def of(self, event: JsonObject) -> Iterator[JsonObject]:
        """The chunks that an event makes."""
        self._answers.take(event)
        if "begin" in event:
            for index in range(self._ask.request.samples):
                delta = {"role": "assistant", "content": "", "refusal": None}
                yield self._chunk(index, delta)
        elif "done" in event:
            if self._ask.usage:
                yield self._whole({"choices": [], "usage": _usage(self._answers)})
        else:
            if event["text"] or event.get("tokens"):
                tokens = event.get("tokens", [])
                yield self._chunk(event["sample"], {"content": event["text"]}, tokens)
            if "finish" in event:
                yield self._chunk(event["sample"], {}, finish=event["finish"])

    def _chunk(
        self,
        index: int,
        delta: JsonObject,
        tokens: list[JsonObject] | None = None,
        finish: str | None = None,
    ) -> JsonObject:
        logprobs = None if tokens is None else _logprobs(self._ask, tokens)
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._whole({"choices": [choice], **({"usage": None} if self._ask.usage else {})})

    def _whole(self, rest: JsonObject) -> JsonObject:
        fingerprint = self._answers.fingerprint
        return {**self._head, "system_fingerprint": fingerprint, "service_tier": "default", **rest}


def _head(kind: str) -> JsonObject:
    identity = f"chatcmpl-{secrets.token_hex(12)}"
    return {"id": identity, "object": kind, "created": int(time.time())}


def _logprobs(ask: Ask, tokens: list[JsonObject]) -> JsonObject | None:
    return None if ask.request.top is None else {"content": tokens, "refusal": None}


def _usage(answers: Answers) -> JsonObject:
    return {
        "prompt_tokens": answers.prompt_tokens,
        "completion_tokens": answers.completion_tokens,
        "total_tokens": answers.prompt_tokens + answers.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": answers.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
