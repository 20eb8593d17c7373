"""The work directory of a run: held by one process, and of one configuration."""

import contextlib
import fcntl
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from rft_jax.config import (
    Config,
)
from rft_jax.config.overrides import differences, read_config, to_json
from rft_jax.parallel import (
    is_first,
)
from rft_jax.utils.errors import InputError

# Settings that change no result, or no more than its rounding: of the run, and of its models.
NO_RESULT = ("host", "tensorboard", "wandb_project", "compilation_cache", "mesh")


NO_RESULT_OF_MODEL = ("remat", "attention", "decode_attention", "decode_layers")


LOCK_FILE = ".lock"


@contextlib.contextmanager
def lock_workdir(workdir: Path) -> Iterator[None]:
    """Holds a work directory for this process; on several hosts the first one holds it for all.

    A new one in which nothing was written for bad input is removed again.

    Raises:
        InputError: Another process has it.
    """
    new, path = not workdir.exists(), workdir / LOCK_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise InputError(
            f"{workdir}: cannot be written ({error.strerror}); use another work directory"
        ) from None
    with lock:
        if is_first():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.stat()  # or it was removed, as below, before this process held it
            except OSError:
                raise InputError(
                    f"{workdir}: another process is working in it; wait for it or use "
                    "another work directory"
                ) from None
        try:
            yield
        except InputError:
            if new and is_first() and [file.name for file in workdir.iterdir()] == [LOCK_FILE]:
                path.unlink()
                workdir.rmdir()
            raise


def check_same(stored: Path, config: Config) -> None:
    """Refuses to go on with settings that would give another result.

    Raises:
        InputError: Naming them.
    """
    old = to_json(read_config(stored))  # settings it lacks have their defaults
    new = json.loads(json.dumps(to_json(config)))
    for run in (old, new):
        for name in NO_RESULT:
            run.pop(name, None)
        for model, name in itertools.product(run["models"], NO_RESULT_OF_MODEL):
            model.pop(name, None)
    if changed := differences(old, new):
        raise InputError(
            f"{stored.parent}: the work directory belongs to another configuration "
            f"({'; '.join(changed)}); use another work directory or the same settings"
        )
