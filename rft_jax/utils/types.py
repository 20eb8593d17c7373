"""Types for what has no type of its own: trees of arrays, JSON, jax's devices."""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import jax
import numpy as np

PyTree: TypeAlias = Any  # nested dicts, tuples and dataclasses of arrays, as `jax.tree` takes them
JsonObject: TypeAlias = dict[str, Any]  # as `json.loads` gives it: who uses a value checks it
JsonMapping: TypeAlias = Mapping[str, Any]  # the same, of which nothing is changed
JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
Device: TypeAlias = jax.Device  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no stubs


def host_array(array: np.ndarray) -> jax.Array:
    """A NumPy array in a struct of jax arrays, which `parallel.from_local` sends to the devices."""
    return cast(jax.Array, array)
