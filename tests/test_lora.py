"""Adapters through the commands: train, resume, evaluate, sample, export, go on."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import load_file

from rft_jax.commands import entry
from rft_jax.models import split
from rft_jax.runs.export import export_model
from rft_jax.runs.reopen import open_model
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import read_metrics

from .small_checkpoint import write_small

pytestmark = pytest.mark.usefixtures("compiled_once")

CLAIMS = Path(__file__).parents[1] / "experiments" / "claims"
EXPERIMENT = str(CLAIMS.parent / "jsonl.py")
GRADER = {  # which a random model's answers differ in
    "type": "text_similarity", "name": "similarity", "evaluation_metric": "fuzzy_match",
    "input": "{{ sample.output_text }}", "reference": "{{ item.reason }} or not",
}  # fmt: skip
LORA = {"rank": 3, "alpha": 6.0, "targets": ("q_proj", "v_proj", "down_proj")}

RUN = {
    "tensorboard": False,
    "stages.sft.steps": 4,
    "stages.sft.optimizer.warmup_steps": 1,
    "stages.rft.steps": 2,
    "stages.rft.optimizer.warmup_steps": 1,
    "stages.rft.batch_size": 8,
    "stages.rft.checkpoint_interval": 1,
    "stages.rft.eval_interval": 0,
    "stages.rft.rollout.max_prompt_tokens": 128,
    "stages.rft.rollout.group_size": 2,
    "stages.rft.rollout.max_completion_tokens": 40,
    "stages.rft.policy_loss.kl_coefficient": 0.1,
    **{f"models.policy.lora.{name}": value for name, value in LORA.items()},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_small(tmp_path_factory.mktemp("source") / "base")


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    grader = tmp_path_factory.mktemp("grader") / "grader.json"
    grader.write_text(json.dumps(GRADER))

    def train(workdir, source, **more):
        settings = RUN | {"grader": grader, "models.policy.source": source}
        settings |= {name.replace("__", "."): value for name, value in more.items()}
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        return entry.main(["train", "--config", EXPERIMENT, "--workdir", str(workdir), *flags])

    return train


@pytest.fixture(scope="module")
def workdir(train, checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    assert train(workdir, checkpoint) == 0
    return workdir


def load(path):
    run, stage, step = open_model(Path(path))
    return jax.device_get(run.load_params(stage, step))


def test_adapters_are_trained_and_nothing_else(workdir, checkpoint):
    before, sft, rft = (load(path) for path in (checkpoint, workdir / "sft", workdir / "rft"))
    for params in (sft, rft):
        jax.tree.map(
            lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)),
            split(params)[1],
            before,
        )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), split(sft)[0], split(rft)[0])
    assert min(jax.tree.leaves(moved)) > 0
    assert all(layer["b"].any() for layer in split(sft)[0]["layers"].values())


def test_a_checkpoint_has_the_adapters_only(workdir):
    adapters = sum(leaf.size for leaf in jax.tree.leaves(split(load(workdir))[0]))
    checkpoint = workdir / "rft" / "checkpoints" / "2"
    with ocp.StandardCheckpointer() as checkpointer:
        items = [checkpointer.restore(checkpoint / item) for item in ("params", "rest")]
    stored = sum(leaf.size for leaf in jax.tree.leaves(items))
    moments = 2 * adapters
    assert adapters + moments <= stored < adapters + moments + 20


def test_the_reference_is_the_policy_that_the_stage_started_from(workdir):
    first, second = read_metrics(workdir / "rft" / "metrics.jsonl")
    assert first["train_kl"] < 1e-12 < second["train_kl"]
    assert first["train_sampler_learner_logprob_gap"] < 1e-5


def test_a_run_goes_on_exactly(train, workdir, checkpoint, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    shutil.rmtree(again / "rft" / "checkpoints" / "2")
    assert train(again, checkpoint) == 0
    jax.tree.map(np.testing.assert_array_equal, load(again), load(workdir))


def test_exports_are_the_adapter_and_the_merged_model(workdir, checkpoint, tmp_path, capsys):
    for form, out in (("peft", tmp_path / "adapter"), ("hf", tmp_path / "merged")):
        command = ["export", "--workdir", str(workdir), "--format", form, "--out", str(out)]
        assert entry.main([*command, "--dtype", "float32"]) == 0
        assert not list(tmp_path.glob("*.tmp"))
    merged, base = (
        load_file(directory / "model.safetensors")
        for directory in (tmp_path / "merged", checkpoint)
    )
    factors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert merged.keys() == base.keys()
    changed = 0
    for name, weight in base.items():
        frozen = np.asarray(jax.numpy.asarray(weight, "bfloat16"), np.float32)
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in factors:
            a, b = (factors[f"{module}.lora_{factor}.weight"] for factor in "AB")
            frozen = frozen + LORA["alpha"] / LORA["rank"] * b @ a
            changed += 1
        np.testing.assert_allclose(merged[name], frozen, rtol=1e-6, atol=1e-7)
    assert changed == 2 * len(LORA["targets"])

    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(checkpoint)
    trained, adapter = load(workdir), load(tmp_path / "adapter")
    jax.tree.map(np.testing.assert_array_equal, split(trained)[0], split(adapter)[0])

    sample = ["sample", "--prompt", "broken ski", "--temperature", "0", "--max-tokens", "8"]
    capsys.readouterr()
    assert entry.main([*sample, "--workdir", str(workdir)]) == 0
    assert entry.main([*sample, "--model", str(tmp_path / "adapter")]) == 0
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours == theirs


@pytest.mark.slow
def test_an_adapter_is_trained_on(train, workdir, tmp_path):
    export_model(workdir, tmp_path / "adapter", "peft")
    more = {"stages__sft__steps": 2, "stages__rft__steps": 2}
    assert train(tmp_path / "run", tmp_path / "adapter", models__policy__lora__rank=5, **more) == 0
    model = open_model(tmp_path / "run")
    assert model.run.model_config(model.stage).lora.rank == LORA["rank"]
    before, after = split(load(workdir))[0], split(load(tmp_path / "run"))[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert 0 < max(jax.tree.leaves(moved)) < 0.2


@pytest.mark.slow
def test_a_run_over_four_bits_goes_on_exactly_and_is_exported(train, checkpoint, tmp_path, capsys):
    run, again, out = tmp_path / "run", tmp_path / "again", tmp_path / "out"
    four_bits = {"models__policy__lora__base_dtype": "nf4", "stages__sft__steps": 2}
    assert train(run, checkpoint, **four_bits) == 0
    first, _ = read_metrics(run / "rft" / "metrics.jsonl")
    assert first["train_sampler_learner_logprob_gap"] < 1e-5 < first["train_grad_norm"]
    shutil.copytree(run, again)
    shutil.rmtree(again / "rft" / "checkpoints" / "2")
    assert train(again, checkpoint, **four_bits) == 0
    trained = load(run)
    jax.tree.map(np.testing.assert_array_equal, load(again), trained)
    assert trained["layers"]["q_DKMQ"].weight.values.dtype == np.uint8

    export = ["export", "--workdir", str(run), "--format", "hf", "--out", str(out)]
    assert entry.main([*export, "--dtype", "float32"]) == 0
    sample = ["sample", "--prompt", "broken ski", "--temperature", "0", "--max-tokens", "8"]
    capsys.readouterr()
    assert entry.main([*sample, "--workdir", str(run)]) == 0
    assert entry.main([*sample, "--model", str(out)]) == 0
    ours, theirs = capsys.readouterr().out.splitlines()
    assert ours == theirs


def test_what_cannot_be_is_said(train, workdir, checkpoint, tmp_path, capsys):
    with pytest.raises(InputError, match="has no adapter; export all weights"):
        export_model(checkpoint, tmp_path / "out", "peft")
    assert train(tmp_path / "a", "") == 2
    assert "models.policy.source" in capsys.readouterr().err
    init = {"stages__rft__init": f"{workdir}/rft"}
    flags = dict.fromkeys(("models.policy.lora",), "None")
    assert train(tmp_path / "b", checkpoint, **init, **flags) == 2
    assert "export it in the format hf" in capsys.readouterr().err
