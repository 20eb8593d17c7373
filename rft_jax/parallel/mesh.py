"""The device mesh: `make_mesh(config.mesh)` with axes data, fsdp and tensor."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, Mesh

from rft_jax.config import MeshConfig
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import Device

AnyMesh: TypeAlias = Mesh | AbstractMesh  # the latter for plans, without devices

MESH_AXES = ("data", "fsdp", "tensor")  # "expert" and "context" are reserved names
BATCH_AXES = ("data", "fsdp")  # a batch is split over both; weights over fsdp and tensor


def make_mesh(config: MeshConfig, devices: Sequence[Device] | None = None) -> Mesh:
    """Arranges devices as [data, fsdp, tensor].

    Args:
        config: Axis sizes; one of them may be -1 for the devices that are left.
        devices: All devices of all hosts by default.

    Raises:
        InputError: If the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    if devices[0].platform == "tpu":  # follow the interconnect, such as 4 x 4 x 4 with 8 x 8
        arranged = create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        arranged = np.asarray(devices).reshape(shape)
    return Mesh(arranged, MESH_AXES)


def mesh_shape(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """The sizes of the axes over so many devices.

    Raises:
        InputError: As `make_mesh`.
    """
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError(f"mesh: sizes must be above 0, one of them may be -1; got {sizes}")
    fixed = int(np.prod([size for size in sizes if size > 0]))
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise InputError(
            f"mesh: data x fsdp x tensor = {' x '.join(map(str, sizes))} does not fit "
            f"{devices} device{'s' if devices > 1 else ''}; set mesh.data, mesh.fsdp and "
            "mesh.tensor so that it does, such as to -1, 1 and 1"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


def batch_parts(mesh: AnyMesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
