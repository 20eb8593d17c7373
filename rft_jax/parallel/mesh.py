"""The device mesh: `make_mesh(config.mesh)` with axes data, fsdp and tensor."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import Mesh

from rft_jax.config import MeshConfig, RLStage, TrainingStage
from rft_jax.utils.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")  # "expert" and "context" are reserved names
BATCH_AXES = ("data", "fsdp")  # a batch is split over both; weights over fsdp and tensor


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges devices as [data, fsdp, tensor].

    Args:
        config: Axis sizes; one of them may be -1 for the devices that are left.
        devices: All devices of all hosts by default.

    Raises:
        InputError: if the sizes do not multiply to the number of devices.
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
        InputError: as `make_mesh`.
    """
    sizes = [getattr(config, axis) for axis in MESH_AXES]
    if sizes.count(-1) > 1 or any(size == 0 or size < -1 for size in sizes):
        raise InputError(f"mesh: sizes must be above 0, one of them may be -1; got {sizes}")
    fixed = int(np.prod([size for size in sizes if size > 0]))
    if devices % fixed or (-1 not in sizes and fixed != devices):
        raise InputError(
            f"mesh: data x fsdp x tensor = {' x '.join(map(str, sizes))} does not fit "
            f"{devices} devices; set --config.mesh.data, .fsdp and .tensor so that it does"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def check_batch(mesh: Mesh, size: int, place: str) -> None:
    """Refuses what is split as a batch is, and has a size that the mesh's batch axes do not divide.

    Raises:
        InputError: naming `place` and a size that works.
    """
    parts = batch_parts(mesh)
    if size % parts:
        raise InputError(
            f"{place}: {size} cannot be split over data x fsdp = {parts} devices; use a multiple "
            f"of {parts} or another mesh"
        )


def check_stage(mesh: Mesh, stage: TrainingStage) -> None:
    """Refuses a stage whose batch, micro-batches or slots the mesh's batch axes do not divide.

    With less than a whole prompt of a micro-batch on each device, the compiler would lay prompts
    out over no axis at all, and send every activation to every device.

    Raises:
        InputError: as `check_batch`.
    """
    place = f"stages.{stage.name}"
    check_batch(mesh, stage.batch_size, f"{place}.batch_size")
    if isinstance(stage, RLStage):
        check_batch(mesh, stage.rollout.slots, f"{place}.rollout.slots")
        parts, name = stage.policy_loss.gradient_accumulation, "policy_loss.gradient_accumulation"
    else:
        parts, name = stage.gradient_accumulation, "gradient_accumulation"
    if stage.batch_size // parts % batch_parts(mesh):
        raise InputError(
            f"{place}.{name}: {parts} parts of a batch of {stage.batch_size} cannot be split over "
            f"data x fsdp = {batch_parts(mesh)} devices; use a divisor of "
            f"{stage.batch_size // batch_parts(mesh)}"
        )
