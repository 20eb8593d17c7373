"""An export of a checkpoint: its files, its stop tokens, and nothing of a work directory's own."""

import json
import shutil

import pytest

from rft_jax.config import Config, ModelConfig, TokenizerConfig
from rft_jax.runs.export import export_model
from rft_jax.runs.pretrained import DATE_FILE, find_sources, snapshot
from rft_jax.runs.reopen import open_model
from rft_jax.utils.errors import InputError

from ..small_checkpoint import write_small

# Ends an answer with another token than the tokenizer's end of a text.
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|user|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture
def kept(tmp_path):
    """A checkpoint as a run keeps it, with its weights beside."""
    directory = write_small(tmp_path / "model", TEMPLATE, model_type="qwen2")
    config = Config(models=(ModelConfig(source=str(directory)),), tokenizer=TokenizerConfig())
    source = snapshot(find_sources(config, None)["policy"], tmp_path / "run")
    assert (source.directory / DATE_FILE).exists()
    shutil.copyfile(directory / "model.safetensors", source.directory / "model.safetensors")
    return source


def test_files_of_an_export(kept, tmp_path):
    out = tmp_path / "out"
    export_model(kept.directory, out)
    files = {path.name: path for path in out.iterdir()}
    assert files.keys() == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "rft_jax.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in files.values()}) == 1
    before, after = open_model(kept.directory).run.tokenizer, open_model(out).run.tokenizer
    assert before.stop_ids == after.stop_ids == (1, 2)
    generation = json.loads(files["generation_config.json"].read_text())
    assert generation["eos_token_id"] == [1, 2]
    assert json.loads(files["tokenizer_config.json"].read_text())["eos_token"] == "<|user|>"
    assert json.loads(files["rft_jax.json"].read_text())["thinking_tokens"] is None
    with pytest.raises(InputError, match="not empty; choose a new directory"):
        export_model(kept.directory, out)
    with pytest.raises(InputError, match="has no adapter"):
        export_model(kept.directory, tmp_path / "adapter", "peft")


@pytest.mark.oracle
def test_transformers_stops_where_the_export_says(kept, tmp_path):
    transformers = pytest.importorskip("transformers")
    export_model(kept.directory, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [1, 2]
    library = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert library.eos_token_id == 2
