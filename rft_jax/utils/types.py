"""Types for what has no type of its own: trees of arrays, objects read from JSON, jax's devices."""

from typing import Any, TypeAlias

import jax

PyTree: TypeAlias = Any  # nested dicts, tuples and dataclasses of arrays, as `jax.tree` takes them
JsonObject: TypeAlias = dict[str, Any]  # as `json.loads` gives it: who uses a value checks it
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no stubs
