"""Posting JSON to a service: several requests at once, with retries, limits and time-outs."""

import email.utils
import json
import random
import threading
import time
from collections.abc import Mapping

import requests
from requests.adapters import HTTPAdapter

from rft_jax.utils.types import JsonObject

RETRIES = 3
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 8.0  # doubled each time, as OpenAI's client does
_LONGEST_ASKED_DELAY_S = 60.0  # that a server's Retry-After is heeded
_CONNECT_S = 10.0
_RETRIED = (408, 409, 425, 429)  # and all of 500 and above
_ANSWER_BYTES = 4 << 20
_SHOWN = 300  # characters of an answer that an error shows


class ServiceError(Exception):
    """A service gave no usable answer, for all retries; the message says what it did."""


class Client:
    """Posts JSON objects to one address; safe to use from several threads."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        connections: int,
        timeout_s: float,
        rate_limit: float | None = None,
    ):
        """Opens nothing yet.

        Args:
            url: The address.
            headers: Sent with every request.
            connections: Those that are kept open.
            timeout_s: For one request, from its start to the end of the answer.
            rate_limit: Requests a second at most.
        """
        self._url, self._timeout_s = url, timeout_s
        self._session = requests.Session()
        self._session.headers.update(headers)
        self._session.auth = lambda request: request  # not what stands in ~/.netrc
        adapter = HTTPAdapter(pool_maxsize=connections)
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)
        self._interval = 1 / rate_limit if rate_limit else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        """Closes the connections; requests that wait for another try give up."""
        self._closed.set()
        self._session.close()

    def post(self, payload: bytes) -> JsonObject:
        """Posts a JSON object.

        Args:
            payload: The object.

        Returns:
            The object that came back.

        Raises:
            ServiceError: None came.
        """
        for attempt in range(RETRIES + 1):
            self._wait(self._turn())
            delay = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**attempt) * random.uniform(0.75, 1)
            try:
                status, headers, body = self._post_once(payload)
            except requests.RequestException as error:
                problem = str(error) or type(error).__name__
            else:
                if status < 300:
                    return _parse(body)
                problem = f"status {status}: {body[:_SHOWN].decode(errors='replace')}"
                if status < 500 and status not in _RETRIED:
                    break
                delay = _asked_delay(headers.get("retry-after", "")) or delay
            if attempt < RETRIES:
                self._wait(delay)
        raise ServiceError(f"{self._url}: {problem}")

    def _post_once(self, payload: bytes) -> tuple[int, Mapping[str, str], bytes]:
        deadline = time.monotonic() + self._timeout_s
        with self._session.post(
            self._url,
            data=payload,
            headers={"Content-Type": "application/json"},
            timeout=(min(_CONNECT_S, self._timeout_s), self._timeout_s),
            allow_redirects=False,
            stream=True,
        ) as response:
            body = b""
            for chunk in response.iter_content(1 << 14):
                body += chunk
                if len(body) > _ANSWER_BYTES:
                    raise requests.RequestException("the answer is too long")
                if time.monotonic() > deadline:
                    raise requests.Timeout(f"the answer took longer than {self._timeout_s:g} s")
            return response.status_code, response.headers, body

    def _turn(self) -> float:
        """Seconds until a request may start without going beyond the rate limit."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._interval
            return start - now

    def _wait(self, seconds: float) -> None:
        if self._closed.wait(seconds) if seconds else self._closed.is_set():
            raise ServiceError(f"{self._url}: given up, as grading has ended")


def _asked_delay(text: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 if it cannot be heeded."""
    try:
        delay = float(text)
    except ValueError:
        try:
            delay = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return 0.0
    return delay if 0 < delay <= _LONGEST_ASKED_DELAY_S else 0.0


def _parse(body: bytes) -> JsonObject:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ServiceError(f"not a JSON object: {body[:_SHOWN].decode(errors='replace')}")
    return value
