"""Every job of the open models, from a random checkpoint of Hugging Face's layout to its end."""

import importlib.util
import json
from pathlib import Path

import pytest

from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.training import train
from rft_jax.utils.metrics_file import read_metrics

from ..small_checkpoint import write_small
from . import made_up

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "open_models.py"
# What each job reads, with enough rows for a step, and what splits these few.
RELEASES = {
    "perils": (made_up.write_lgpif, {"more": 4}, {"data.valid_notes": 2}),
    "coverage": (made_up.write_vague_contracts, {"clauses": 4}, {"data.valid_titles": 1}),
    "law": (made_up.write_sara, {"more": 8}, {}),
    "citations": (made_up.write_sara, {"more": 8}, {}),
    "finance": (made_up.write_tatqa, {}, {"data.valid_contexts": 1}),
    "verilog": (made_up.write_verilog, {"problems": 16}, {}),
    "scibench": (made_up.write_scibench, {"more": 8}, {"data.valid_problems": 1}),
}
ELSEWHERE = ("rare_disease",)  # rare_disease/test_open_models.py
MODELS = {"law": "qwen3-4b-lora", "coverage": "llama-3.2-1b"}  # the others: qwen3-0.6b
TINY = {
    "tensorboard": False,
    "mesh.fsdp": 1,
    "mesh.tensor": 1,
    "stages.rft.steps": 1,
    "stages.rft.batch_size": 8,
    "stages.rft.eval_interval": 1,
    "stages.rft.optimizer.warmup_steps": 0,
    "stages.rft.policy_loss.gradient_accumulation": 1,
    "stages.rft.rollout.group_size": 2,
    "stages.rft.rollout.max_prompt_tokens": 1024,
    "stages.rft.rollout.prompt_buckets": 1,
    "stages.rft.rollout.max_completion_tokens": 24,
    "stages.rft.rollout.reasoning_effort": 8,
}


def run_tiny(job, workdir, **settings):
    """Trains a job of the experiment on a random checkpoint; returns the metrics' last lines."""
    source = write_small(workdir.parent / "checkpoint", max_position_embeddings=4096)
    changed = TINY | {"models.policy.source": source} | settings
    variant = f"{EXPERIMENT}:{job}/{MODELS.get(job, 'qwen3-0.6b')}"
    config = apply_overrides(
        load_config(variant, {}), {name: str(value) for name, value in changed.items()}
    )
    train(config, workdir)
    return read_metrics(workdir / "rft" / "metrics.jsonl")


def jobs():
    spec = importlib.util.spec_from_file_location("open_models", EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return set(module.JOBS)


def test_every_job_is_tested():
    assert jobs() == {*RELEASES, *ELSEWHERE, "jsonl"}


@pytest.mark.slow
@pytest.mark.parametrize("job", RELEASES)
def test_a_job_runs_to_its_end(job, tmp_path):
    write, rows_of, settings = RELEASES[job]
    release = write(tmp_path / "release", **rows_of)
    rows = run_tiny(job, tmp_path / "run", **settings | {"data.release": release})
    validated = [row for row in rows if "valid_audit/reward_mean" in row]
    assert len(validated) >= 2  # the official metric stands beside the reward
    assert all(row["valid_audit/valid_fraction"] == 1 for row in validated)
    assert json.loads((tmp_path / "run" / "audit_grader.json").read_text())


@pytest.mark.slow
def test_lines_of_json_run_to_their_end(tmp_path):
    sft = {"steps": 2, "batch_size": 8, "gradient_accumulation": 1, "optimizer.warmup_steps": 0}
    rows = run_tiny("jsonl", tmp_path / "run", **{f"stages.sft.{k}": v for k, v in sft.items()})
    assert any("valid_reward_mean" in row for row in rows)
