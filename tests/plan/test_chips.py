"""Topologies by name."""

import pytest

from rft_jax.plan.chips import CHIPS, GIB, parse_topology, topologies
from rft_jax.utils.errors import InputError


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [
        ("v5e:4x4", 16, 16),
        ("v4:2x2x2", 8, 8),
        ("v5p:4x4x8", 128, 128),
        ("tpu7x:2x2x1", 4, 8),
        ("h100:8", 8, 8),
    ],
)
def test_a_topology_is_read(name, chips, devices):
    topology = parse_topology(name)
    assert (topology.name, topology.chips, topology.devices) == (name, chips, devices)


def test_two_devices_of_a_chip_share_its_memory():
    topology = parse_topology("tpu7x:2x2x1")
    assert topology.device_hbm_bytes == topology.chip.usable_hbm_bytes / 2
    assert topology.chip.usable_hbm_bytes < 192 * GIB


@pytest.mark.parametrize(
    "name",
    ["", "v5e", "v9:2x2", "v5e:2x2x1", "v4:2x2", "v5e:0x4", "v5e:4×4", "h100:2x4", "h100:16"],
)
def test_another_topology_is_refused_in_one_sentence(name):
    with pytest.raises(
        InputError, match=r"^topology .*use one of|^topology .*begins with"
    ) as error:
        parse_topology(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chip", CHIPS.values())
def test_the_slices_of_a_generation_are_topologies(chip):
    sizes = [topology.chips for topology in topologies(chip)]
    assert sizes == sorted(sizes) and sizes[-1] == (256 if chip.platform == "tpu" else 8)
    assert topologies(chip, chips=8)[0].chips == 8
