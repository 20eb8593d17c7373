"""Asking a model to judge, at any server that speaks OpenAI's chat completions.

The server is `base_url` of the grader's JSON, else the environment variable OPENAI_BASE_URL, else
OpenAI's own. Its key is in the variable that `api_key_env` names: OPENAI_API_KEY by default, none
if the JSON has a `base_url`, so that a grader of somebody else's cannot send for one's key.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from rft_jax.config import HostOptions
from rft_jax.graders.host.client import Client, ServiceError
from rft_jax.graders.host.payload import finite_number
from rft_jax.graders.host.service import ServiceSession, is_web_address, open_service, web_address
from rft_jax.graders.host.spoken import values_in
from rft_jax.graders.judge_spec import Message, fill_in, parse_messages, templates_of
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.template import Template, render_on_host
from rft_jax.graders.types import HostSample, HostScore, HostView, Items
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonMapping, JsonObject

KEY_PREFIX = "RFT_JUDGE_"  # of the variables that a grader's JSON may name
FIELDS = ("model", "input", "sampling_params", "base_url", "api_key_env")
TIMEOUT_S = 600.0
_OPENAI = "https://api.openai.com/v1"
# OpenAI's names, a misspelt one among them, and those that servers know them by.
_SAMPLING = {
    "seed": "seed",
    "top_p": "top_p",
    "temperature": "temperature",
    "max_completions_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_completion_tokens",
    "reasoning_effort": "reasoning_effort",
}
_SHOWN = 300  # characters of an answer that a message shows


class NoVerdict(Exception):
    """A judge answered, but gave no verdict.

    Attributes:
        error: The name in `types.ERRORS`.
    """

    def __init__(self, error: str, message: str):
        super().__init__(message)
        self.error = error


@dataclass(frozen=True)
class JudgeRequest:
    """A model and what it is asked.

    Attributes:
        model: As the server calls it.
        messages: The prompt.
        sampling: Parameters by the server's names.
        base_url: The server's; empty for the environment's.
        api_key_env: The environment variable with the key; empty for none. One that the JSON names
            begins with `KEY_PREFIX`.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: tuple[tuple[str, Any], ...]
    base_url: str
    api_key_env: str

    @classmethod
    def parse(cls, fields: Fields) -> "JudgeRequest":
        """Reads the fields `FIELDS`.

        Raises:
            InputError: Naming the path inside the JSON.
        """
        base_url = web_address(fields, "base_url") if "base_url" in fields.values else ""
        api_key_env = "" if base_url else "OPENAI_API_KEY"
        if "api_key_env" in fields.values:
            api_key_env = fields.string("api_key_env")
            if api_key_env and not api_key_env.startswith(KEY_PREFIX):
                raise fields.error(
                    "api_key_env",
                    f"must begin with {KEY_PREFIX}, so that a grader written by somebody else "
                    "cannot send other secrets away; rename the variable",
                )
        return cls(
            fields.string("model"), parse_messages(fields), _sampling(fields), base_url, api_key_env
        )

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        for template in self._templates():
            template.encode(items)

    def open(
        self,
        name: str,
        result: JsonMapping,
        read: Callable[[object], float | None],
        hear: Callable[[str], float | None],
        options: HostOptions,
    ) -> AbstractContextManager[ServiceSession]:
        """Opens the grader that the judge is for.

        Args:
            name: The grader's.
            result: JSON schema of the verdict.
            read: From the verdict to a score; None says that it is not one.
            hear: The same from what a judge has said in sentences.
            options: See `HostOptions`.

        Raises:
            InputError: The environment lacks the key.
        """

        def ask(client: Client, sample: HostSample, items: Items, n: int) -> HostScore:
            began = time.monotonic()
            score, usage, message = 0.0, {}, ""
            texts, errors = render_on_host(HostView(sample), self._templates(), items, n)
            if not errors:
                try:
                    answer = client.post(self._request(texts, result))
                    usage = answer.get("usage")
                    score = _read(answer, read, hear)
                except ServiceError as error:
                    errors, message = frozenset({"model_grader_server_error"}), str(error)
                except NoVerdict as error:
                    errors, message = frozenset({error.error}), str(error)
            usage = usage if isinstance(usage, dict) else {}
            details = {
                f"{name}/seconds": time.monotonic() - began,
                f"{name}/prompt_tokens": _count(usage.get("prompt_tokens")),
                f"{name}/completion_tokens": _count(usage.get("completion_tokens")),
            }
            return HostScore(score, errors, details, message)

        url, headers = self._server(name)
        return open_service(
            ask, Client(url, headers, options.requests, TIMEOUT_S), options.requests
        )

    def _templates(self) -> list[Template]:
        return templates_of(self.messages)

    def _server(self, name: str) -> tuple[str, dict[str, str]]:
        """The address to post to, and the headers that let one in."""
        base_url = self.base_url or os.environ.get("OPENAI_BASE_URL") or _OPENAI
        if not is_web_address(base_url):
            raise InputError(
                f"{name}: OPENAI_BASE_URL is {base_url!r}, which is no web address; write "
                "https://host/v1"
            )
        key = os.environ.get(self.api_key_env) if self.api_key_env else None
        if not key and (base_url == _OPENAI or (self.base_url and self.api_key_env)):
            raise InputError(
                f"{name}: the judge at {base_url} needs a key; set {self.api_key_env}, or for a "
                "server of your own OPENAI_BASE_URL"
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return base_url.rstrip("/") + "/chat/completions", headers

    def _request(self, texts: tuple[str, ...], result: JsonMapping) -> bytes:
        step = _object(description={"type": "string"}, conclusion={"type": "string"})
        schema = _object(steps={"type": "array", "items": step}, result=result)
        format = {"name": "verdict", "strict": True, "schema": schema}
        return json.dumps(
            {
                "model": self.model,
                "messages": fill_in(self.messages, texts),
                **dict(self.sampling),
                "response_format": {"type": "json_schema", "json_schema": format},
            }
        ).encode()


def _object(**properties: JsonMapping) -> JsonObject:
    """JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }


def _read(
    answer: JsonMapping,
    read: Callable[[object], float | None],
    hear: Callable[[str], float | None],
) -> float:
    """The score that a chat completion comes to.

    A server without structured output may answer with the bare verdict, as JSON or as plain text (a
    label can look like a number), in a fence, after a thought, or in a sentence.

    Raises:
        ServiceError: It is no chat completion.
        NoVerdict: The judge refuses, or says something else.
    """
    try:
        choice = answer["choices"][0]
        message, reason = choice["message"], choice.get("finish_reason")
        refusal, content = message.get("refusal"), message.get("content")
    except (LookupError, TypeError, AttributeError):
        shown = json.dumps(answer)[:_SHOWN]
        raise ServiceError(f"the answer is no chat completion: {shown}") from None
    if refusal or reason == "content_filter":
        shown = str(refusal or reason)[:_SHOWN]
        raise NoVerdict("model_grader_refusal_error", f"the judge refuses: {shown}")
    score = None
    if isinstance(content, list) and all(isinstance(p, dict) for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if isinstance(content, str):
        values, spoken = values_in(content)
        score = next((score for score in map(read, values) if score is not None), None)
        if score is None and spoken:
            score = hear(spoken)
    if score is None:
        shown = f"{str(content)[:_SHOWN]!r} (finish_reason {reason})"
        raise NoVerdict("model_grader_parse_error", f"the judge's answer has no verdict: {shown}")
    return score


def _count(value: object) -> float:
    return finite_number(value) or 0.0


def _sampling(fields: Fields) -> tuple[tuple[str, Any], ...]:
    params = fields.values.get("sampling_params", {})
    if not isinstance(params, dict):
        raise fields.error("sampling_params", "must be an object; correct it")
    for key, value in params.items():
        if key not in _SAMPLING:
            known = ", ".join(_SAMPLING)
            raise fields.error(f"sampling_params.{key}", f"unknown; remove it (known: {known})")
        if key == "reasoning_effort":
            usable = value is None or isinstance(value, str)
        else:
            usable = value is None or finite_number(value) is not None
        if not usable:
            raise fields.error(f"sampling_params.{key}", f"{value!r} cannot be used; correct it")
    return tuple((_SAMPLING[key], value) for key, value in params.items() if value is not None)
