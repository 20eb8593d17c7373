"""Qwen 3.5, dense and text only (https://qwen.ai/blog?id=qwen3.5)."""

from typing import Any

from rft_jax.config import DeltaNetConfig, ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
    rope_fields,
)

LAYER = "model.layers.{L}.linear_attn"
PARTIAL = "partial_rotary_factor"


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration."""
    kv_heads = settings.integer("num_key_value_heads", 4)
    return qwen3_5_config(settings, num_kv_heads=kv_heads)


def qwen3_5_config(settings: Settings, **options: Any) -> ModelConfig:
    """What the dense models and the mixtures have in common: three layers of Gated DeltaNet, one of
    gated attention, of whose heads a quarter turns with the position."""
    settings.refuse("attn_output_gate", True)
    bias = settings.flag("attention_bias", False)
    head_dim = settings.integer("head_dim", 256)
    interval = settings.integer("full_attention_interval", 4)
    rope = settings.section("rope_parameters")
    turned = rope.number(PARTIAL, settings.number(PARTIAL, 0.25))
    plain = settings.without(PARTIAL).with_section("rope_parameters", rope.without(PARTIAL))
    return llama_config(
        plain,
        head_dim=head_dim,
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        norm_weight_offset=True,
        attention_gate=True,
        rotary_dim=int(head_dim * turned),
        attention_pattern=attention_pattern(
            settings,
            lambda layer: "delta_net" if (layer + 1) % interval else "full",
            {"linear_attention": "delta_net", "full_attention": "full"},
        ),
        delta_net=DeltaNetConfig(
            num_key_heads=settings.integer("linear_num_key_heads", 16),
            num_value_heads=settings.integer("linear_num_value_heads", 32),
            key_head_dim=settings.integer("linear_key_head_dim", 128),
            value_head_dim=settings.integer("linear_value_head_dim", 128),
            conv_width=settings.integer("linear_conv_kernel_dim", 4),
        ),
        **rope_fields(plain, 10_000.0),
        **options,
    )


QWEN3_5_WEIGHTS = LLAMA_WEIGHTS | {
    "delta_qkv_DC": WeightMap(f"{LAYER}.in_proj_qkv.weight", "C D"),
    "delta_gate_DHY": WeightMap(f"{LAYER}.in_proj_z.weight", "HY D"),
    "delta_beta_DH": WeightMap(f"{LAYER}.in_proj_b.weight", "H D"),
    "delta_decay_DH": WeightMap(f"{LAYER}.in_proj_a.weight", "H D"),
    "delta_out_HYD": WeightMap(f"{LAYER}.out_proj.weight", "D HY"),
    "delta_conv_CXW": WeightMap(f"{LAYER}.conv1d.weight", "C X W"),
    "delta_step_H": WeightMap(f"{LAYER}.dt_bias", "H"),
    "delta_rate_H": WeightMap(f"{LAYER}.A_log", "H"),
    "delta_norm_Y": WeightMap(f"{LAYER}.norm.weight", "Y"),
}

FAMILY = Family(
    "Qwen3_5ForCausalLM",
    read_config,
    QWEN3_5_WEIGHTS,
    model_type="qwen3_5_text",
    wrapper="Qwen3_5ForConditionalGeneration",
)
