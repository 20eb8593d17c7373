"""TPU generations and GPUs, and their slices: the figures of the hardware that a plan rests on."""

import math
import re
from dataclasses import dataclass

from rft_jax.config import GPU_MEMORY_FRACTION
from rft_jax.utils.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A generation, by its public figures for one chip.

    Attributes:
        name: As topologies begin, `v5e` in `v5e:4x4`.
        peak_flops: bfloat16, a second, without sparsity.
        hbm_gib: Capacity.
        hbm_bytes_per_s: Bandwidth.
        ici_bytes_per_s: Bandwidth to all neighbors, both directions together; NVLink's of a GPU.
        axes: Dimensions of the torus; 1 for GPUs, all of which are neighbors.
        devices: JAX devices that a chip appears as.
        config: What its compiler is told of it: a TPU's chip configuration by libtpu's name, a GPU
            as XLA's GpuTargetConfigProto in text.
        slices: Shapes that are offered, by rising size.
        source: Where the figures are from.
        platform: `tpu` or `gpu`.
        usable: Share of the memory that programs get. A TPU's runtime keeps about a sixty-fourth
            (on v5e, the compiler gives 15.75 of 16 GiB), a GPU's what `rft` leaves to it.
    """

    name: str
    peak_flops: float
    hbm_gib: float
    hbm_bytes_per_s: float
    ici_bytes_per_s: float
    axes: int
    devices: int
    config: str
    slices: tuple[str, ...]
    source: str
    platform: str = "tpu"
    usable: float = 1 - 1 / 64

    @property
    def usable_hbm_bytes(self) -> float:
        """Bytes for programs, of one chip."""
        return self.hbm_gib * GIB * self.usable

    @property
    def ring_bytes_per_s(self) -> float:
        """What a chip can send round one axis of the torus, in both directions of a closed ring."""
        return self.ici_bytes_per_s / self.axes / 2


def _gpu(
    name: str,
    peak_flops: float,
    memory_bytes: int,
    hbm_bytes_per_s: float,
    nvlink_bytes_per_s: float,
    properties: tuple[int, int, float, int, int, float],
) -> Chip:
    """A GPU, the only one or one of up to eight of a machine, all neighbors by NVLink.

    Args:
        properties: Major compute capability, multiprocessors, MiB of L2 cache, KiB of shared memory
            and number of float32 lanes of a multiprocessor, GHz at most.
    """
    capability, multiprocessors, l2, shared, lanes, clock = properties
    config = _GPU_CONFIG.format(
        kind=name.upper(),  # for which Pallas knows the GPU
        memory=memory_bytes,
        bandwidth=round(hbm_bytes_per_s),
        capability=capability,
        multiprocessors=multiprocessors,
        l2=round(l2 * 2**20),
        shared=shared * 2**10,
        block=(shared - 1) * 2**10,  # the rest is the system's
        lanes=lanes,
        clock=clock,
    )
    return Chip(
        name,
        peak_flops,
        memory_bytes / GIB,
        hbm_bytes_per_s,
        nvlink_bytes_per_s,
        axes=1,
        devices=1,
        config=config,
        slices=("1", "2", "4", "8"),
        source=f"https://www.nvidia.com/en-us/data-center/{name}",
        platform="gpu",
        usable=GPU_MEMORY_FRACTION,
    )


# What deviceQuery prints, of which the rest is the same for data-centre GPUs since the A100.
_GPU_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {block} core_count: {multiprocessors} fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
  cuda_compute_capability {{ major: {capability} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "NVIDIA {kind}"
"""

_2D = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_DOCS = "https://docs.cloud.google.com/tpu/docs"

CHIPS = {
    chip.name: chip
    for chip in (
        # v4's page has no ICI figure; six links of 50 GB/s in each direction (its paper,
        # https://arxiv.org/abs/2304.01433)
        Chip("v4", 275e12, 32, 1200e9, 600e9, 3, 1, "megacore", _3D, f"{_DOCS}/v4"),
        Chip("v5e", 197e12, 16, 819e9, 400e9, 2, 1, "default", _2D, f"{_DOCS}/v5e"),
        Chip("v5p", 459e12, 95, 2765e9, 1200e9, 3, 1, "megacore", _3D, f"{_DOCS}/v5p"),
        Chip("v6e", 918e12, 32, 1638e9, 800e9, 2, 1, "default", _2D, f"{_DOCS}/v6e"),
        Chip("tpu7x", 2307e12, 192, 7380e9, 1200e9, 3, 2, "default", _3D, f"{_DOCS}/tpu7x"),
        _gpu("a100", 312e12, 85_100_068_864, 2039e9, 600e9, (8, 108, 40, 164, 64, 1.41)),
        _gpu("h100", 989e12, 84_942_979_072, 3350e9, 900e9, (9, 132, 50, 228, 128, 1.98)),
        _gpu("h200", 989e12, 151_397_597_184, 4800e9, 900e9, (9, 132, 50, 228, 128, 1.98)),
        _gpu("b200", 2250e12, 191_514_411_008, 7672e9, 1800e9, (10, 148, 126.5, 228, 128, 1.965)),
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice, or the GPUs of a machine."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is asked for, such as `v5e:4x4`."""
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.chip.devices

    @property
    def device_hbm_bytes(self) -> float:
        """Bytes for programs on each device."""
        return self.chip.usable_hbm_bytes / self.chip.devices


def parse_topology(text: str) -> Topology:
    """Reads `GENERATION:AxB` or `GENERATION:AxBxC` of TPUs, `NAME:N` of GPUs.

    Raises:
        InputError: there is no such generation, or its slices have no such shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
        known = ", ".join(CHIPS)
        raise InputError(
            f"topology {text!r}: it begins with one of {known}, such as v5e:4x4 or h100:8"
        )
    chip = CHIPS[name]
    listed = chip.platform == "tpu" or shape in chip.slices  # TPUs have slices of other shapes too
    torus = re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) and shape.count("x") == chip.axes - 1
    if not (torus and listed):
        kind = "a GPU" if chip.platform == "gpu" else f"a torus of {chip.axes} dimensions"
        raise InputError(
            f"topology {text!r}: {name} is {kind}; use one of "
            f"{', '.join(f'{name}:{known}' for known in chip.slices)}"
        )
    return Topology(chip, tuple(int(size) for size in shape.split("x")))


def topologies(chip: Chip, chips: int | None = None) -> list[Topology]:
    """The slices of a generation, or those of so many chips."""
    slices = [parse_topology(f"{chip.name}:{shape}") for shape in chip.slices]
    return [slice_ for slice_ in slices if chips is None or slice_.chips == chips]
