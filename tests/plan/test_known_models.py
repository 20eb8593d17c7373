"""The planner's shapes are those that the families read from a config.json."""

import pytest

from rft_jax.models.families import FAMILIES, Settings
from rft_jax.plan.known_models import SHAPES

QWEN3_5 = {
    "architectures": ["Qwen3_5ForCausalLM"],
    "head_dim": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 24,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 16,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 10_000_000, "partial_rotary_factor": 0.25
    },
    "tie_word_embeddings": True,
    "vocab_size": 248_320,
}  # fmt: skip
PUBLISHED = {
    "Qwen/Qwen3.5-0.8B": QWEN3_5 | {"hidden_size": 1024, "intermediate_size": 3584},
    "Qwen/Qwen3.5-2B": QWEN3_5 | {"hidden_size": 2048, "intermediate_size": 6144},
    "Qwen/Qwen3.5-4B": QWEN3_5
    | {
        "hidden_size": 2560,
        "intermediate_size": 9216,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "linear_num_value_heads": 32,
    },
    "openai/gpt-oss-20b": {
        "architectures": ["GptOssForCausalLM"],
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 24,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150_000,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "vocab_size": 201_088,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_known_shape_is_that_of_the_configuration(name):
    settings = Settings(PUBLISHED[name], "config.json")
    family = FAMILIES[PUBLISHED[name]["architectures"][0]]
    expected = family.read_config(settings), settings.integer("vocab_size")
    assert SHAPES[name] == expected
