"""Bytes that follow from shapes and shardings, against arrays and compiled programs."""

import dataclasses

import jax
import pytest

from rft_jax.config import Config, LoraConfig, MeshConfig, ModelConfig, RLStage
from rft_jax.learn.optimizer import init_state
from rft_jax.parallel import make_mesh
from rft_jax.plan.aot import PlannedStep, abstract_state, plan_step
from rft_jax.plan.chips import parse_topology
from rft_jax.plan.memory import kept_bytes
from rft_jax.plan.plan import abstract_program
from rft_jax.step import rollout_params, train_shardings

MESH = MeshConfig(2, 2, 2)


@pytest.fixture(scope="module")
def program(small):
    mesh = make_mesh(MESH, jax.devices()[:8])
    return plan_step(small.models[0], 256, small.stages[0], mesh, "tpu")


def held(tree) -> int:
    """Bytes of arrays on the first device."""
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_state_and_rollouts_weights_are_those_of_arrays(program):
    params = program.model.init(jax.random.key(0))
    state = jax.device_put(
        init_state(params, program.optimizer, 0), train_shardings(program.mesh, program.learner)
    )
    kept = kept_bytes(program)
    assert kept.weights == kept.gradient == held(state.params)
    assert kept.optimizer == held(state.opt_state)
    assert kept.reference == 0
    copy = jax.jit(lambda params: rollout_params(program.sampler, params))(state.params)
    assert kept.rollout_weights == held(copy)


def test_the_cache_by_hand(program):
    """2 layers x 8 prompts x (16 + 2 x 32 tokens) x 2 heads x 16, keys and values, 2 bytes."""
    assert kept_bytes(program).cache == 2 * 8 * (16 + 2 * 32) * 2 * 16 * 2 * 2 / 8


def test_a_pool_of_pages_by_hand(program):
    """8 slots of 32 tokens share room for 64 and a page; 16 lanes' and 8 prompts too."""
    rollout = dataclasses.replace(program.stage.rollout, slots=8)
    room = kept_bytes(
        dataclasses.replace(program, stage=dataclasses.replace(program.stage, rollout=rollout))
    ).cache
    rollout = dataclasses.replace(rollout, cache_tokens=64 * 4)  # 64 on each of 4 parts
    stage = dataclasses.replace(program.stage, rollout=rollout)
    pooled = kept_bytes(dataclasses.replace(program, stage=stage)).cache
    token = 2 * 2 * 2 * 16 * 2
    assert room - pooled == token * (8 * 32 - 4 * 64 - 8) / 8


def test_eight_bits_halve_cache_and_most_weights(program):
    rollout = dataclasses.replace(program.stage.rollout, int8_cache=True, int8_weights=True)
    loss = dataclasses.replace(program.stage.policy_loss, importance="tis")
    stage = dataclasses.replace(program.stage, rollout=rollout, policy_loss=loss)
    plain, eight = kept_bytes(program), kept_bytes(dataclasses.replace(program, stage=stage))
    assert plain.cache / 2 < eight.cache < plain.cache
    assert plain.rollout_weights / 2 < eight.rollout_weights < plain.rollout_weights
    assert eight.state == plain.state


def test_a_mesh_without_devices_counts_the_same(program, small):
    abstract = abstract_program(dataclasses.replace(small, mesh=MESH), parse_topology("v5e:2x4"))
    assert kept_bytes(abstract) == kept_bytes(program)


def test_a_reference_policy_is_another_copy(program):
    loss = dataclasses.replace(program.stage.policy_loss, kl_coefficient=0.1)
    stage = dataclasses.replace(program.stage, policy_loss=loss)
    kept = kept_bytes(dataclasses.replace(program, stage=stage))
    assert kept.reference == kept.weights


def test_nothing_is_allocated(program):
    leaves = jax.tree.leaves(abstract_state(program))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_of_gemma_4_only_layers_with_keys_have_a_cache():
    """By hand: 12 sliding layers of 256 and 3 global ones of 512, of one head, for E2B; for E4B 20
    and 4 layers, of two heads. Keys and values, two bytes each."""
    for name, keys in {"E2B": 12 * 256 + 3 * 512, "E4B": 2 * (20 * 256 + 4 * 512)}.items():
        program = known(f"google/gemma-4-{name}-it")
        B, tokens = program.stage.batch_size, 256 + 8 * 256
        assert kept_bytes(program).cache == B * tokens * 2 * keys * 2


def test_of_gemma_4_all_weights_are_counted():
    """By hand, from the sizes of the published configuration."""
    kept = kept_bytes(known("google/gemma-4-E2B-it"))
    D, V, layers, per_layer = 1536, 262_144, 35, 256
    heads = [(28, 256), (7, 512)]
    queries = sum(count * (2 * 8 * size * D + size) for count, size in heads)  # out, norm
    keys = sum(count * (2 * size * D + size) for count, size in [(12, 256), (3, 512)])
    mlps = 3 * D * (15 * 6144 + 20 * 12_288)
    own = layers * (2 * per_layer * D + D + 4 * D + 1)  # gate and back, norms, scale
    tables = V * D + D + V * layers * per_layer + D * layers * per_layer + per_layer
    assert kept.weights == 4 * (queries + keys + mlps + own + tables)


def test_a_base_in_four_bits_by_hand():
    """Qwen3-0.6B: half a byte a weight and four for 64, the table in two bytes and no copy."""
    kept = kept_bytes(known("Qwen/Qwen3-0.6B", lora=LoraConfig(rank=16, base_dtype="nf4")))
    D, layers, heads, kv_heads, size, hidden = 1024, 28, 16, 8, 128, 3072
    matrices = layers * D * (2 * heads * size + 2 * kv_heads * size + 3 * hidden)
    rest = 151_936 * D + D + layers * 2 * (D + size)  # table, norms
    ends = 2 * (D + heads * size) + 2 * (D + kv_heads * size) + 3 * (D + hidden)
    adapters = 16 * layers * ends
    assert kept.gradient == 4 * adapters
    assert kept.weights == matrices * (1 / 2 + 4 / 64) + 2 * rest + 4 * adapters
    assert kept.rollout_weights == 2 * adapters  # cast
    assert kept.sampled_weights == kept.weights - 2 * adapters


def known(source, lora=None) -> PlannedStep:
    """A step of a model that the planner knows, on one chip."""
    policy = ModelConfig(source=f"hf:{source}", lora=lora)
    stage = RLStage(init="", batch_size=4)
    config = Config(models=(policy,), stages=(stage,), mesh=MeshConfig(1, 1, 1))
    return abstract_program(config, parse_topology("h100:1"))
