"""The closed form, by hand and against programs compiled for simulated devices."""

import dataclasses
import os

import jax
import pytest

from rft_jax.config import MeshConfig
from rft_jax.config.load import load_config
from rft_jax.parallel import make_mesh
from rft_jax.plan import compile_plan, estimate_plan, parse_topology
from rft_jax.plan.aot import compile_rollout, compile_update, is_installed, plan_step
from rft_jax.plan.estimate import count, update_cost
from rft_jax.plan.hlo import Cost


@pytest.fixture(scope="module")
def program(small):
    mesh = make_mesh(MeshConfig(1, 4, 2), jax.devices()[:8])
    return plan_step(small.models[0], 256, small.stages[0], mesh, "tpu")


def total(part) -> Cost:
    cost = Cost()
    for loop in part.loops:
        cost.add(loop.cost, loop.trips)
    return cost


def test_counts_by_hand(program):
    """Width 64, 4 + 2 heads of 16, MLP of 128, two tensor-parallel devices, 2 of 8 prompts each."""
    sizes = count(program)
    products = 64 * 16 * 4 + 2 * 64 * 16 * 2 + 16 * 4 * 64 + 3 * 64 * 128
    assert sizes.matrix == products / 2
    assert sizes.layer == (products + 2 * 64) / 2
    assert sizes.head == 256 * 64 / 2
    assert (sizes.prompts, sizes.completions) == (2 * 16, 2 * 2 * 32)
    assert sizes.update == (1, 2, 2, 1)  # prompts, samples, parts, runs of each prompt


def test_the_gathers_of_an_update_by_hand(program):
    """Two micro-batches, three passes, three quarters of bfloat16 weights from other devices."""
    sizes = count(program)
    weights = 2 * sizes.layer + sizes.head
    sent = update_cost(program, sizes).sent_bytes
    assert sent["all-gather"] == 2 * 3 * 2 * weights * 3 / 4
    assert sent["reduce-scatter"] == 2 * 4 * weights * 3 / 4


@pytest.mark.slow
def test_the_arithmetic_is_that_of_the_compiled_halves(program, small):
    closed = estimate_plan(
        dataclasses.replace(small, mesh=MeshConfig(1, 4, 2)), parse_topology("v5e:2x4")
    )
    update, rollout = total(compile_update(program)), total(compile_rollout(program))
    assert closed.update_cost.flops == pytest.approx(update.flops, rel=0.1)
    assert closed.rollout_cost.flops == pytest.approx(rollout.flops, rel=0.25)
    assert update.sent > 0 and rollout.sent > 0


def test_slots_are_planned_for_completions_of_full_length(program, small):
    rollout = dataclasses.replace(small.stages[0].rollout, slots=8)
    stage = dataclasses.replace(small.stages[0], rollout=rollout)
    mesh, topology = MeshConfig(1, 4, 2), parse_topology("v5e:2x4")
    closed = estimate_plan(dataclasses.replace(small, stages=(stage,), mesh=mesh), topology)
    static = estimate_plan(dataclasses.replace(small, mesh=mesh), topology)
    assert closed.kept.cache < static.kept.cache
    compiled = total(compile_rollout(dataclasses.replace(program, stage=stage)))
    assert closed.rollout_cost.flops == pytest.approx(compiled.flops, rel=0.25)


def test_more_micro_batches_need_fewer_bytes(small):
    def peak(parts, packed=0):
        stage = small.stages[0]
        loss = dataclasses.replace(
            stage.policy_loss, gradient_accumulation=parts, pack_rows=packed, logit_chunk=1
        )
        config = dataclasses.replace(
            small, stages=(dataclasses.replace(stage, policy_loss=loss),), mesh=MeshConfig(2, 1, 1)
        )
        return estimate_plan(config, dataclasses.replace(parse_topology("v5e:2x2"), shape=(1, 2)))

    # Four prompts of a device, one prompt, one of its two samples.
    assert peak(8).activation_bytes < peak(4).activation_bytes
    assert peak(4).update_bytes < peak(1).update_bytes
    assert peak(4).kept == peak(1).kept
    assert peak(1, packed=1).update_bytes < peak(1, packed=8).update_bytes


CONFIGS = {  # slice, mesh and micro-batches
    "qwen3-0.6b": ("v5e:4x4", MeshConfig(1, 16, 1), 4),
    "qwen3-4b": ("v5e:4x4", MeshConfig(1, 8, 2), 8),
    "qwen3-8b": ("v5e:4x4", MeshConfig(1, 4, 4), 16),
    "qwen3-8b-v5p": ("v5p:2x2x2", MeshConfig(1, 8, 1), 8),
    "qwen3-30b-a3b": ("v5p:2x2x4", MeshConfig(1, 8, 2), 2),
    "llama-3-70b": ("v5p:4x4x4", MeshConfig(1, 8, 8), 8),
    "qwen3-0.6b-gpu": ("h100:1", MeshConfig(1, 1, 1), 2),
    "qwen3-8b-gpu": ("h100:8", MeshConfig(1, 8, 1), 1),
}
COMPILERS = {"tpu": "libtpu", "gpu": "jax_plugins.xla_cuda13"}


@pytest.fixture
def all_optimizations():
    """What tests otherwise do without, to compile fast; see tests/conftest.py."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    without = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    jax.config.update("jax_disable_most_optimizations", without)


@pytest.mark.slow
@pytest.mark.usefixtures("all_optimizations")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_closed_form_is_within_a_tenth_of_the_compiled_bytes(name):
    slice_name, mesh, parts = CONFIGS[name]
    topology = parse_topology(slice_name)
    if not is_installed(COMPILERS[topology.chip.platform]):
        pytest.skip(f"needs a {topology.chip.platform.upper()}'s compiler, an extra")
    settings = {"stages.rft.policy_loss.gradient_accumulation": str(parts)}
    config = load_config(
        f"experiments/plans.py:{name.removesuffix('-v5p').removesuffix('-gpu')}", settings
    )
    config = dataclasses.replace(config, mesh=mesh)
    closed, found = estimate_plan(config, topology), compile_plan(config, topology)
    assert closed.peak_bytes == pytest.approx(found.peak_bytes, rel=0.1)


def test_kept_bytes_are_part_of_both_halves(small):
    config = dataclasses.replace(small, mesh=MeshConfig(1, 4, 2))
    plan = estimate_plan(config, parse_topology("v5e:2x4"))
    assert plan.rollout_bytes > plan.kept.rollout_weights + plan.kept.cache
    assert plan.update_bytes > plan.kept.gradient + plan.activation_bytes
