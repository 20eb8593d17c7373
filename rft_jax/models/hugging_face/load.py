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
from rft_jax.models.nf4 import Nf4, quantize
from rft_jax.parallel import Shardings
from rft_jax.utils.types import Device, PyTree

Index: TypeAlias = tuple[slice, ...]


def load_params(
    checkpoint: Checkpoint, shardings: Shardings, dtype: DTypeLike = jnp.float32
) -> Params:
    """The checkpoint's weights, an adapter's base; each process reads what its own devices hold.

    Every byte is copied once out of its file. Besides the arrays, the host holds one device's
    shard of one array, and some ten megabytes of a tensor; of weights in four bits also one matrix
    in float32, which is quantized on the device.

    Args:
        checkpoint: From `open_checkpoint`.
        shardings: Each weight's, from `parallel.shardings`.
        dtype: The arrays', whatever the files have, where they are not in four bits.
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

    def load(layout: Layout, sharding: NamedSharding | Nf4) -> Array | Nf4:
        if isinstance(sharding, Nf4):
            return _load_packed(files, layout, sharding)
        like = jax.ShapeDtypeStruct(layout.shape, dtype)
        return _assemble(
            like, sharding, layout.shape, lambda index: layout.read(files, index, np.dtype(dtype))
        )

    return jax.tree.map(load, tree, shardings)


def _load_packed(files: TensorFiles, layout: Layout, sharding: Nf4) -> Nf4:
    """Weights in four bits, from files that have numbers; matrix by matrix."""
    axis = sharding.axis

    def read(index: Index) -> Nf4:
        bounds = [s.indices(size)[:2] for s, size in zip(index, layout.shape, strict=True)]
        part = tuple(stop - start for start, stop in bounds)
        whole = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), _packed(part, axis))
        for position in np.ndindex(part[: layout.matrices]):
            starts = (start + at for (start, _), at in zip(bounds, position, strict=False))
            one = (*(slice(at, at + 1) for at in starts), *index[layout.matrices :])
            matrix = layout.read(files, one, np.dtype(np.float32))
            packed = jax.device_get(_quantize(matrix.squeeze(tuple(range(len(position)))), axis))
            whole.values[position], whole.scale[position] = packed.values, packed.scale
        return whole

    return _assemble(_packed(layout.shape, axis), sharding, layout.shape, read)


_quantize = jax.jit(quantize, static_argnums=1)


def _packed(shape: tuple[int, ...], axis: int) -> Nf4:
    """The shapes of an array in four bits."""
    return jax.eval_shape(lambda: quantize(jnp.zeros(shape), axis))


def _assemble(
    like: PyTree, shardings: Shardings, shape: tuple[int, ...], read: Callable[[Index], PyTree]
) -> PyTree:
    """`jax.make_array_from_callback`, but with one call for all devices with the same shard.

    Args:
        like: The shapes of what is assembled: of an array, or of the two of an `Nf4`.
        shardings: Theirs, which split alike.
        shape: That of the numbers, of which `read` takes the slices.
    """
    sharding = jax.tree.leaves(shardings)[0]
    devices_of: dict[tuple, tuple[Index, list[Device]]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None  # every device that is asked for is addressable
        bounds = tuple(s.indices(size) for s, size in zip(index, shape, strict=True))
        devices_of.setdefault(bounds, (index, []))[1].append(device)
    shards: list[PyTree] = []
    for index, devices in devices_of.values():
        part = read(index)
        shards += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(shards)  # or the parts would pile up on the host
    return jax.tree.map(
        lambda whole, place, *parts: jax.make_array_from_single_device_arrays(
            whole.shape, place, list(parts)
        ),
        like,
        shardings,
        *shards,
    )
