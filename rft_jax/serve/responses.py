"""`/v1/responses`: its parameters, its answer, and the events of a stream. Nothing is stored."""

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
from rft_jax.serve.conversation import read_input
from rft_jax.serve.engine import AnswerRequest

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.serve.errors import ApiError
    from rft_jax.utils.types import JsonObject

LEAST_TOKENS = 16
MOST_TOP = 20
_LOGPROBS = "message.output_text.logprobs"
# Parameters that would change the answer, each with a value that does not.
_UNSUPPORTED = {
    "previous_response_id": None,
    "conversation": None,
    "prompt": None,
    "background": False,
    "tools": [],
    "tool_choice": "auto",
}


def read_response(values: JsonObject) -> Ask:
    """Checks the parameters; those that change no answer are not looked at.

    Raises:
        ApiError: 400 with the parameter.
    """
    body = Fields(values)
    model = read_model(body)
    messages = read_input(body)
    if values.get("tool_choice") != "none":
        refuse_set(body, _UNSUPPORTED)
    else:
        refuse_set(body, {**_UNSUPPORTED, "tool_choice": "none"})
    temperature = body.number("temperature", 0, 2)
    top_p = body.number("top_p", 0, 1)
    limit = body.integer("max_output_tokens", LEAST_TOKENS)
    top = body.integer("top_logprobs", 0, MOST_TOP)
    if _LOGPROBS in (body.array("include") or []):
        top = top or 0
    reasoning = body.section("reasoning")
    text = body.section("text")
    streams = body.boolean("stream") or False
    request = AnswerRequest(
        path=Path(),
        messages=messages,
        seed=read_seed(body),
        temperature=1.0 if temperature is None else temperature,
        top_p=1.0 if top_p is None else top_p,
        limit=None if limit is None else min(limit, MOST_TOKENS),
        top=top,
        streams=streams,
        format=read_format(text.section("format") if text else None),
        effort=(reasoning.choice("effort", EFFORTS) if reasoning else None) or "",
    )
    return Ask(model, request, streams, True, values)


class Response:
    """The answer to a request, while and when it is made."""

    def __init__(self, ask: Ask):
        self._ask = ask
        self._answers = Answers.to(ask.request)
        self._created = time.time()
        self._id = f"resp_{secrets.token_hex(24)}"
        self._message_id = f"msg_{secrets.token_hex(24)}"
        self._number = 0

    def of(self, answers: Answers) -> JsonObject:
        """The response when all of its answer is there."""
        self._answers = answers
        return self.to_json()

    def events(self, event: JsonObject) -> Iterator[JsonObject]:
        """The events of a stream that an event of the engine's makes."""
        self._answers.take(event)
        if "begin" in event:
            yield from self._opening()
        elif "done" in event:
            yield from self._closing()
        elif event["text"] or event.get("tokens"):
            yield self._event(
                "response.output_text.delta",
                **self._place(),
                content_index=0,
                delta=event["text"],
                logprobs=event.get("tokens", []),
            )

    def failed(self, error: ApiError) -> JsonObject:
        """The event of a stream that cannot go on."""
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def _opening(self) -> Iterator[JsonObject]:
        started = self.to_json("in_progress")
        yield self._event("response.created", response=started)
        yield self._event("response.in_progress", response=started)
        item = {**self._message("in_progress"), "content": []}
        yield self._event("response.output_item.added", output_index=0, item=item)
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._event(
            "response.content_part.added", **self._place(), content_index=0, part=empty
        )

    def _closing(self) -> Iterator[JsonObject]:
        sample = self._answers.samples[0]
        place = {**self._place(), "content_index": 0}
        yield self._event(
            "response.output_text.done", **place, text=sample.text, logprobs=sample.tokens
        )
        message = self._message(self._status())
        yield self._event("response.content_part.done", **place, part=message["content"][0])
        yield self._event("response.output_item.done", output_index=0, item=message)
        yield self._event(f"response.{self._status()}", response=self.to_json())

    def _event(self, kind: str, **fields: object) -> JsonObject:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _place(self) -> JsonObject:
        return {"item_id": self._message_id, "output_index": 0}

    def _status(self) -> str:
        return "completed" if self._answers.samples[0].finish == "stop" else "incomplete"

    def _message(self, status: str) -> JsonObject:
        sample = self._answers.samples[0]
        part = {
            "type": "output_text",
            "text": sample.text,
            "annotations": [],
            "logprobs": sample.tokens,
        }
        return {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": [part],
        }

    def to_json(self, status: str | None = None) -> JsonObject:
        """The response; `status` is that of one that is not finished."""
        request, given, answers = self._ask.request, self._ask.body, self._answers
        done = status is None
        status = status or self._status()
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id,
            "object": "response",
            "created_at": int(self._created),
            "completed_at": int(time.time()) if done else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": cut,
            "instructions": given.get("instructions"),
            "max_output_tokens": request.limit,
            "metadata": given.get("metadata") or {},
            "model": self._ask.model,
            "output": [self._message(status)] if done else [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": request.effort or None, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": request.temperature,
            "text": {"format": self._format()},
            "tool_choice": given.get("tool_choice") or "auto",
            "tools": [],
            "top_logprobs": request.top or 0,
            "top_p": request.top_p,
            "truncation": "disabled",
            "usage": _usage(answers) if done else None,
        }

    def _format(self) -> object:
        text = self._ask.body.get("text")
        form = text.get("format") if isinstance(text, dict) else None
        return {"type": "text"} if form is None else form


def _usage(answers: Answers) -> JsonObject:
    return {
        "input_tokens": answers.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answers.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": answers.reasoning_tokens},
        "total_tokens": answers.prompt_tokens + answers.completion_tokens,
    }
