"""TPUs, GPUs and this machine's CPU, and their slices: the hardware's figures a plan rests on."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rft_jax.config import GPU_MEMORY_FRACTION
from rft_jax.utils.errors import InputError
from rft_jax.utils.suggestions import did_you_mean

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A generation, by its public figures for one chip.

    Attributes:
        name: As topologies begin, `v5e` in `v5e:4x4`.
        peak_flops: In bfloat16, per second, without sparsity.
        hbm_gib: Capacity of the memory.
        hbm_bytes_per_s: Bandwidth of the memory.
        ici_bytes_per_s: Bandwidth to all neighbors, both directions together; NVLink's of a GPU.
        axes: Dimensions of the torus; 1 for GPUs, all of which are neighbors.
        devices: JAX devices that a chip appears as.
        config: What the compiler is told of it: a TPU's chip configuration by libtpu's name, a GPU
            as XLA's GpuTargetConfigProto in text.
        slices: Shapes that are offered, by rising size.
        source: Where the figures are from.
        platform: `tpu`, `gpu` or `cpu`.
        usable: Fraction of the memory that programs get. A TPU's runtime keeps about a sixty-fourth
            (on v5e, the compiler gives 15.75 of 16 GiB), a GPU's what `rft` leaves to it.
        most_chips: Most chips of a slice of three dimensions that is made of cubes and not listed.
        has_kernels: Whether a GPU runs the attention of `models`, as those since Ampere do.
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
    most_chips: int = 0
    has_kernels: bool = True

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
    properties: tuple[float, int, float, int, int, float],
    *,
    kind: str = "",
    threads: int = 2048,
    source: str = "",
) -> Chip:
    """A GPU, the only one or one of up to eight of a machine, all neighbors by NVLink or PCIe.

    Args:
        properties: Compute capability, multiprocessors, MiB of L2 cache, KiB of shared memory
            and number of float32 lanes of a multiprocessor, GHz at most.
        kind: The name that the driver tells after "NVIDIA"; empty: the chip's in capitals.
        threads: Most threads of a multiprocessor.
        source: Where the figures are from; empty: NVIDIA's page of that name.
    """
    capability, multiprocessors, l2, shared, lanes, clock = properties
    config = _GPU_CONFIG.format(
        kind=kind or name.upper(),  # for which Pallas knows the GPU
        memory=memory_bytes,
        bandwidth=round(hbm_bytes_per_s),
        major=int(capability),
        minor=round(10 * capability) % 10,
        threads=threads,
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
        source=source or f"https://www.nvidia.com/en-us/data-center/{name}",
        platform="gpu",
        usable=GPU_MEMORY_FRACTION,
        has_kernels=capability >= 8,
    )


# What deviceQuery prints, of which the rest is the same for all of them.
_GPU_CONFIG = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
  shared_memory_per_block: 49152 shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {block} core_count: {multiprocessors} fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: {clock}
  memory_bandwidth: {bandwidth} l2_cache_size: {l2} device_memory_size: {memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "NVIDIA {kind}"
"""


def machine_bytes() -> int:
    """The memory of this machine, or what its container may take of it."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(total, int(text)) if text.isdecimal() else total


def _cpu() -> Chip:
    """This machine's CPU. Its memory is a fact; its speed is assumed, for no table has it.

    32 float32 operations a cycle and core are two AVX2 units with fused multiply-add; 51.2 GB/s are
    two channels of DDR4-3200.
    """
    return Chip(
        "cpu",
        peak_flops=(os.cpu_count() or 1) * 2.5e9 * 32,
        hbm_gib=machine_bytes() / GIB,
        hbm_bytes_per_s=51.2e9,
        ici_bytes_per_s=51.2e9,
        axes=1,
        devices=1,
        config="",
        slices=("1",),
        source="this machine's memory; two AVX2 units a core at 2.5 GHz and DDR4-3200 are assumed",
        platform="cpu",
        usable=0.9,  # the rest is the system's
        has_kernels=False,
    )


_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_3D = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")
_CUBE = 4  # larger 3D slices are made of cubes of so many chips an axis
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_AMPERE = (
    "https://www.nvidia.com/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.1.pdf"
)
_T4 = (
    "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/"
    "t4-tensor-core-datasheet-951643.pdf"
)
_PCIE4, _PCIE3 = 64e9, 32e9  # 16 lanes, both directions
_DOCS = "https://docs.cloud.google.com/tpu/docs"

CHIPS = {
    chip.name: chip
    for chip in (
        # v4's page has no ICI figure; six links of 50 GB/s in each direction (its paper,
        # https://arxiv.org/abs/2304.01433)
        Chip(
            "v4", 275e12, 32, 1200e9, 600e9, 3, 1, "megacore", _3D, f"{_DOCS}/v4", most_chips=4096
        ),
        Chip("v5e", 197e12, 16, 819e9, 400e9, 2, 1, "default", _2D, f"{_DOCS}/v5e"),
        Chip(
            "v5p",
            459e12,
            95,
            2765e9,
            1200e9,
            3,
            1,
            "megacore",
            _3D,
            f"{_DOCS}/v5p",
            most_chips=6144,
        ),
        Chip("v6e", 918e12, 32, 1638e9, 800e9, 2, 1, "default", _2D, f"{_DOCS}/v6e"),
        Chip(
            "tpu7x",
            2307e12,
            192,
            7380e9,
            1200e9,
            3,
            2,
            "default",
            _3D,
            f"{_DOCS}/tpu7x",
            most_chips=9216,
        ),
        _gpu("a100", 312e12, 85_100_068_864, 2039e9, 600e9, (8, 108, 40, 164, 64, 1.41)),
        _gpu(
            "a100-40gb",
            312e12,
            42_505_076_736,
            1555e9,
            600e9,
            (8, 108, 40, 164, 64, 1.41),
            kind="A100",
            source="https://www.nvidia.com/en-us/data-center/a100",
        ),
        _gpu("h100", 989e12, 84_942_979_072, 3350e9, 900e9, (9, 132, 50, 228, 128, 1.98)),
        _gpu("h200", 989e12, 151_397_597_184, 4800e9, 900e9, (9, 132, 50, 228, 128, 1.98)),
        _gpu("b200", 2250e12, 191_514_411_008, 7672e9, 1800e9, (10, 148, 126.5, 228, 128, 1.965)),
        # Cards of 24 and 16 GB; of these the driver shows about so much. Dense products in bfloat16
        # that are summed in float32, at which GeForce cards have half of the other rate.
        _gpu(
            "rtx4090",
            165.2e12,
            round(23.6 * GIB),
            1008e9,
            _PCIE4,
            (8.9, 128, 72, 100, 128, 2.52),
            kind="GeForce RTX 4090",
            threads=1536,
            source=_ADA,
        ),
        _gpu(
            "rtx3090",
            71e12,
            round(23.6 * GIB),
            936e9,
            _PCIE4,
            (8.6, 82, 6, 100, 128, 1.695),
            kind="GeForce RTX 3090",
            threads=1536,
            source=_AMPERE,
        ),
        _gpu(
            "rtx4080",
            97.5e12,
            round(15.7 * GIB),
            717e9,
            _PCIE4,
            (8.9, 76, 64, 100, 128, 2.505),
            kind="GeForce RTX 4080",
            threads=1536,
            source=_ADA,
        ),
        # Turing has no bfloat16: XLA computes in float32, whose peak this is (65e12 in float16).
        _gpu(
            "t4",
            8.1e12,
            round(14.7 * GIB),
            320e9,
            _PCIE3,
            (7.5, 40, 4, 64, 64, 1.59),
            kind="Tesla T4",
            threads=1024,
            source=_T4,
        ),
        _cpu(),
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
    """Reads `GENERATION:AxB` or `GENERATION:AxBxC` of TPUs, `NAME:N` of GPUs, or `cpu`.

    Raises:
        InputError: There is no such generation, or its slices have no such shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
        meant = did_you_mean(name, list(CHIPS))
        raise InputError(
            f"topology {text!r}: {f'{meant} ' if meant else ''}it begins with one of "
            f"{', '.join(CHIPS)}, such as v5e:4x4 or h100:8"
        )
    chip = CHIPS[name]
    shape = shape or ("1" if chip.platform == "cpu" else "")
    if not (shape in chip.slices or _is_of_cubes(chip, shape)):
        kind = {"gpu": "a GPU", "cpu": "this machine"}.get(
            chip.platform, f"a torus of {chip.axes} dimensions, offered in some shapes"
        )
        cubes = ", or one with multiples of 4 in rising order" if chip.axes == 3 else ""
        raise InputError(
            f"topology {text!r}: {name} is {kind}; use one of "
            f"{', '.join(f'{name}:{known}' for known in chip.slices)}{cubes}"
        )
    return Topology(chip, tuple(int(size) for size in shape.split("x")))


def _is_of_cubes(chip: Chip, shape: str) -> bool:
    """Whether a torus of three dimensions is offered in a shape though it is not listed."""
    if chip.axes != 3 or not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){2}", shape, re.ASCII):
        return False
    sizes = [int(size) for size in shape.split("x")]
    made = sizes == sorted(sizes) and not any(size % _CUBE for size in sizes)
    return made and math.prod(sizes) <= chip.most_chips


def topologies(chip: Chip, chips: int | None = None) -> list[Topology]:
    """The slices of a generation, or those of so many chips."""
    slices = [parse_topology(f"{chip.name}:{shape}") for shape in chip.slices]
    return [slice_ for slice_ in slices if chips is None or slice_.chips == chips]
