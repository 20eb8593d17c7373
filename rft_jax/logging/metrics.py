"""Metrics as JSON lines, and where else they are asked for; progress goes to stderr."""

import json
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

import jax

from rft_jax.utils.console import log
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import read_metrics
from rft_jax.utils.numbers import to_numbers
from rft_jax.utils.types import JsonObject


class Writer(Protocol):
    """A sink of metrics rows: a step's names and values, `timing` an object of its own."""

    def write(self, row: JsonObject) -> None: ...

    def close(self) -> None: ...


class Writers:
    """Several sinks as one; a context manager.

    A sink that cannot be written to (a full disk) is reported once and the run goes on.
    """

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers
        self._failed: set[int] = set()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_) -> None:
        for index, writer in enumerate(self._writers):
            self._guard(index, writer.close)

    def write(self, row: JsonObject) -> None:
        """Gives every sink the row, its arrays as numbers and non-finite ones as None."""
        row = to_numbers(row)
        for index, writer in enumerate(self._writers):
            self._guard(index, writer.write, row)

    def _guard(self, index: int, action: Callable[..., object], *arguments: object) -> None:
        try:
            action(*arguments)
        except Exception as error:  # whatever a full disk or a service raises
            if index not in self._failed:
                kind = type(self._writers[index]).__name__
                log(f"warning: {kind} could not write metrics ({error}); the run goes on")
            self._failed.add(index)


class MetricsFile:
    """`metrics.jsonl` of a stage: one line a step, appended and flushed.

    Opening it at a step drops the lines after that step, and at 0 all, which a killed run had
    written after its last checkpoint and is about to write again.
    """

    def __init__(self, path: Path, step: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_metrics(path) if 0 < step >= row["step"]]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(temporary, path)
        self._file = path.open("ab", buffering=0)
        self._cut = False

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write(self, row: JsonObject) -> None:
        """Appends a row; arrays become numbers, non-finite ones null."""
        line = json.dumps(to_numbers(row)).encode() + b"\n"
        if self._cut:  # a full disk took part of a line; it ends here
            line = b"\n" + line
        self._cut = True
        while line:
            line = line[self._file.write(line) :]
        self._cut = False


class WandbRun:
    """A stage as a run of Weights & Biases, which a resumed stage continues.

    Args:
        project: The project in Weights & Biases.
        directory: The stage's folder; the run's id is kept in it.
        group: The stages' common name.
        config: Settings to show with the run, as a JSON value.
    """

    def __init__(self, project: str, directory: Path, group: str, config: JsonObject):
        id_file = directory / "wandb_id"
        if not id_file.exists():
            directory.mkdir(parents=True, exist_ok=True)
            id_file.write_text(secrets.token_hex(4))
        self._run = import_wandb().init(
            project=project,
            dir=directory,
            group=group,
            name=f"{group}/{directory.name}",
            id=id_file.read_text(),
            resume="allow",
            config=config,
        )

    def write(self, row: JsonObject) -> None:
        """Logs a row's scalars; of a step that was logged before, the first values stay."""
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


def import_wandb() -> ModuleType:
    """The package of Weights & Biases, which is no dependency.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]  # no dependency
    except ImportError as error:
        raise InputError(
            "wandb_project: Weights & Biases needs its package; `pip install wandb`, or leave the "
            "setting empty"
        ) from error
    return wandb


def scalars(row: JsonObject) -> dict[str, float]:
    """A row's finite numbers but the step, those of `timing` as `timing/name`."""
    flat = {name: value for name, value in row.items() if name not in ("step", "timing")}
    flat |= {f"timing/{name}": value for name, value in row.get("timing", {}).items()}
    return {name: v for name, v in flat.items() if isinstance(v, int | float)}


class CompileCounter:
    """Counts the programs that XLA has compiled since it was made; a context manager.

    Those read from the compilation cache count apart, in `cached`; `seconds` are of the others. Of
    a program that is read jax tells the duration twice: of reading it, and as if it were compiled.
    """

    _COMPILED = "/jax/core/compile/backend_compile_duration"
    _READ = "/jax/compilation_cache/cache_retrieval_time_sec"

    def __init__(self):
        self.count, self.cached, self.seconds = 0, 0, 0.0

    def __enter__(self) -> "CompileCounter":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event == self._COMPILED:
            self.count += 1
            self.seconds += duration_secs
        elif event == self._READ:
            self.count -= 1
            self.cached += 1
            self.seconds -= duration_secs
