"""Starting the server: its folder, its key, its base models, and what it is made of."""

import fcntl
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rft_jax.serve.app import make_app
from rft_jax.serve.context import Context, ServeOptions
from rft_jax.serve.engine import Engine
from rft_jax.serve.graders import Graders
from rft_jax.serve.listen import run_server
from rft_jax.serve.models import Models, ServedModel
from rft_jax.serve.store import Store
from rft_jax.serve.templates import read_template
from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError

KEY_VARIABLE = "RFT_API_KEY"
KEY_FILE = "api_key"
_LOCK_FILE = ".lock"
_LOCK_S = 30.0  # that a server before this one may take to end


def serve(
    folder: Path,
    *,
    base_models: tuple[tuple[str, str], ...],
    host: str,
    port: int,
    max_file_bytes: int,
    python_timeout_s: float,
    judge_url: str,
    inference_url: str,
    allow_hosts: tuple[str, ...],
    environment: Mapping[str, str],
) -> None:
    """Serves until SIGTERM; see `context.ServeOptions`.

    Raises:
        InputError: A model cannot be served, the folder is used already, or the address is.
    """
    bases = open_bases(base_models)
    with open_folder(folder):
        options = ServeOptions(
            dir=folder.resolve(),
            api_key=read_key(folder),
            base_models=tuple((name, _absolute(source)) for name, source in base_models),
            host=host,
            port=port,
            max_file_bytes=max_file_bytes,
            python_timeout_s=python_timeout_s,
            judge_url=judge_url,
            inference_url=inference_url,
            allow_hosts=allow_hosts,
            environment=environment,
        )
        run_server(make_app(make_context(options, bases)), options)


def make_context(options: ServeOptions, bases: list[ServedModel]) -> Context:
    """The parts of a server, none of them started."""
    store = Store(options.dir)
    models = Models(bases, store)
    load = [] if options.inference_url else [base.path for base in bases]
    engine = Engine(load, options.environment)
    return Context(options, store, models, engine, Graders(options, models))


def open_bases(base_models: tuple[tuple[str, str], ...]) -> list[ServedModel]:
    """The base models of the command line.

    Raises:
        InputError: One cannot be served, or a name is there twice.
    """
    found: dict[str, ServedModel] = {}
    for name, source in base_models:
        if name in found or name.startswith("ft:"):
            raise InputError(f"--model {name}: the name is taken; use another")
        template = read_template(source)
        created = template.created or int(time.time())
        found[name] = ServedModel(name, template.path, name, created)
    return list(found.values())


def open_folder(folder: Path) -> TextIO:
    """Holds the server's folder for this process; the file is closed to give it free.

    Raises:
        InputError: Another server has it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    lock = (folder / _LOCK_FILE).open("w")
    end = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except OSError:
            if time.monotonic() > end:
                lock.close()
                raise InputError(
                    f"{folder}: another server uses it; end that one or use another --dir"
                ) from None
            time.sleep(0.2)


def read_key(folder: Path) -> str:
    """The key that clients send: of the environment, or of the folder, where it is made if new.

    Raises:
        InputError: It is empty.
    """
    if key := os.environ.get(KEY_VARIABLE, ""):
        return key
    path = folder / KEY_FILE
    if not path.exists():
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"sk-rft-{secrets.token_urlsafe(32)}\n")
        log(f"the key for clients is in {path}")
    key = path.read_text(encoding="utf-8").strip()
    if not key:
        raise InputError(f"{path}: is empty; remove it and start the server again")
    return key


def _absolute(source: str) -> str:
    """A source that children find from wherever they run."""
    file, colon, variant = source.partition(":")
    return f"{Path(file).resolve()}{colon}{variant}" if Path(file).exists() else source
