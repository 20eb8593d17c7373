"""A small checkpoint of each family, as published models describe themselves."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rft_jax.models import build_model
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.hugging_face.layout import layouts

SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "torch_dtype": "bfloat16",
}
CONFIGS = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": True},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"]},
    "qwen3_moe": {
        "architectures": ["Qwen3MoeForCausalLM"],
        "moe_intermediate_size": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
    "gemma2": {"architectures": ["Gemma2ForCausalLM"]},
    "gemma3": {"architectures": ["Gemma3ForCausalLM"], "sliding_window": 4},
    "gemma4": {
        "architectures": ["Gemma4ForCausalLM"],
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "global_head_dim": 4,
        "sliding_window": 4,
        "hidden_size_per_layer_input": 4,
        "vocab_size_per_layer_input": 48,
    },
    "gemma4_unified": {
        "architectures": ["Gemma4UnifiedForCausalLM"],
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "attention_k_eq_v": True,
        "global_head_dim": 4,
    },
    "olmo3": {"architectures": ["Olmo3ForCausalLM"]},
    "qwen3_5": {
        "architectures": ["Qwen3_5ForCausalLM"],
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "rope_parameters": {"rope_theta": 100.0, "partial_rotary_factor": 0.4},
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 3,
        "linear_value_head_dim": 5,
    },
    "granite_hybrid": {
        "architectures": ["GraniteMoeHybridForCausalLM"],
        "layer_types": ["attention"] * 3,
        "num_local_experts": 0,
        "shared_intermediate_size": 24,
    },
    "gpt_oss": {
        "architectures": ["GptOssForCausalLM"],
        "intermediate_size": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
    },
    "lfm2": {
        "architectures": ["Lfm2ForCausalLM"],
        "layer_types": ["conv", "full_attention", "conv"],
        "block_auto_adjust_ff_dim": False,
    },
}
INTERLEAVED = "mlp.experts.gate_up_proj"  # of gpt-oss: two arrays that take turns in a tensor


def tensors_of(settings, dtype=np.float32):
    """Random tensors of a checkpoint with such a config.json, by name."""
    family = FAMILIES[settings["architectures"][0]]
    model = build_model(family.read_config(Settings(settings, "")), settings["vocab_size"])
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=layout.tensor_shape).astype(dtype)
        for layout in jax.tree.leaves(layouts(family, model))
        for name in layout.names()
    }


def write(directory, settings, *files):
    """A checkpoint; with more than one file there is an index."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(settings))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "README.md").write_text("A model card.")
    names = ["model.safetensors"]
    if len(files) > 1:
        names = [f"part-{number}.safetensors" for number in range(len(files))]
        pairs = zip(names, files, strict=True)
        where = {tensor: name for name, tensors in pairs for tensor in tensors}
        index = json.dumps({"weight_map": where})
        (directory / "model.safetensors.index.json").write_text(index)
    for name, tensors in zip(names, files, strict=True):
        save_file(tensors, directory / name)
    return directory


@pytest.fixture(params=CONFIGS)
def settings(request):
    return SIZES | CONFIGS[request.param]
