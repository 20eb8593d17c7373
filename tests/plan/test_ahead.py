"""What is compiled ahead of time, and what the compiler refuses."""

import dataclasses
import functools
import importlib.util

import jax
import pytest

from rft_jax.config import MeshConfig
from rft_jax.parallel import make_mesh
from rft_jax.plan import parse_topology
from rft_jax.plan.ahead import (
    _batch,
    _refused_bytes,
    _sample,
    abstract_state,
    devices,
    make_program,
)
from rft_jax.plan.search import meshes


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs a TPU's compiler, the extra `tpu`"
)
@pytest.mark.parametrize("name", ["v4:4x4x4", "v5e:8x8", "v5p:4x4x4", "v6e:8x8", "tpu7x:2x4x4"])
def test_a_slice_takes_every_mesh_that_is_searched(name):
    found = devices(parse_topology(name))
    assert len(found) == 64
    for sizes in meshes(64):
        mesh = make_mesh(sizes, found)
        assert mesh.devices.shape == (sizes.data, sizes.fsdp, sizes.tensor)
        assert {d.id for d in mesh.devices.flat} == {d.id for d in found}


@pytest.mark.parametrize("slots", [0, 8])
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_the_attention_kernel_is_lowered_for_the_devices_of_a_mesh(small, sizes, slots):
    """The compiler splits no kernel, neither over the batch nor, in slots, over the heads."""
    stage = small.stages[0]
    sampling = dataclasses.replace(stage.rollout, prompt_tokens=128, slots=slots)
    stage = dataclasses.replace(stage, rollout=sampling)
    program = make_program(small.models[0], 256, stage, make_mesh(MeshConfig(*sizes)), "tpu")
    arguments = abstract_state(program), *_batch(program)
    traced = jax.jit(functools.partial(_sample, program)).trace(*arguments)
    assert "tpu_custom_call" in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_the_bytes_of_a_refusal_are_read():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.50G) exceeds available HBM (15.75G)."
    )
    assert _refused_bytes(message) == 17.5 * 2**30
    assert _refused_bytes("INTERNAL: something else") is None
