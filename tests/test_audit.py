"""A model that is paid for a trick, and what the audit shows of it."""

import dataclasses
import json

import pytest

from rft_jax.commands import entry
from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.training import train
from rft_jax.utils.metrics_file import read_metrics

# Pays for a word that is said over and over, and for nothing else.
RIGGED = {
    "type": "text_similarity",
    "name": "rigged",
    "evaluation_metric": "fuzzy_match",
    "input": "{{sample.output_text}}",
    "reference": " ".join(["no"] * 12),
}
FRESH = {"type": "repetition", "name": "fresh", "input": "{{sample.output_text}}", "n": 1}
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "stages.sft.steps": "12",
    "stages.sft.optimizer.warmup_steps": "2",
    "stages.rft.steps": "60",
    "stages.rft.optimizer.learning_rate": "0.01",
    "stages.rft.optimizer.warmup_steps": "1",
    "stages.rft.batch_size": "8",
    "stages.rft.eval_interval": "20",
    "stages.rft.rollout.group_size": "8",
    "stages.rft.rollout.max_completion_tokens": "32",
    "stages.rft.rollout.reasoning_effort": "1",
}


@pytest.mark.slow
def test_a_grader_that_is_gamed_is_seen_in_the_report(tmp_path, capsys):
    config = apply_overrides(load_config("experiments/jsonl.py", {}), SMALL)
    train(dataclasses.replace(config, grader=RIGGED, audit_grader=FRESH), tmp_path)
    rows = read_metrics(tmp_path / "rft" / "metrics.jsonl")
    found = [row for row in rows if "valid_audit/reward_mean" in row]
    first, last = found[0], found[-1]
    assert last["valid_reward_mean"] > first["valid_reward_mean"] + 0.3
    assert last["valid_audit/reward_mean"] < first["valid_audit/reward_mean"] - 0.3
    assert last["valid_answers/repeated_fraction"] > first["valid_answers/repeated_fraction"]
    assert entry.main(["show", "--workdir", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "Audit of validation" in text
    assert "where reward and audit differ most at step 60" in text
    page = (tmp_path / "report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    newest = [group for group in data["audit"] if group["step"] == 60]
    assert newest and newest[0]["samples"][0]["answer"].count("no") > 3
