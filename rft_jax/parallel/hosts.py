"""Several hosts, each with a process of its own that runs the same program.

Everything here is a no-op on one host. What says that it is collective must be called by all hosts,
in the same order, or all of them wait.
"""

import contextlib
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from rft_jax.parallel.rules import replicated
from rft_jax.utils.errors import InputError, RunFailed

T = TypeVar("T")

_LEAST_BYTES = 1024  # of a message; sizes are powers of two, so that few programs are compiled


def is_first() -> bool:
    """Whether this is the host that writes files and speaks to people."""
    return jax.process_index() == 0


def gather_objects(value: T) -> list[T]:
    """Every host's value, in their order; collective. The values are pickled."""
    if jax.process_count() == 1:
        return [value]
    message = np.frombuffer(pickle.dumps(value), np.uint8)
    with jax.transfer_guard("allow"):
        lengths = multihost_utils.process_allgather(np.int32(len(message)))
        size = max(_LEAST_BYTES, 1 << int(lengths.max() - 1).bit_length())
        messages = multihost_utils.process_allgather(np.pad(message, (0, size - len(message))))
    return [
        pickle.loads(row[:length].tobytes())
        for row, length in zip(messages, lengths.ravel(), strict=True)
    ]


@contextlib.contextmanager
def raise_on_all_hosts() -> Iterator[None]:
    """What fails in the block on one host fails on all of them; collective at its end.

    The block itself must not be collective: a host that fails in it would let the others wait.

    Raises:
        InputError: of this host, or naming another host that had one.
        RunFailed: naming another host where something else went wrong.
    """
    failed = None
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        failed = error
    kind = InputError if isinstance(failed, InputError) else RunFailed
    problems = gather_objects(failed and (kind, str(failed) or type(failed).__name__))
    if failed:
        raise failed
    for host, problem in enumerate(problems):
        if problem:
            kind, sentence = problem
            raise kind(f"host {host}: {sentence}")


def first_host_first(action: Callable[[], T]) -> T:
    """Lets the first host act, and then the others, who find what it left; collective.

    Raises:
        InputError, RunFailed: as `raise_on_all_hosts`.
    """
    result = None
    for first in (True, False):
        with raise_on_all_hosts():
            if is_first() == first:
                result = action()
    return result


@contextlib.contextmanager
def enter_on_all_hosts(context: contextlib.AbstractContextManager[T]) -> Iterator[T]:
    """A context manager that, where one host cannot enter it, raises on all; collective.

    Raises:
        InputError, RunFailed: as `raise_on_all_hosts`.
    """
    with contextlib.ExitStack() as stack:
        with raise_on_all_hosts():
            value = stack.enter_context(context)
        yield value


def local_rows(sharding: Sharding, rows: int) -> np.ndarray:
    """Which rows of a global array, int64[n] ascending, lie on this host's devices."""
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    return np.unique(np.concatenate([np.arange(rows)[index] for index in indices]))


def from_local(tree: Any, sharding: Sharding, rows: int) -> Any:
    """Global arrays with leading axis `rows`, to which every host brings its `local_rows`."""

    def place(leaf: np.ndarray) -> jax.Array:
        shape = (rows, *np.shape(leaf)[1:])
        return jax.make_array_from_process_local_data(sharding, np.asarray(leaf), shape)

    with jax.transfer_guard_host_to_device("allow"):  # this is the explicit one
        return jax.tree.map(place, tree)


def to_host(tree: Any, mesh: Mesh) -> Any:
    """NumPy arrays of global ones, whole on every host; collective."""
    return jax.device_get(tree if jax.process_count() == 1 else _whole(mesh)(tree))


@functools.cache
def _whole(mesh: Mesh) -> Callable[[Any], Any]:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))


class AsyncMax:
    """The highest of the hosts' numbers, of which all learn at the same call; collective.

    The devices compare while the hosts go on, so that a call returns the maximum of the call before
    (0 at first) and nobody waits for the slowest host. One host hears of its number at once.
    """

    def __init__(self, mesh: Mesh):
        self._pending = None
        self._place = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._maximum = jax.jit(jnp.max, out_shardings=replicated(mesh))

    def __call__(self, number: int) -> int:
        """Takes this host's number, from 0, and returns the hosts' highest."""
        if jax.process_count() == 1:
            return number
        devices = self._place.num_devices
        mine = np.full(len(local_rows(self._place, devices)), number, np.int32)
        maximum = self._maximum(from_local(mine, self._place, devices))
        pending, self._pending = self._pending, maximum
        return 0 if pending is None else int(jax.device_get(pending))
