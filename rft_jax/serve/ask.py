"""What chat and responses have in common: a question that has been checked, and its answers."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rft_jax.serve.bodies import Fields
from rft_jax.serve.engine import AnswerRequest

if TYPE_CHECKING:  # this module imports jax, which the server's own process does without
    from rft_jax.utils.types import JsonObject

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MOST_TOKENS = 2**31 - 1
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Ask:
    """A request of a client.

    Attributes:
        model: The name that the client gave.
        request: What the engine is asked; its path comes later.
        streams: Whether events are wanted.
        usage: Whether a stream ends with the usage.
        body: The request as it came.
    """

    model: str
    request: AnswerRequest
    streams: bool
    usage: bool
    body: Mapping[str, object]


@dataclass
class Answer:
    """One sample, as far as it has come.

    Attributes:
        tokens: Log-probabilities in the format of chat, where they are wanted.
        finish: "stop", "length", or None while it goes on.
    """

    text: str = ""
    tokens: list[JsonObject] = field(default_factory=list)
    finish: str | None = None


@dataclass
class Answers:
    """The answers to a request, made of the engine's events."""

    samples: list[Answer]
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    fingerprint: str = ""

    @classmethod
    def to(cls, request: AnswerRequest) -> Answers:
        """None yet."""
        return cls([Answer() for _ in range(request.samples)])

    def take(self, event: JsonObject) -> None:
        """Adds an event of the engine's."""
        if "sample" in event:
            sample = self.samples[event["sample"]]
            sample.text += event["text"]
            sample.tokens += event.get("tokens", ())
            sample.finish = event.get("finish")
        elif "begin" in event:
            self.prompt_tokens = event["begin"]["prompt"]
            self.fingerprint = event["begin"]["fingerprint"]
        else:
            self.completion_tokens = event["usage"]["completion"]
            self.reasoning_tokens = event["usage"]["reasoning"]


def read_model(body: Fields) -> str:
    """The name of the model.

    Raises:
        ApiError: 400.
    """
    body.required("model")
    return body.string("model", 1) or ""


def read_seed(body: Fields) -> int:
    """The seed, or a random one, from 0 to 2**64 - 1.

    Raises:
        ApiError: 400.
    """
    seed = body.integer("seed", -(2**63), 2**63 - 1)
    return secrets.randbits(63) if seed is None else seed % 2**64


def read_format(form: Fields | None, schema_in: str = "") -> JsonObject | None:
    """OpenAI's `response_format`, or `text.format` of responses; None for plain text.

    Args:
        form: The object.
        schema_in: The key of the object with the schema; "" if it is the form's own.

    Raises:
        ApiError: 400.
    """
    if form is None:
        return None
    form.required("type")
    kind = form.choice("type", ("text", "json_object", "json_schema"))
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    inner = form
    if schema_in:
        form.required(schema_in)
        inner = form.section(schema_in) or form
    inner.required("name")
    if _SCHEMA_NAME.fullmatch(inner.string("name") or "") is None:
        raise inner.refusal("name", "must be 1 to 64 letters, digits, _ and -")
    inner.boolean("strict")
    inner.string("description")
    inner.required("schema")
    schema = inner.section("schema")
    assert schema is not None, "it is required"
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema.values}}


def refuse_set(body: Fields, keys: Mapping[str, object]) -> None:
    """Refuses parameters that would change the answer and are not supported.

    Args:
        keys: With the value of each that changes nothing.

    Raises:
        ApiError: 400, naming the first.
    """
    for key, harmless in keys.items():
        value = body.values.get(key)
        if value is None or value == harmless or value in ([], {}, ""):
            continue
        raise body.refusal(key, "is not supported here; leave it out")
