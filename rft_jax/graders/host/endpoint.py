"""`endpoint`: a service of the user's that grades.

    {"type": "endpoint", "url": "https://grader.example/score", "headers": {...}, "rate_limit": 50}

It gets `{"sample", "item", "trace_id"}` by POST, the first two as `python` graders have them, and
answers `{"score": 0.5}`, any finite number. One that gives no score after the retries is an
`other_error`: the sample is not valid.
"""

import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from rft_jax.config import HostOptions
from rft_jax.graders.host.client import Client, ServiceError
from rft_jax.graders.host.payload import check_rows, finite_number, payload
from rft_jax.graders.host.service import ServiceSession, open_service, web_address
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import HostSample, HostScore, Items

# OpenAI's limits.
TIMEOUT_S = 600.0
PAYLOAD_BYTES = 1 << 20


@dataclass(frozen=True)
class Endpoint:
    """A validated `endpoint`; `rate_limit` is in requests a second."""

    name: str
    url: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)  # may hold a password
    rate_limit: float | None

    @classmethod
    def parse(cls, name: str, fields: Fields) -> "Endpoint":
        """See `HostGraderType.parse`."""
        fields.only("url", "headers", "rate_limit")
        return cls(name, web_address(fields, "url"), _headers(fields), _rate_limit(fields))

    def check(self, items: Items) -> None:
        """See `HostGraderType.check`."""
        check_rows(items)

    def open(self, options: HostOptions) -> AbstractContextManager[ServiceSession]:
        """See `HostGraderType.open`."""
        headers = dict(self.headers)
        client = Client(self.url, headers, options.requests, TIMEOUT_S, self.rate_limit)
        return open_service(self._ask, client, options.requests)

    def _ask(self, client: Client, sample: HostSample, items: Items, n: int) -> HostScore:
        began = time.monotonic()
        score, message = 0.0, ""
        try:
            score = self._score(client, sample, items, n)
        except ServiceError as error:
            message = str(error)
        return HostScore(
            score,
            frozenset({"other_error"} if message else ()),
            {f"{self.name}/seconds": time.monotonic() - began},
            message,
        )

    def _score(self, client: Client, sample: HostSample, items: Items, n: int) -> float:
        body = payload(sample, items, n, trace_id=f"trace_{uuid.uuid4().hex}")
        if len(body) > PAYLOAD_BYTES:
            raise ServiceError(f"{self.url}: sample and item take more than {PAYLOAD_BYTES} bytes")
        score = finite_number(client.post(body).get("score"))
        if score is None:
            raise ServiceError(f"{self.url}: the answer has no number as score")
        return score


def _headers(fields: Fields) -> tuple[tuple[str, str], ...]:
    headers = fields.values.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(v, str) for v in headers.values()):
        raise fields.error("headers", "must be an object with strings; correct it")
    for name, value in headers.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise fields.error(f"headers.{name}", "must be printable ASCII; correct it")
    return tuple(headers.items())


def _rate_limit(fields: Fields) -> float | None:
    value = fields.values.get("rate_limit")
    if value is None:
        return None
    number = finite_number(value)
    if number is None or number <= 0:
        raise fields.error("rate_limit", f"must be a number of requests a second, not {value!r}")
    return number
