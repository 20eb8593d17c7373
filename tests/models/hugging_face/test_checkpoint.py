"""What cannot be loaded is refused with one sentence that names it."""

import json

import numpy as np
import pytest

from rft_jax.models.hugging_face import is_checkpoint, open_checkpoint
from rft_jax.models.hugging_face.tensor_files import TensorFiles
from rft_jax.utils.errors import InputError

from .conftest import CONFIGS, SIZES, tensors_of, write

LLAMA = SIZES | CONFIGS["llama"]
DOWN = "model.layers.1.mlp.down_proj.weight"


def refused(directory):
    with pytest.raises(InputError) as error:
        open_checkpoint(directory)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_checkpoint_is_told_from_a_work_directory(tmp_path):
    assert is_checkpoint(write(tmp_path / "model", LLAMA, {}))
    assert not is_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"class": "rft_jax.config.schema:Config"}))
    assert not is_checkpoint(tmp_path)


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path):
    directory = write(tmp_path, SIZES | {"architectures": ["GPT2LMHeadModel"]}, {})
    assert refused(directory) == (
        f"{tmp_path}/config.json: the architecture GPT2LMHeadModel is not supported; supported are "
        "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, "
        "Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, "
        "Gemma4ForCausalLM, Gemma4UnifiedForCausalLM, SmolLM3ForCausalLM, Olmo3ForCausalLM, "
        "Ministral3ForCausalLM, GraniteForCausalLM, GraniteMoeHybridForCausalLM, "
        "Lfm2ForCausalLM, GptOssForCausalLM"
    )


QWEN3_5, GEMMA4 = SIZES | CONFIGS["qwen3_5"], SIZES | CONFIGS["gemma4"]
GEMMA4_12B = SIZES | CONFIGS["gemma4_unified"]


def with_images(prefix: str, alone=QWEN3_5):
    """The settings and tensors of the same text within a model of text and images."""
    text = {name: value for name, value in alone.items() if name != "architectures"}
    architecture = alone["architectures"][0].replace("CausalLM", "ConditionalGeneration")
    settings = {"architectures": [architecture], "text_config": text}
    tensors = {
        name if name.startswith("lm_head") else prefix + name.removeprefix("model."): tensor
        for name, tensor in tensors_of(alone).items()
    }
    return settings, tensors


@pytest.mark.parametrize("prefix", ["model.language_model.", "model."])
def test_of_a_model_of_text_and_images_the_text_is_read(tmp_path, prefix):
    settings, tensors = with_images(prefix)
    extra = {"model.visual.blocks.0.weight": np.zeros(3, np.float32)}
    extra |= {f"mtp.layers.{i}.weight": np.zeros(3, np.float32) for i in range(2)}
    checkpoint = open_checkpoint(write(tmp_path / "both", settings, tensors | extra))
    alone = open_checkpoint(write(tmp_path / "alone", QWEN3_5, tensors_of(QWEN3_5)))
    assert checkpoint.config == alone.config
    assert checkpoint.tensors.keys() == alone.tensors.keys()
    assert checkpoint.left_out == (
        "only the text is read; tensors left out: 1 of model.visual, 2 of mtp"
    )
    name = "model.layers.1.self_attn.q_proj.weight"
    read = TensorFiles(checkpoint.tensors).read(name, (slice(None), slice(None)))
    np.testing.assert_array_equal(read, tensors_of(QWEN3_5)[name])


@pytest.mark.parametrize("prefix, before", [("model.language_model.", "model."), ("model.", "")])
@pytest.mark.parametrize("alone", [GEMMA4, GEMMA4_12B], ids=["gemma4", "gemma4_unified"])
def test_what_sees_and_hears_is_left_out_by_name(tmp_path, alone, prefix, before):
    settings, tensors = with_images(prefix, alone)
    parts = "audio_tower", "embed_audio", "embed_vision", "vision_embedder", "vision_tower"
    extra = {f"{before}{part}.weight": np.zeros(3, np.float32) for part in parts}
    checkpoint = open_checkpoint(write(tmp_path / "both", settings, tensors | extra))
    assert checkpoint.tensors.keys() == tensors_of(alone).keys()
    assert checkpoint.left_out.endswith(": " + ", ".join(f"1 of {before}{p}" for p in parts))


def test_keys_that_a_layer_has_but_does_not_read_are_ignored(tmp_path):
    tensors = tensors_of(GEMMA4)
    unread = {
        name.replace("layers.1", "layers.3"): tensor
        for name, tensor in tensors.items()
        if "layers.1.self_attn.k_" in name or "layers.1.self_attn.v_" in name
    }
    assert len(unread) == 3 and not unread.keys() & tensors.keys()
    open_checkpoint(write(tmp_path, GEMMA4, tensors | unread))
    tensors["model.layers.3.self_attn.ears.weight"] = np.zeros(3, np.float32)
    write(tmp_path, GEMMA4, tensors)
    assert "layers.3.self_attn.ears.weight unknown to Gemma4ForCausalLM" in refused(tmp_path)


def test_a_tensor_that_is_neither_text_nor_left_out_is_named(tmp_path):
    settings, tensors = with_images("model.language_model.")
    tensors["model.language_model.ears.weight"] = np.zeros(3, np.float32)
    write(tmp_path, settings, tensors)
    assert "model.ears.weight unknown to Qwen3_5ForCausalLM" in refused(tmp_path)


def test_quantized_text_beside_images_is_refused(tmp_path):
    settings, tensors = with_images("model.language_model.")
    write(tmp_path, settings | {"quantization_config": {"quant_method": "fp8"}}, tensors)
    assert "quantization_config={'quant_method': 'fp8'} is not supported" in refused(tmp_path)


def test_a_truncated_file_is_named(tmp_path):
    path = write(tmp_path, LLAMA, tensors_of(LLAMA)) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(tmp_path).startswith(f"{path}: not a complete safetensors file (")
    path.write_bytes(path.read_bytes()[:5])
    assert refused(tmp_path).startswith(f"{path}: not a complete safetensors file (")


def test_missing_files_are_named(tmp_path):
    assert "config.json: the file is missing" in refused(tmp_path)
    tensors = tensors_of(LLAMA)
    write(tmp_path, LLAMA, tensors, {DOWN: tensors[DOWN]})
    (tmp_path / "part-1.safetensors").unlink()
    assert refused(tmp_path).startswith(f"{tmp_path}/part-1.safetensors: the file is missing")
    (tmp_path / "model.safetensors.index.json").unlink()
    assert refused(tmp_path).startswith(f"{tmp_path}/model.safetensors: the file is missing")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_files_that_are_not_json_objects_are_named(tmp_path, text):
    write(tmp_path, LLAMA, {}, {})
    for name in ("model.safetensors.index.json", "config.json"):
        (tmp_path / name).write_text(text)
        assert refused(tmp_path).startswith(f"{tmp_path}/{name}: ")


def test_missing_unknown_and_mis_shaped_tensors_are_named(tmp_path):
    tensors = tensors_of(LLAMA)
    tensors["model.visual.weight"] = np.zeros(3, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(3, np.float32)
    del tensors[DOWN]
    tensors["model.norm.weight"] = np.zeros(17, np.float32)
    write(tmp_path, LLAMA, tensors)
    assert refused(tmp_path) == (
        f"{tmp_path}: the tensors do not fit config.json: {DOWN} missing; model.visual.weight "
        "unknown to LlamaForCausalLM; model.norm.weight of shape [17] instead of [16]"
    )


def test_many_names_are_shortened(tmp_path):
    write(tmp_path, LLAMA, {})
    assert refused(tmp_path).endswith(
        "config.json: lm_head.weight, model.embed_tokens.weight, "
        "model.layers.0.input_layernorm.weight and 27 more missing"
    )


def test_a_head_beside_tied_embeddings_is_their_copy(tmp_path):
    settings = SIZES | CONFIGS["qwen2"]
    tensors = tensors_of(settings)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    open_checkpoint(write(tmp_path, settings, tensors))


def test_quantized_numbers_are_refused(tmp_path):
    tensors = tensors_of(LLAMA)
    tensors[DOWN] = tensors[DOWN].astype(np.int8)
    write(tmp_path, LLAMA, tensors)
    assert f"the tensor {DOWN} has the type I8" in refused(tmp_path)
    write(tmp_path, LLAMA | {"quantization_config": {"quant_method": "gptq"}}, tensors)
    assert "quantization_config=" in refused(tmp_path)


def test_the_models_name_is_kept(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, LLAMA, tensors_of(LLAMA)), name="small")
    assert checkpoint.config.name == "small"


def test_a_tokenizer_of_more_tokens_than_embeddings_is_refused(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, LLAMA, tensors_of(LLAMA)))
    checkpoint.check_tokenizer(48)
    with pytest.raises(InputError, match=r"has 49 tokens, the model only 48 \(vocab_size in conf"):
        checkpoint.check_tokenizer(49)
