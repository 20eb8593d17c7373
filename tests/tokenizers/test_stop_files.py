"""An export's files name every stop token that was trained with."""

import json
import shutil

import pytest
from tokenizers import Tokenizer

from rft_jax.tokenizers import HuggingFaceTokenizer
from rft_jax.tokenizers.stop_files import write_stops

NAMES = ("stop_ids", "pad_id", "forbidden_ids", "end_of_think_id", "ending_id", "answer_separator")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def base_model(tmp_path, checkpoints):
    """Qwen 3 as a base model describes itself: it knows the end of a document only."""
    directory = tmp_path / "base"
    shutil.copytree(checkpoints["qwen3"], directory)
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    end = library.token_to_id("<|endoftext|>")
    config = read(directory / "tokenizer_config.json") | {"eos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name in ("generation_config.json", "config.json"):
        values = {"eos_token_id": end, "bos_token_id": end, "pad_token_id": None}
        (directory / name).write_text(json.dumps(values))
    names = {"eos_token": {"content": "<|endoftext|>", "lstrip": False}, "pad_token": "<|pad|>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(names))
    return directory, end, library.token_to_id("<|im_end|>")


@pytest.mark.parametrize("generation", [True, False])
def test_a_tuned_base_model_stops_at_the_end_of_its_answers(base_model, generation):
    directory, end, ending = base_model
    if not generation:
        (directory / "generation_config.json").unlink()
    tokenizer = HuggingFaceTokenizer(directory)
    assert tokenizer.stop_ids == (end, ending)
    write_stops(tokenizer, directory)
    values = read(directory / "generation_config.json")
    assert values["eos_token_id"] == [end, ending] and values["bos_token_id"] == end
    assert read(directory / "tokenizer_config.json")["eos_token"] == "<|im_end|>"
    eos = read(directory / "special_tokens_map.json")["eos_token"]
    assert eos == {"content": "<|im_end|>", "lstrip": False}
    again = HuggingFaceTokenizer(directory)
    for name in NAMES:
        assert getattr(again, name) == getattr(tokenizer, name)


@pytest.mark.parametrize("name", ["qwen3", "llama3_2", "gemma3", "deepseek_r1_distill", "llama2"])
def test_a_model_that_stops_right_keeps_its_tokens(name, checkpoints, tmp_path):
    shutil.copytree(checkpoints[name], tmp_path, dirs_exist_ok=True)
    tokenizer = HuggingFaceTokenizer(tmp_path)
    config = (tmp_path / "tokenizer_config.json").read_text()
    write_stops(tokenizer, tmp_path)
    assert (tmp_path / "tokenizer_config.json").read_text() == config
    before = read(checkpoints[name] / "generation_config.json")
    after = read(tmp_path / "generation_config.json")
    assert after.pop("eos_token_id") == list(tokenizer.stop_ids)
    assert after == {key: value for key, value in before.items() if key != "eos_token_id"}


def test_an_eos_token_that_the_template_writes_out_is_kept(base_model):
    directory, end, ending = base_model
    config = read(directory / "tokenizer_config.json")
    config["chat_template"] = "{{ eos_token }}" + config["chat_template"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = HuggingFaceTokenizer(directory)
    write_stops(tokenizer, directory)
    assert read(directory / "tokenizer_config.json") == config
    assert read(directory / "generation_config.json")["eos_token_id"] == [end, ending]


@pytest.mark.oracle
def test_transformers_reads_the_stops(base_model):
    transformers = pytest.importorskip("transformers")
    directory, end, ending = base_model
    write_stops(HuggingFaceTokenizer(directory), directory)
    library = transformers.PreTrainedTokenizerFast.from_pretrained(directory)
    assert library.eos_token_id == ending
    generation = transformers.GenerationConfig.from_pretrained(directory)
    assert generation.eos_token_id == [end, ending]
