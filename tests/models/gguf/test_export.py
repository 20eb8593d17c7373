"""A GGUF file has the model's weights as llama.cpp lays them out, its sizes and its tokenizer."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file

from rft_jax.config import LoraConfig
from rft_jax.models import build_model, split
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.gguf import export_gguf
from rft_jax.models.gguf.architectures import ARCHITECTURES, find_architecture
from rft_jax.models.hugging_face import export, open_checkpoint
from rft_jax.runs.export import export_model
from rft_jax.tokenizers import HuggingFaceTokenizer, gguf_vocabulary
from rft_jax.utils.errors import InputError

from .cases import CASES, write_case

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("llama")
    source = write_case("llama", directory / "source")
    settings = json.loads((source / "config.json").read_text())
    scaling = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    (source / "config.json").write_text(json.dumps(settings | {"rope_scaling": scaling}))
    export_model(source, directory / "out", "gguf", "float16")
    return source, directory / "out"


def value(reader, key):
    return reader.fields[key].contents()


def test_the_weights_are_those_of_the_checkpoint(llama):
    source, out = llama
    assert {path.name for path in out.iterdir()} == {"README.md", "model.gguf", "rft_jax.json"}
    reader = gguf.GGUFReader(out / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    theirs = load_file(source / "model.safetensors")
    assert len(tensors) == len(theirs) + 1  # and the factors of the frequencies
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_down.weight"].data,
        theirs["model.layers.1.mlp.down_proj.weight"].astype(np.float16),
    )
    norm = tensors["blk.0.attn_norm.weight"].data
    assert norm.dtype == np.float32
    np.testing.assert_array_equal(norm, theirs["model.layers.0.input_layernorm.weight"])
    # Of each head, what was half a head away is the next.
    rows = theirs["model.layers.0.self_attn.k_proj.weight"].astype(np.float16).reshape(2, 8, 16)
    turned = tensors["blk.0.attn_k.weight"].data.reshape(2, 8, 16)
    np.testing.assert_array_equal(turned[:, 0::2], rows[:, :4])
    np.testing.assert_array_equal(turned[:, 1::2], rows[:, 4:])
    factors = tensors["rope_freqs.weight"].data
    assert factors[0] == 1 and factors[-1] == 8 and (np.diff(factors) >= 0).all()


def test_sizes_and_chat_template(llama):
    source, out = llama
    reader = gguf.GGUFReader(out / "model.gguf")
    expected = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 8,
        "llama.vocab_size": 320,
        "llama.context_length": 64,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
    }
    assert {key: value(reader, key) for key in expected} == expected
    config = json.loads((source / "tokenizer_config.json").read_text())
    assert value(reader, "tokenizer.chat_template") == config["chat_template"]


def test_tokens_and_merges_encode_as_the_tokenizer_does(llama):
    source, out = llama
    reader = gguf.GGUFReader(out / "model.gguf")
    tokens = value(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in value(reader, "tokenizer.ggml.merges")]
    types = value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == 320
    assert types[:4] == [3, 3, 3, 3] and types[-1] == 5 and tokens[-1] == "[PAD319]"
    theirs = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    ours = tokenizers.Tokenizer(
        tokenizers.models.BPE({token: id for id, token in enumerate(tokens)}, merges)
    )
    ours.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "A stolen camera, 1500 EUR,  reported after 9 days; Zoë's."
    assert value(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert ours.encode(text).ids == theirs.encode(text).ids


def test_norms_around_one_are_written_as_factors(tmp_path):
    source = write_case("gemma2", tmp_path / "source")
    export_model(source, tmp_path / "out", "gguf", "float32")
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    theirs = load_file(source / "model.safetensors")
    for name, other in {
        "blk.1.post_ffw_norm": "model.layers.1.post_feedforward_layernorm",
        "output_norm": "model.norm",
    }.items():
        np.testing.assert_array_equal(tensors[f"{name}.weight"], theirs[f"{other}.weight"] + 1)


def test_adapters_are_merged_into_the_file(llama, tmp_path):
    source, _ = llama
    checkpoint = open_checkpoint(source)
    config = dataclasses.replace(checkpoint.config, lora=LoraConfig(rank=2, alpha=3.0))
    model = build_model(config, checkpoint.vocab_size)
    trainable, frozen = split(model.init(jax.random.key(0)))
    noise = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(1), x.shape), trainable
    )
    params = model.adapt(noise, frozen)
    vocabulary = gguf_vocabulary(HuggingFaceTokenizer(source, 320), "llama")
    file = tmp_path / "model.gguf"
    export_gguf(model, params, source, vocabulary, file, dtype=jnp.float32)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(file).tensors}
    export(model, params, source, tmp_path / "merged", dtype=jnp.float32)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, other in {"ffn_up": "mlp.up_proj", "attn_output": "self_attn.o_proj"}.items():
        expected = merged[f"model.layers.1.{other}.weight"]
        np.testing.assert_array_equal(tensors[f"blk.1.{name}.weight"], expected)


def config_of(name, directory, **changes):
    source = write_case(name, directory)
    settings = json.loads((source / "config.json").read_text()) | changes
    return source, FAMILIES[settings["architectures"][0]].read_config(Settings(settings, ""))


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_is_found(name, tmp_path):
    source, config = config_of(name, tmp_path)
    found = find_architecture(source, config)
    assert found in ARCHITECTURES.values()


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        (
            "llama",
            {"attention_bias": True},
            "for this model's attention_bias, output_bias",
        ),
        ("qwen3_moe", {"norm_topk_prob": False}, "this model's normalize_experts;"),
        ("gemma2", {"attn_logit_softcapping": 20.0}, "this model's attention_softcap;"),
        ("gemma3", {"query_pre_attn_scalar": 5}, "this model's attention_scale;"),
        (
            "qwen2",
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 3.0}},
            "this model's rope_scaling;",
        ),
    ],
)
def test_what_a_file_cannot_say_is_refused(name, changes, complaint, tmp_path):
    source, config = config_of(name, tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        find_architecture(source, config)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_other_architectures_are_refused(tmp_path):
    source = write_case("llama", tmp_path)
    settings = json.loads((source / "config.json").read_text())
    settings |= {"architectures": ["GraniteForCausalLM"]}
    (source / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="GraniteForCausalLM cannot be written as GGUF, only L"):
        export_model(source, tmp_path / "out", "gguf")
