"""Reads a checkpoint straight into sharded arrays."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from rft_jax.models.hugging_face.adapter import adapter_layouts
from rft_jax.models.hugging_face.checkpoint import Checkpoint
from rft_jax.models.hugging_face.layout import Layout, layouts
from rft_jax.models.hugging_face.tensor_files import Tensor, TensorFiles
from rft_jax.models.model import Params, build_model
from rft_jax.parallel import Shardings
from rft_jax.utils.types import Device, PyTree

Index: TypeAlias = tuple[slice, ...]


def load_params(
    checkpoint: Checkpoint, shardings: Shardings, dtype: DTypeLike = jnp.float32
) -> Params:
    """The checkpoint's weights, an adapter's base; each process reads what its own devices hold.

    Every byte is copied once out of its file. Besides the arrays, the host holds one device's
    shard of one array, and some ten megabytes of a tensor.

    Args:
        checkpoint: From `open_checkpoint`.
        shardings: Each weight's, from `parallel.shardings`.
        dtype: The arrays', whatever the files have.
    """
    model = build_model(checkpoint.config, checkpoint.vocab_size)
    return _load(layouts(checkpoint.family, model), checkpoint.tensors, shardings, dtype)


def load_adapters(checkpoint: Checkpoint, shardings: Shardings) -> Params:
    """The adapters of a checkpoint that has some, float32: its trainable partition.

    Args:
        shardings: Each factor's.
    """
    model = build_model(checkpoint.config, checkpoint.vocab_size)
    tree = adapter_layouts(checkpoint.family, model)
    return _load(tree, checkpoint.adapter_tensors, shardings, jnp.float32)


def _load(
    tree: PyTree, tensors: dict[str, Tensor], shardings: Shardings, dtype: DTypeLike
) -> Params:
    files = TensorFiles(tensors)

    def load(layout: Layout, sharding: NamedSharding) -> Array:
        return _assemble(
            layout.shape, sharding, lambda index: layout.read(files, index, np.dtype(dtype))
        )

    return jax.tree.map(load, tree, shardings)


def _assemble(
    shape: tuple[int, ...], sharding: NamedSharding, read: Callable[[Index], np.ndarray]
) -> Array:
    """`jax.make_array_from_callback`, but with one call for all devices with the same shard."""
    devices_of: dict[tuple, tuple[Index, list[Device]]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # every device that is asked for is addressable
        bounds = tuple(s.indices(size) for s, size in zip(index, shape, strict=True))
        devices_of.setdefault(bounds, (index, []))[1].append(device)
    shards: list[Array] = []
    for index, devices in devices_of.values():
        part = read(index)
        shards += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(shards)  # or the parts would pile up on the host
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)
