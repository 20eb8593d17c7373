"""Meshes on slices, ranked."""

import dataclasses
import sys

import pytest

from rft_jax.commands.entry import main
from rft_jax.config import MeshConfig, RLStage, RolloutConfig
from rft_jax.config.load import load_config
from rft_jax.plan import estimate_plan, parse_topology, search, with_plan
from rft_jax.plan.known_models import SHAPES
from rft_jax.plan.search_meshes import candidates, gradient_accumulation, meshes
from rft_jax.utils.errors import InputError

CONFIG = "experiments/plans.py:qwen3-8b"


def test_meshes_are_all_ways_to_arrange_devices():
    found = list(meshes(8))
    assert len(set(found)) == len(found) == 10
    assert all(mesh.data * mesh.fsdp * mesh.tensor == 8 for mesh in found)


def test_micro_batches_leave_every_device_whole_prompts():
    stage = RLStage(batch_size=64, rollout=RolloutConfig(group_size=6))
    # Of eight prompts of a device, then of the six samples of one.
    assert gradient_accumulation(stage, MeshConfig(2, 4, 8)) == [1, 2, 4, 8, 16, 24, 48]


def test_candidates_divide_model_and_batch(small):
    found = list(candidates(small, parse_topology("v5e:2x2")))
    # Not (1, 1, 4): there are two heads of keys and values.
    assert {(p.mesh.data, p.mesh.fsdp, p.mesh.tensor) for p in found} == {
        (1, 2, 2), (1, 4, 1), (2, 1, 2), (2, 2, 1), (4, 1, 1),
    }  # fmt: skip
    assert all(plan.fits and plan.gradient_accumulation == 1 for plan in found)


def test_candidates_do_not_depend_on_the_micro_batches_that_are_set(small):
    loss = dataclasses.replace(small.stages[-1].policy_loss, gradient_accumulation=8)
    stage = dataclasses.replace(small.stages[-1], policy_loss=loss)
    config = dataclasses.replace(small, stages=(*small.stages[:-1], stage))
    topology = parse_topology("v5e:2x2")
    assert list(candidates(config, topology)) == list(candidates(small, topology))


def test_packed_rows_are_the_parts_of_the_update(small):
    loss = dataclasses.replace(small.stages[-1].policy_loss, pack_rows=2, gradient_accumulation=1)
    stage = dataclasses.replace(small.stages[-1], policy_loss=loss)
    config = dataclasses.replace(small, stages=(*small.stages[:-1], stage))
    topology = parse_topology("v5e:2x2")
    tiny = dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, hbm_gib=0))
    assert {plan.gradient_accumulation for plan in candidates(config, tiny)} == {1}
    assert {plan.gradient_accumulation for plan in candidates(small, tiny)} != {1}


def test_ranking_by_time_and_by_cost(small):
    ranking = search(small, [parse_topology(name) for name in ("v5e:2x2", "v5e:2x4")], compiled=0)
    seconds = [plan.step_seconds for plan in ranking.by_time]
    cost = [plan.step_seconds * plan.topology.chips for plan in ranking.by_chip_seconds]
    assert seconds == sorted(seconds) and cost == sorted(cost)
    assert {plan.topology.chips for plan in ranking.by_time} == {4, 8}


def test_a_ranked_plan_is_a_configuration(small):
    topology = parse_topology("v5e:2x2")
    best = search(small, [topology], compiled=0).by_time[0]
    assert estimate_plan(with_plan(small, best), topology) == best


@pytest.mark.parametrize(("fitting", "expected"), [((0, 1, 2), 2), ((3,), 4)])
def test_compilation_goes_on_until_a_plan_fits(small, monkeypatch, fitting, expected):
    compiled = []

    def compile_plan(config, topology):
        plan = estimate_plan(config, topology)
        compiled.append(plan)
        fits = len(compiled) - 1 in fitting
        return plan if fits else dataclasses.replace(plan, update_bytes=1e15)

    monkeypatch.setattr(sys.modules["rft_jax.plan.search_meshes"], "compile_plan", compile_plan)
    found = search(small, [parse_topology("v5e:2x2")], compiled=2)
    assert len(compiled) == expected and len(found.by_time) == min(len(fitting), 2)


def test_a_model_that_fits_no_mesh_is_told():
    config = load_config("experiments/plans.py:llama-3-70b", {})
    with pytest.raises(InputError, match="v5e:2x2: no mesh .* fits; name another slice"):
        search(config, [parse_topology("v5e:2x2")], compiled=0)


def test_open_models_have_their_published_sizes():
    """Parameters as the model cards' safetensors have them, tied embeddings once."""
    config = load_config(CONFIG, {})
    topology = parse_topology("v5p:2x2x2")
    for name, parameters in {
        "Qwen/Qwen3-0.6B": 596_049_920,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-30B-A3B": 30_532_122_624,
        "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
        "google/gemma-3-1b-it": 999_885_952,
    }.items():
        assert name in SHAPES
        model = dataclasses.replace(config.models[0], source=f"hf:{name}")
        one = dataclasses.replace(config, models=(model,), mesh=MeshConfig(8, 1, 1))
        assert estimate_plan(one, topology).kept.weights == 4 * parameters


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology", "v9:2x2"], "it begins with one of v4, v5e"),
        (["--topology", "v5e:4x4", "--config.mesh.fsdp=3"], "does not fit 16 devices"),
        (["--topology", "v5e:2x2", "--topology", "v5e:2x4"], "several are for --search"),
        (["--topology", "v5e:4x4", "--config.models.policy.source=hf:a/b"], "download its"),
        (["--topology", "v5e:4x4"], "pip install 'rft_jax[tpu]'"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("rft_jax.plan.aot.importlib.util.find_spec", lambda name: None)
    assert main(["plan", "--config", CONFIG, *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert sentence in output.err and output.err.count("\n") == 1


def test_the_command_prints_a_plan(capsys):
    arguments = ["--config", CONFIG, "--topology", "v5e:8x8", "--estimate", "--no-fail"]
    assert main(["plan", *arguments]) == 0
    output = capsys.readouterr()
    assert '"fits": ' in output.out and output.out.count("\n") == 1
