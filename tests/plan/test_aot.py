"""What is compiled ahead of time, and what the compiler refuses."""

import dataclasses
import functools

import jax
import pytest

from rft_jax.config import MeshConfig
from rft_jax.parallel import make_mesh
from rft_jax.plan import parse_topology
from rft_jax.plan.aot import (
    _batch,
    _refused_bytes,
    _sample,
    abstract_state,
    compile_rollout,
    devices,
    is_installed,
    make_program,
)
from rft_jax.plan.hlo import Cost
from rft_jax.plan.search_meshes import meshes


@pytest.mark.slow
@pytest.mark.skipif(not is_installed("libtpu"), reason="needs a TPU's compiler, the extra `tpu`")
@pytest.mark.parametrize("name", ["v4:4x4x4", "v5e:8x8", "v5p:4x4x4", "v6e:8x8", "tpu7x:2x4x4"])
def test_a_slice_takes_every_mesh_that_is_searched(name):
    found = devices(parse_topology(name))
    assert len(found) == 64
    for sizes in meshes(64):
        mesh = make_mesh(sizes, found)
        assert mesh.devices.shape == (sizes.data, sizes.fsdp, sizes.tensor)
        assert {d.id for d in mesh.devices.flat} == {d.id for d in found}


@pytest.mark.parametrize(
    "platform, compiler, kernel",
    [("tpu", "tpu", "tpu_custom_call"), ("gpu", "cuda", "__gpu$xla.gpu.triton")],
)
@pytest.mark.parametrize("slots", [0, 8])
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_kernels_are_lowered_for_the_devices_of_a_mesh(
    small, sizes, slots, platform, compiler, kernel
):
    """The compiler splits no kernel, neither over the batch nor, in slots, over the heads."""
    if platform == "gpu" and jax.version.__version_info__ >= (0, 11):
        pytest.skip("needs a GPU, or its compiler: Pallas for Triton asks the mesh what it is")
    stage = small.stages[0]
    sampling = dataclasses.replace(stage.rollout, max_prompt_tokens=128, slots=slots)
    stage = dataclasses.replace(stage, rollout=sampling)
    attention = "pallas" if platform == "tpu" else "xla"  # cuDNN's asks for the device
    model = dataclasses.replace(small.models[0], attention=attention)
    program = make_program(model, 256, stage, make_mesh(MeshConfig(*sizes)), platform)
    arguments = abstract_state(program), *_batch(program)
    traced = jax.jit(functools.partial(_sample, program)).trace(*arguments)
    assert kernel in traced.lower(lowering_platforms=(compiler,)).as_text()


@pytest.mark.slow
@pytest.mark.skipif(
    not is_installed("jax_plugins.xla_cuda13"), reason="needs a GPU's compiler, the extra `cuda`"
)
def test_the_kernel_for_a_token_does_its_arithmetic_in_fewer_launches(small):
    mesh = make_mesh(MeshConfig(), devices(parse_topology("h100:1")))

    def cost(choice):
        model = dataclasses.replace(small.models[0], decode_attention=choice)
        loops = compile_rollout(make_program(model, 256, small.stages[0], mesh, "gpu")).loops
        total = Cost()
        for loop in loops:
            total.add(loop.cost, loop.trips)
        return total

    kernel, plain = cost("triton"), cost("xla")
    assert kernel.flops == plain.flops
    assert kernel.launches < plain.launches


def test_the_bytes_of_a_refusal_are_read():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.50G) exceeds available HBM (15.75G)."
    )
    assert _refused_bytes(message) == 17.5 * 2**30
    assert _refused_bytes("INTERNAL: something else") is None
