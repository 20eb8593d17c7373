"""Metrics as JSON lines, and where else they are asked for; progress goes to stderr."""

import contextlib
import json
import os
import resource
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import jax
import numpy as np

from rft_jax.logging.tensorboard import EventFile
from rft_jax.utils.errors import InputError


class Writer(Protocol):
    """A place for metrics rows: a step's names and values, `timing` an object of its own."""

    def write(self, row: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Writers:
    """Several places as one; a context manager.

    A place that cannot be written to (a full disk) is reported once and the run goes on.
    """

    def __init__(self, writers: Sequence[Writer]):
        self._writers = writers
        self._failed: set[int] = set()

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *_) -> None:
        for index, writer in enumerate(self._writers):
            self._guard(index, writer.close)

    def write(self, row: dict[str, Any]) -> None:
        """Gives every place the row, its arrays as numbers and non-finite ones as None."""
        row = to_numbers(row)
        for index, writer in enumerate(self._writers):
            self._guard(index, writer.write, row)

    def _guard(self, index: int, action: Any, *arguments: Any) -> None:
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

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; arrays become numbers, non-finite ones null."""
        line = json.dumps(to_numbers(row)).encode() + b"\n"
        if self._cut:  # a full disk took part of a line; it ends here
            line = b"\n" + line
        self._cut = True
        while line:
            line = line[self._file.write(line) :]
        self._cut = False


class TensorBoardFile:
    """A stage's TensorBoard event file; `tensorboard --logdir WORKDIR` finds it."""

    def __init__(self, directory: Path, step: int):
        self._file = EventFile(directory, step)

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row's scalars; non-finite ones are left out."""
        self._file.write(row["step"], scalars(row))

    def close(self) -> None:
        self._file.close()


class WandbRun:
    """A stage as a run of Weights & Biases, which a resumed stage continues.

    Args:
        project: Of Weights & Biases.
        directory: The stage's folder; the run's id is kept in it.
        group: The stages' common name.
        config: Settings to show with the run, as a JSON value.
    """

    def __init__(self, project: str, directory: Path, group: str, config: dict[str, Any]):
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

    def write(self, row: dict[str, Any]) -> None:
        """Logs a row's scalars; of a step that was logged before, the first values stay."""
        self._run.log(scalars(row), step=row["step"])

    def close(self) -> None:
        self._run.finish()


def import_wandb() -> ModuleType:
    """The package of Weights & Biases, which is no dependency.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "wandb_project: Weights & Biases needs its package; `pip install wandb`, or leave the "
            "setting empty"
        ) from error
    return wandb


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """A row's finite numbers but the step, those of `timing` as `timing/name`."""
    flat = {name: value for name, value in row.items() if name not in ("step", "timing")}
    flat |= {f"timing/{name}": value for name, value in row.get("timing", {}).items()}
    return {name: v for name, v in flat.items() if isinstance(v, int | float)}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; lines that were cut while they were written are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and "step" in row:
                rows.append(row)
    return rows


def to_numbers(value: Any) -> Any:
    """A tree of scalars as JSON values."""
    if isinstance(value, dict):
        return {key: to_numbers(member) for key, member in value.items()}
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = np.asarray(value).item()
    if isinstance(number, float):
        return float(f"{number:.8g}") if np.isfinite(number) else None
    return number


def peak_memory_bytes() -> int:
    """The most memory in use so far: of the device where it says, else of the process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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

    def _hear(self, event: str, seconds: float, **_: Any) -> None:
        if event == self._COMPILED:
            self.count += 1
            self.seconds += seconds
        elif event == self._READ:
            self.count -= 1
            self.cached += 1
            self.seconds -= seconds


def log(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
