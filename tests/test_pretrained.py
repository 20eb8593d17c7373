"""A Hugging Face checkpoint through the commands: train, eval, sample, bench, export."""

import json
from pathlib import Path

import numpy as np
import pytest

from rft_jax.commands import entry
from rft_jax.tokenizers.hugging_face import HuggingFaceTokenizer

pytestmark = [pytest.mark.oracle, pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "jsonl.py")


# With what the others have not: experts; layers of two kinds, and norms of another form. That each
# family computes what transformers does is in models/test_transformers.py.
FAMILIES = ("qwen3_moe", "gemma3")


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, make_checkpoint, tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def workdir(checkpoint, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    settings = {
        "models.policy.source": checkpoint,
        "tensorboard": False,
        "stages.sft.steps": 6,
        "stages.sft.optimizer.warmup_steps": 1,
        "stages.rft.steps": 2,
        "stages.rft.optimizer.warmup_steps": 1,
        "stages.rft.batch_size": 8,
        "stages.rft.eval_interval": 2,
        "stages.rft.eval_samples": 1,
        "stages.rft.rollout.group_size": 2,
        "stages.rft.rollout.max_completion_tokens": 40,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = ["train", "--config", EXPERIMENT, "--workdir", str(workdir), *flags]
    assert entry.main(command) == 0
    return workdir


def lines_of(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_run_and_its_source_are_compared(checkpoint, workdir, capsys):
    capsys.readouterr()
    models = ["--model", f"{workdir}/rft", "--model", str(checkpoint)]
    assert entry.main(["eval", *models, "--num-samples", "1"]) == 0
    ours, base, *paired = lines_of(capsys)
    assert ours["items"] == base["items"] == 100
    difference = next(line for line in paired if line["metric"] == "reward_mean")
    assert difference["low"] <= difference["difference"] <= difference["high"]
    assert entry.main(["eval", "--model", str(checkpoint)]) == 2
    assert "no grader" in capsys.readouterr().err


def test_a_checkpoint_is_sampled_and_timed(checkpoint, capsys):
    assert (
        entry.main(["sample", "--model", str(checkpoint), "--prompt", "x", "--max-tokens", "5"])
        == 0
    )
    (line,) = lines_of(capsys)
    assert 1 <= len(line["token_ids"]) <= 5 and line["thought"] == ""
    sizes = ["--prompt", "8", "--completion", "8", "--prompts", "8", "--group", "2"]
    assert entry.main(["bench", "--model", str(checkpoint), *sizes, "--steps", "3"]) == 0
    assert lines_of(capsys)[0]["step_s"] > 0


def test_an_export_is_what_transformers_loads(checkpoint, workdir, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "export"
    command = ["export", "--workdir", str(workdir), "--format", "hf", "--out", str(out)]
    assert entry.main([*command, "--dtype", "float32"]) == 0
    assert "valid_reward_mean" in (out / "README.md").read_text()
    assert entry.main(command) == 2  # not empty now
    assert "not empty" in capsys.readouterr().err
    exported = transformers.AutoModelForCausalLM.from_pretrained(out)
    before = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    moved = [
        np.abs(a.detach().numpy() - b.detach().numpy()).max()
        for a, b in zip(exported.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 0.1
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    messages = [{"role": "user", "content": "broken ski"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    forbidden = list(HuggingFaceTokenizer(out).forbidden_ids)  # special tokens are never sampled
    theirs = exported.generate(
        **prompt, do_sample=False, max_new_tokens=12, suppress_tokens=forbidden
    )[0]
    theirs = theirs[prompt["input_ids"].shape[1] :]
    sample = ["sample", "--workdir", str(workdir), "--prompt", "broken ski", "--temperature", "0"]
    capsys.readouterr()
    assert entry.main([*sample, "--max-tokens", "12"]) == 0
    (ours,) = lines_of(capsys)
    assert ours["token_ids"] == theirs.tolist()


def test_a_source_that_is_not_there_is_named(tmp_path, capsys):
    command = ["train", "--config", EXPERIMENT, "--workdir", str(tmp_path / "run")]
    assert entry.main([*command, "--config.models.policy.source=nowhere"]) == 2
    assert "config.json: the file is missing" in capsys.readouterr().err
