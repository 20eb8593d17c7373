"""Start-up on several hosts: the same command on each of them, inside of `joined()`.

Slurm, Open MPI and Google's TPUs (TPU VMs and GKE) say themselves which processes belong together.
Elsewhere each process is told by three environment variables:

    JAX_COORDINATOR_ADDRESS=host0:1234 JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=0 rft train ...
"""

import contextlib
import glob
import importlib.util
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from rft_jax.utils.errors import InputError, RunFailed

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # how many processes there are
CONNECT_S = 300  # for the slowest host to come up; jax's default
SHUTDOWN_S = 60  # that a host which fails waits for the others


@contextlib.contextmanager
def distributed_session() -> Iterator[None]:
    """Makes one program of the processes of a launcher: `jax.devices()` are those of all hosts.

    To be entered before any device is used; without a launcher it does nothing.

    Raises:
        InputError: the hosts do not find each other, or the variables cannot be used.
        RunFailed: another host was lost within.
    """
    if not jax.distributed.is_initialized():
        arguments = _arguments(os.environ)
        if arguments is not None:
            _initialize(arguments)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).splitlines()[0]
        raise RunFailed(
            f"host {jax.process_index()}: failed, or lost another host ({reason}); see what the "
            "first one to stop says, then start the same command on all of them to go on"
        ) from error


def _arguments(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Of `jax.distributed.initialize`; empty where it finds them itself, None for one process."""
    given = [name for name in VARIABLES if environment.get(name)]
    if given:
        if missing := [name for name in VARIABLES if name not in given]:
            raise InputError(
                f"{given[0]} is set, but not {' and '.join(missing)}; set all three on every host"
            )
        address, *numbers = (environment[name] for name in VARIABLES)
        host, _, port = address.rpartition(":")
        if not (host and port.isdigit()):
            raise InputError(f"{VARIABLES[0]}: {address!r} is no address; write HOST:PORT")
        if not all(number.isdigit() for number in numbers):
            raise InputError(f"{VARIABLES[1]} and {VARIABLES[2]} must be numbers; got {numbers}")
        processes, process = map(int, numbers)
        if process >= processes:
            raise InputError(
                f"{VARIABLES[2]} must be below {VARIABLES[1]}; got {process} of {processes}"
            )
        return {
            "coordinator_address": address,
            "num_processes": processes,
            "process_id": process,
            "cluster_detection_method": "deactivate",
        }
    sizes = [environment.get(name) or "1" for name in LAUNCHERS]
    return {} if any(size != "1" for size in sizes) or _has_tpu() else None


def _has_tpu() -> bool:
    devices = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*")
    return bool(devices and importlib.util.find_spec("libtpu"))


def _initialize(arguments: dict[str, Any]) -> None:
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=CONNECT_S,
            shutdown_timeout_seconds=SHUTDOWN_S,
        )
    except (RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and not arguments and _has_tpu():
            return  # a TPU that belongs to no slice that jax knows of, such as a notebook's
        raise InputError(
            f"the hosts could not be joined ({str(error).splitlines()[0]}); start the same command "
            f"on all of them, or set {', '.join(VARIABLES)} on each"
        ) from error
