"""What every host does in test_hosts.py; prints one JSON object."""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rft_jax.parallel import (
    AsyncMax,
    distributed_session,
    enter_on_all_hosts,
    first_host_first,
    from_local,
    gather_objects,
    local_rows,
    raise_on_all_hosts,
    to_host,
)
from rft_jax.utils.errors import InputError, RunFailed


def caught(action):
    """The error of an action, as text."""
    try:
        action()
    except (InputError, RunFailed) as error:
        return f"{type(error).__name__}: {error}"
    return None


def fail_on_second(error):
    with raise_on_all_hosts():
        if jax.process_index() == 1:
            raise error


class ClosedOnSecond:
    """A context manager that the second host cannot enter."""

    closed = False

    def __enter__(self):
        if jax.process_index() == 1:
            raise InputError("no such thing here")

    def __exit__(self, *_):
        self.closed = True


def main():
    host = jax.process_index()
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    place = NamedSharding(mesh, PartitionSpec("data"))
    here = local_rows(place, 8)
    rows = from_local({"x": np.arange(8.0)[here]}, place, 8)
    found = {
        "hosts": jax.process_count(),
        "devices": len(jax.devices()),
        "rows": here.tolist(),
        "gathered": gather_objects({"host": host, "text": "x" * 3000 * host}),
        "array": to_host(jax.jit(lambda tree: tree["x"] * 2)(rows), mesh).tolist(),
        "input": caught(lambda: fail_on_second(InputError("data.jsonl, line 3: no JSON"))),
        "other": caught(lambda: fail_on_second(OSError("gone"))) if host == 0 else None,
    }
    if host == 1:
        try:
            fail_on_second(OSError("gone"))
        except OSError as error:
            found["other"] = str(error)
    maximum = AsyncMax(mesh)
    with jax.transfer_guard("disallow"):
        found["maxima"] = [maximum(15 * (host == 1 and k == 1)) for k in range(4)]
    context = ClosedOnSecond()
    found["context"] = caught(lambda: enter_on_all_hosts(context).__enter__())
    found["closed"] = context.closed
    found["turns"] = first_host_first(lambda: turn(sys.argv[1]))
    print(json.dumps(found))


def turn(path):
    """Adds this host's line to a file; returns the lines."""
    with open(path, "a+") as file:
        file.write(f"{jax.process_index()}\n")
        file.seek(0)
        return file.read().split()


if __name__ == "__main__":
    with distributed_session():
        main()
