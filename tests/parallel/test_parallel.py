"""Meshes, what they refuse, and how weights and optimizer state lie on them."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rft_jax.config import (
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    SFTStage,
)
from rft_jax.config.validate import validate_mesh, validate_split
from rft_jax.learn.optimizer import init_state, make_optimizer, state_shardings
from rft_jax.models import build_model
from rft_jax.parallel import (
    LEARNER_RULES,
    ROLLOUT_RULES,
    batch_parts,
    batch_sharding,
    make_mesh,
    replicated,
    shardings,
)
from rft_jax.plan.hlo import Cost, Program
from rft_jax.runs.checkpoint import abstract
from rft_jax.utils.errors import InputError


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(2, 2, 2), jax.devices()[:8])


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        num_layers=2,
        hidden_size=16,
        num_heads=4,
        num_kv_heads=2,
        head_dim=4,
        intermediate_size=24,
        tie_embeddings=False,
    )
    return build_model(config, 32)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((2, -1, 2), (2, 2, 2)),
        ((1, 1, -1), (1, 1, 8)),
        ((4, 2, 1), (4, 2, 1)),
        ((8, -1, 1), (8, 1, 1)),
    ],
)
def test_a_mesh_takes_all_devices_in_order(sizes, shape):
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[:8])
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == jax.devices()[:8]


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_meshes_of_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="mesh: sizes must be above 0, one of them may be -1"):
        make_mesh(MeshConfig(*sizes), jax.devices()[:8])


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (16, 1, 1), (-1, 16, 1)])
def test_meshes_that_do_not_fit_the_devices_are_refused(sizes):
    text = " x ".join(map(str, sizes))
    with pytest.raises(InputError, match=f"{text} does not fit 8 devices; set mesh.data"):
        make_mesh(MeshConfig(*sizes), jax.devices()[:8])


def test_a_batch_must_be_divided_by_the_batch_axes(mesh):
    validate_split("stages.rft.batch_size", 8, batch_parts(mesh))
    with pytest.raises(InputError, match=r"stages.rft.batch_size: 6 cannot .* multiple of 4"):
        validate_split("stages.rft.batch_size", 6, batch_parts(mesh))


def test_the_batch_axes_must_divide_micro_batches_too(mesh):
    reinforce = RLStage(
        name="rft", batch_size=8, policy_loss=PolicyLossConfig(gradient_accumulation=2)
    )
    supervised = SFTStage(name="sft", batch_size=8, gradient_accumulation=2)
    for stage in (reinforce, supervised):
        validate_mesh(stage, batch_parts(mesh))
    with pytest.raises(
        InputError,
        match=r"policy_loss.gradient_accumulation: 32 parts .* = 4 devices; use a divisor of 2, or "
        "2 times one of group_size=8",
    ):
        loss = PolicyLossConfig(gradient_accumulation=16)
        validate_mesh(dataclasses.replace(reinforce, policy_loss=loss), batch_parts(mesh))
        loss = PolicyLossConfig(gradient_accumulation=32)
        validate_mesh(dataclasses.replace(reinforce, policy_loss=loss), batch_parts(mesh))
    with pytest.raises(
        InputError, match=r"stages.sft.gradient_accumulation: 4 parts of a batch of 8"
    ):
        validate_mesh(dataclasses.replace(supervised, gradient_accumulation=4), batch_parts(mesh))


def test_every_weight_has_a_sharding_by_its_axes(mesh, model):
    params = jax.eval_shape(model.init, jax.random.key(0))
    for rules in (LEARNER_RULES, ROLLOUT_RULES):
        places = shardings(mesh, rules, model.axes)
        assert jax.tree.structure(places) == jax.tree.structure(params)
        for place, weight in zip(jax.tree.leaves(places), jax.tree.leaves(params), strict=True):
            place.shard_shape(weight.shape)  # raises if the mesh does not divide it
    learner = shardings(mesh, LEARNER_RULES, model.axes)
    assert learner["embed_VD"].spec == PartitionSpec("tensor", "fsdp")
    assert learner["layers"]["q_DKMQ"].spec == PartitionSpec(None, "fsdp", "tensor", None, None)
    assert learner["layers"]["down_FD"].spec == PartitionSpec(None, "tensor", "fsdp")


def test_the_rollouts_weights_are_whole_over_fsdp_and_split_over_tensor(mesh, model):
    for place in jax.tree.leaves(shardings(mesh, ROLLOUT_RULES, model.axes)):
        assert "fsdp" not in place.spec
    rollout = shardings(mesh, ROLLOUT_RULES, model.axes)
    assert rollout["layers"]["out_KMQD"].spec == PartitionSpec(None, "tensor", None, None, None)


def test_the_moments_lie_as_their_weights_do(mesh, model):
    optimizer = make_optimizer(OptimizerConfig(schedule="cosine", warmup_steps=2), 10)
    places = state_shardings(mesh, model, optimizer, reference=True)
    state = init_state(model.init(jax.random.key(0)), optimizer, 0, reference=True)
    state = jax.device_put(state, places)
    assert jax.tree.structure(places) == jax.tree.structure(state)
    weights = shardings(mesh, LEARNER_RULES, model.axes)
    expected = [place.spec for place in jax.tree.leaves(weights)]
    assert any(spec != PartitionSpec() for spec in expected)

    def specs(tree):
        return [leaf.sharding.spec for leaf in jax.tree.leaves(tree)]

    assert specs(state.params) == specs(state.frozen.reference) == expected
    moments = [
        part
        for part in jax.tree.leaves(state.opt_state, is_leaf=lambda node: hasattr(node, "mu"))
        if hasattr(part, "mu")
    ]
    assert len(moments) == 1
    assert specs(moments[0].mu) == specs(moments[0].nu) == expected
    for counter in (state.step, state.cursor, state.seed, moments[0].count):
        assert counter.sharding.is_fully_replicated
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(moments[0].mu))
    local = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(moments[0].mu))
    assert local < total / 3  # most weights are split over fsdp x tensor = 4


def test_muons_moments_lie_as_their_weights_do(mesh, model):
    optimizer = make_optimizer(OptimizerConfig(name="muon"), 10)
    places = state_shardings(mesh, model, optimizer).opt_state
    weights = shardings(mesh, LEARNER_RULES, model.axes)
    moments = {
        field: {
            jax.tree_util.keystr(path): place for path, place in jax.tree.leaves_with_path(tree)
        }
        for part in jax.tree.leaves(places, is_leaf=lambda node: hasattr(node, "mu"))
        if hasattr(part, "mu")
        for field, tree in (("adam", part.mu) if hasattr(part, "nu") else ("muon", part.mu),)
    }
    assert "['embed_VD']" in moments["adam"] and "['layers']['q_DKMQ']" in moments["muon"]
    found = moments["adam"] | moments["muon"]
    for path, place in jax.tree.leaves_with_path(weights):
        assert found.pop(jax.tree_util.keystr(path)) == place
    assert not found


def test_a_batch_is_split_over_data_and_fsdp(mesh):
    batch = jax.device_put(np.arange(8.0), batch_sharding(mesh))
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2,)}
    assert jax.device_put(np.arange(8.0), replicated(mesh)).sharding.is_fully_replicated


def test_weights_are_gathered_and_activations_stay_with_their_rows():
    """Left to itself, XLA splits activations along the width and sums them over the network."""
    mesh = make_mesh(MeshConfig(data=1, fsdp=8), jax.devices()[:8])
    config = ModelConfig(
        num_layers=2,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=128,
    )

    def summed(rows):
        model = build_model(config, 32, rows)
        places = shardings(mesh, LEARNER_RULES, model.axes)
        params = abstract(jax.eval_shape(lambda: model.init(jax.random.key(0))), places)
        tokens = jax.ShapeDtypeStruct((8, 16), np.int32, sharding=batch_sharding(mesh))
        compiled = jax.jit(model.hidden).lower(params, tokens, tokens, tokens).compile()
        cost = Cost()
        for loop in Program(compiled.as_text()).loops():
            if loop.path:  # the loop over layers
                cost.add(loop.cost, loop.trips)
        return cost.sent_bytes.get("all-reduce", 0)

    assert summed(batch_sharding(mesh)) == 0 < summed(None)
