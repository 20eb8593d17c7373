"""What every route of the server has at hand: its options and the parts it is made of."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rft_jax.serve.engine import Engine
from rft_jax.serve.graders import Graders
from rft_jax.serve.models import Models
from rft_jax.serve.store import Store


@dataclass(frozen=True)
class ServeOptions:
    """The command line of `rft serve`, and the key.

    Attributes:
        dir: The data of the server, 0700.
        api_key: What clients send as `Authorization: Bearer`.
        base_models: Names and sources of `--model NAME=SOURCE`, in their order.
        max_file_bytes: The largest file that is taken.
        python_timeout_s: The longest that a Python grader may run, in seconds.
        judge_url: A server in OpenAI's format for graders that ask a model; "" for none.
        inference_url: A server that answers instead of our engine; "" for none.
        allow_hosts: Hosts besides this one that webhooks may go to by http.
        environment: That of children which use the devices; the server itself is on the CPU.
    """

    dir: Path
    api_key: str
    base_models: tuple[tuple[str, str], ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    max_file_bytes: int = 512 << 20
    python_timeout_s: float = 120.0
    judge_url: str = ""
    inference_url: str = ""
    allow_hosts: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Service(Protocol):
    """A part of the server that runs beside the routes, from the first request to the last."""

    async def start(self) -> None:
        """Begins; called once, before any request is taken."""
        ...

    async def stop(self) -> None:
        """Ends, with all children."""
        ...


@dataclass
class Context:
    """The server; `request.app.state.context` in a route.

    Attributes:
        store: The database.
        models: What clients can name as `model`.
        engine: Answers prompts.
        graders: Grades on the CPU.
        services: What is started and stopped besides engine and graders.
    """

    options: ServeOptions
    store: Store
    models: Models
    engine: Engine
    graders: Graders
    services: list[Service] = field(default_factory=list)
