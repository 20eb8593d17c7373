"""What the graders that are services share: an address, and a session that asks it."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from rft_jax.graders.host.client import Client
from rft_jax.graders.spec_reader import Fields
from rft_jax.graders.types import HostSample, HostScore, Items

Ask = Callable[[Client, HostSample, Items, int], HostScore]


@dataclass(frozen=True)
class ServiceSession:
    """An open grader that is a service.

    Attributes:
        ask: Grades one sample of item n; does not raise.
    """

    ask: Ask
    client: Client
    threads: ThreadPoolExecutor

    def grade_batch(
        self, samples: Sequence[HostSample], items: Items, rows: Sequence[int]
    ) -> list[HostScore]:
        """See `HostSession.grade_batch`."""

        def grade(sample: HostSample, n: int) -> HostScore:
            return self.ask(self.client, sample, items, n)

        return list(self.threads.map(grade, samples, rows))


@contextmanager
def open_service(ask: Ask, client: Client, requests: int) -> Iterator[ServiceSession]:
    """A session with so many requests under way at once."""
    threads = ThreadPoolExecutor(requests)
    try:
        yield ServiceSession(ask, client, threads)
    finally:
        client.close()
        threads.shutdown(cancel_futures=True)


def web_address(fields: Fields, key: str) -> str:
    """A required http or https address."""
    url = fields.string(key)
    if not is_web_address(url):
        raise fields.error(key, f"{url!r} is no web address; write https://host/path")
    return url


def is_web_address(text: str) -> bool:
    """Whether a text is the whole address of something to be had by http or https."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)
