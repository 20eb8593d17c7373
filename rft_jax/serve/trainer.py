"""`python -m rft_jax.serve.trainer JOBDIR`: trains a job, or goes on with it.

A child of the server that knows no database: it writes the job's run, whose metrics the server
reads. Exit status 0: done; 2: the input cannot work; 1: the training failed, each with a sentence
in `ended.json`; 143: ended by SIGTERM with everything saved. Anything else is a crash.
"""

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rft_jax.serve.job_folder import JobFolder, write_value
from rft_jax.serve.parent import PARENT, end_with_parent

if TYPE_CHECKING:
    from rft_jax.config import Config

_FITTED = "RFT_TRAINER_FITTED"  # in the environment: the devices are those that the batch needs
_GRADER = "grader: "  # begins what `host_step` says of graders that failed


def main() -> int:
    """The command line."""
    end_with_parent(int(os.environ[PARENT]))
    folder = JobFolder(Path(sys.argv[1]))
    folder.ended.unlink(missing_ok=True)
    _wait_for_the_one_before(folder)
    # After that, since they take seconds.
    from rft_jax.config.overrides import read_config
    from rft_jax.training import train
    from rft_jax.utils.errors import InputError, Interrupted, RunFailed

    sys.stderr = _Log(sys.stderr, folder.warnings)
    try:
        config = read_config(folder.config)
        _fit_devices(config, folder)
        train(config, folder.run)
    except InputError as error:
        return _failed(folder, error, 2)
    except RunFailed as error:
        return _failed(folder, error, 1)
    except Interrupted as error:
        return error.status
    return 0


def _failed(folder: JobFolder, error: Exception, status: int) -> int:
    print(error, file=sys.stderr, flush=True)
    write_value(folder.ended, {"message": str(error)})
    return status


def _wait_for_the_one_before(folder: JobFolder) -> None:
    """A trainer of a server that was killed saves and leaves; `train` would refuse meanwhile."""
    lock = folder.run / ".lock"
    if lock.exists():
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)


def _fit_devices(config: "Config", folder: JobFolder) -> None:
    """Starts this process anew with fewer devices where a step's prompts do not divide over all."""
    import jax

    from rft_jax.config import MeshConfig

    (stage,) = config.training_stages
    devices = len(jax.devices())
    prompts, parts = stage.batch_size, stage.update_parts
    used = max(
        count
        for count in range(1, devices + 1)
        if prompts % count == 0 and parts.fit(prompts // count)
    )
    variable = {"cpu": "JAX_NUM_CPU_DEVICES", "gpu": "CUDA_VISIBLE_DEVICES"}.get(
        jax.default_backend()
    )
    if used < devices and config.mesh == MeshConfig() and variable and _FITTED not in os.environ:
        visible = os.environ.get(variable) or ",".join(map(str, range(devices)))
        some = ",".join(visible.split(",")[:used])
        os.environ[variable] = some if variable.startswith("CUDA") else str(used)
        os.environ[_FITTED] = "1"
        os.execv(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]])
    write_value(folder.notes, {"devices": devices, "platform": jax.default_backend()})


class _Log:
    """stderr, of which what graders say goes to a file as well."""

    def __init__(self, stream: TextIO, warnings: Path):
        self._stream, self._warnings = stream, warnings

    def write(self, text: str) -> int:
        """Writes a text, and notes what went wrong in a grader."""
        if text.startswith(_GRADER):
            with self._warnings.open("a") as file:
                file.write(json.dumps(text.removeprefix(_GRADER)) + "\n")
        return self._stream.write(text)

    def flush(self) -> None:
        """As of a stream."""
        self._stream.flush()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.exit(main())
