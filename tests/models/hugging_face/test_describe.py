"""A model from scratch is described as the architecture that computes the same, or refused."""

import dataclasses

import pytest

from rft_jax.config import LinearRope, Llama3Rope, ModelConfig, YarnRope
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.hugging_face import describe
from rft_jax.models.hugging_face.describe import canonical
from rft_jax.models.layer_kinds import kinds_of_layers
from rft_jax.models.layer_kinds.attention import reaches
from rft_jax.utils.errors import InputError

BASE = ModelConfig(
    name="small",
    num_layers=4,
    hidden_size=16,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    intermediate_size=24,
)
SLIDING = {"attention_pattern": ("full", "sliding"), "sliding_window": 7}
DESCRIBED = {
    "default": ({}, "Llama"),
    "untied, theta, eps": (
        {"tie_embeddings": False, "rope_theta": 5e5, "norm_eps": 1e-5}, "Llama"
    ),
    "biases": ({"attention_bias": True, "output_bias": True}, "Llama"),
    "gelu": ({"activation": "gelu_tanh"}, "Llama"),
    "linear": ({"rope_scaling": LinearRope(4.0)}, "Llama"),
    "llama3": ({"rope_scaling": Llama3Rope(8.0, 1.0, 4.0, 16)}, "Llama"),
    "yarn": ({"rope_scaling": YarnRope(8.0, 16, 2.0, 0.5, 1.3, False)}, "Llama"),
    "qwen2": ({"attention_bias": True}, "Qwen2"),
    "qwen2, sliding": ({"attention_bias": True, **SLIDING}, "Qwen2"),
    "qwen3": ({"qk_norm": True}, "Qwen3"),
    "qwen3, sliding, biases": (
        {"qk_norm": True, "attention_bias": True, "output_bias": True, **SLIDING}, "Qwen3"
    ),
    "qwen3_moe": (
        {"qk_norm": True, "experts": 4, "experts_per_token": 2, "normalize_experts": False},
        "Qwen3Moe",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DESCRIBED)
def test_what_is_described_is_read_as_the_same_model(case):
    options, family = DESCRIBED[case]
    config = dataclasses.replace(BASE, **options)
    values = describe(config, 300, 128)
    assert values["architectures"] == [f"{family}ForCausalLM"]
    assert values["vocab_size"] == 300 and values["max_position_embeddings"] == 128
    found = FAMILIES[values["architectures"][0]].read_config(Settings(values, ""))
    assert dataclasses.replace(found, name="small") == config


NO_CHANGE = [
    {"attention_pattern": ("full", "full", "full")},
    {"sliding_window": 9, "sliding_rope_theta": 3.0},
    {"attention_scale": BASE.head_dim**-0.5},
    {"experts_per_token": 3, "normalize_experts": False},
    {**SLIDING, "sliding_rope_theta": BASE.rope_theta},
    {"attention_pattern": ("full", "sliding", "full", "sliding", "full"), "sliding_window": 7},
]


@pytest.mark.parametrize("options", NO_CHANGE, ids=str)
def test_settings_without_an_effect_are_no_obstacle(options):
    config = dataclasses.replace(BASE, qk_norm=not options.get("experts_per_token"), **options)
    same = canonical(config)
    assert same != config

    def kinds(config):
        found, index_L = reaches(config, kinds_of_layers(config))
        return [found[index] for index in index_L]

    assert kinds(same) == kinds(config)
    describe(config, 300, 128)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sandwich_norms": True}, "sandwich_norms"),
        (
            {"scale_embeddings": True, "norm_weight_offset": True},
            "norm_weight_offset, scale_embedd",
        ),
        ({"attention_softcap": 30.0}, "attention_softcap"),
        ({"logit_softcap": 30.0}, "logit_softcap"),
        ({"attention_scale": 0.1}, "attention_scale"),
        ({"output_bias": True}, "output_bias"),
        ({"qk_norm": True, "attention_bias": True}, "output_bias"),
        (SLIDING, "attention_pattern, sliding_window"),
        ({"qk_norm": True, **SLIDING, "sliding_rope_theta": 5.0}, "sliding_rope_theta"),
        ({"experts": 4, "experts_per_token": 2}, "qk_norm"),
    ],
)
def test_options_that_no_architecture_has_are_named(options, named):
    config = dataclasses.replace(BASE, **options)
    message = f"models.small: transformers has no architecture with this model's {named}"
    with pytest.raises(InputError, match=message):
        describe(config, 300, 128)
