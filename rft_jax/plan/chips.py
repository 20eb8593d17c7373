"""TPU generations and their slices: the figures of the hardware that a plan rests on."""

import math
import re
from dataclasses import dataclass

from rft_jax.errors import InputError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A generation, by its public figures for one chip.

    Attributes:
        name: As topologies begin, `v5e` in `v5e:4x4`.
        peak_flops: bfloat16, a second.
        hbm_gib: Capacity.
        hbm_bytes_per_s: Bandwidth.
        ici_bytes_per_s: Bandwidth to all neighbours, both directions together.
        axes: Dimensions of the torus.
        devices: JAX devices that a chip appears as.
        config: The name of libtpu's chip configuration.
        slices: Shapes that are offered, by rising size.
        source: Where the figures are from.
    """

    name: str
    peak_flops: float
    hbm_gib: int
    hbm_bytes_per_s: float
    ici_bytes_per_s: float
    axes: int
    devices: int
    config: str
    slices: tuple[str, ...]
    source: str

    @property
    def usable_hbm_bytes(self) -> float:
        """Bytes for programs, of one chip: the runtime keeps about a sixty-fourth (on v5e, the
        compiler gives 15.75 of 16 GiB)."""
        return self.hbm_gib * GIB * (1 - 1 / 64)

    @property
    def ring_bytes_per_s(self) -> float:
        """What a chip can send round one axis of the torus, in both directions of a closed ring."""
        return self.ici_bytes_per_s / self.axes / 2


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
    )
}


@dataclass(frozen=True)
class Topology:
    """A slice."""

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
    """Reads `GENERATION:AxB` or `GENERATION:AxBxC`.

    Raises:
        InputError: there is no such generation, or its slices have no such shape.
    """
    name, _, shape = text.partition(":")
    if name not in CHIPS:
        known = ", ".join(CHIPS)
        raise InputError(f"topology {text!r}: it begins with one of {known}, such as v5e:4x4")
    chip = CHIPS[name]
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) or shape.count("x") != chip.axes - 1:
        raise InputError(
            f"topology {text!r}: {name} is a torus of {chip.axes} dimensions; use one of "
            f"{', '.join(f'{name}:{known}' for known in chip.slices)}"
        )
    return Topology(chip, tuple(int(size) for size in shape.split("x")))


def topologies(chip: Chip, chips: int | None = None) -> list[Topology]:
    """The slices of a generation, or those of so many chips."""
    slices = [parse_topology(f"{chip.name}:{shape}") for shape in chip.slices]
    return [slice_ for slice_ in slices if chips is None or slice_.chips == chips]
