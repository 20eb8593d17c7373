"""Sources that cannot be used are refused with one sentence and status 2."""

import dataclasses
import json
from pathlib import Path

import pytest

from rft_jax.commands import entry
from rft_jax.config import Config, ModelConfig, OptimizerConfig, RLStage, SFTStage
from rft_jax.runs.pretrained import find_sources, rate_warnings
from rft_jax.utils.errors import InputError

from ..small_checkpoint import TEMPLATE, write_small

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "jsonl.py")


def truncate(directory):
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def shrink(directory):
    """The vocabulary of the model, not that of the tokenizer."""
    settings = json.loads((directory / "config.json").read_text()) | {"vocab_size": 200}
    (directory / "config.json").write_text(json.dumps(settings))


def set_template(template):
    def change(directory):
        file = directory / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": template}))

    return change


def set_architecture(directory):
    settings = {"architectures": ["GPT2LMHeadModel"]}
    (directory / "config.json").write_text(json.dumps(settings))


REFUSED = {
    "an architecture": (
        set_architecture, {},
        "the architecture GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, Qwen2",
    ),
    "a truncated file": (
        truncate, {}, "model.safetensors: not a complete safetensors file"
    ),
    "a vocabulary": (shrink, {}, "embed_tokens.weight of shape [320, 16] instead of [200, 16]"),
    "a template": (
        set_template("{{ raise_exception('No users here') }}"), {}, "No users here",
    ),
    "heads": (
        lambda _: None, {"mesh.tensor": 4},
        "mesh.tensor: 4 devices cannot split num_kv_heads=2 of the model 'policy'; choose a",
    ),
    "targets": (
        lambda _: None, {"models.policy.lora.targets": "router"},
        "models.policy.lora.targets: 'router' is not",
    ),
    "targets of another family": (
        lambda _: None, {"models.policy.lora.targets": "conv_in_proj"},
        "models.policy.lora.targets: no layer of this model has any of conv_in_proj; name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_source_that_cannot_be_used_is_refused(case, tmp_path, capsys, monkeypatch):
    change, settings, sentence = REFUSED[case]
    source = write_small(tmp_path / "source")
    change(source)
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    flags.append(f"--config.models.policy.source={source}")
    command = ["train", "--config", EXPERIMENT, "--workdir", str(tmp_path / "run"), *flags]
    assert entry.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rft train: ") and sentence in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path, capsys):
    source = write_small(tmp_path / "source", vocab_size=290)
    assert entry.main(["sample", "--model", str(source), "--prompt", "x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tokenizer" in line and "300" in line and "290" in line


@pytest.mark.parametrize(
    "template, settings",
    [
        (TEMPLATE, {}),
        (TEMPLATE.replace("{% for", "Answer briefly.{% for"), {}),
        (TEMPLATE, {"eos_token_id": [1, 2]}),
    ],
)
def test_models_of_a_run_encode_alike(template, settings, tmp_path):
    paths = write_small(tmp_path / "a"), write_small(tmp_path / "b", template, **settings)
    models = tuple(ModelConfig(name=path.name, source=str(path)) for path in paths)
    config = Config(models=models, stages=(SFTStage(model="a"),))
    if template == TEMPLATE and not settings:
        assert find_sources(config, None).keys() == {"a", "b"}
        return
    with pytest.raises(InputError, match="models.b.source: its tokenizer, chat template or stop"):
        find_sources(config, None)


def test_a_learning_rate_from_scratch_is_told_of_a_model_that_is_not():
    stages = SFTStage("sft", optimizer=OptimizerConfig(learning_rate=3e-3)), RLStage(init="sft")
    config = Config(models=(ModelConfig(source="hf:Owner/Name"),), stages=stages)
    (sentence,) = rate_warnings(config)
    assert "stages.sft.optimizer.learning_rate: 0.003 is meant for a model from scratch" in sentence
    assert rate_warnings(dataclasses.replace(config, models=(ModelConfig(),))) == []
