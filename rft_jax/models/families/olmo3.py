"""OLMo 3 (https://arxiv.org/abs/2512.13961)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
    rope_fields,
    rope_scaling,
)

THETA = 500_000.0


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: three sliding layers, one full; positions are stretched in full
    ones only."""
    bias = settings.flag("attention_bias", False)
    pattern = attention_pattern(settings, lambda layer: "sliding" if (layer + 1) % 4 else "full")
    return llama_config(
        settings,
        norm_eps=settings.number("rms_norm_eps", 1e-5),
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        qk_norm_all_heads=True,
        pre_norms=False,
        sandwich_norms=True,
        attention_pattern=pattern,
        sliding_window=settings.integer("sliding_window", 4096),
        **_rope_fields(settings),
    )


def _rope_fields(settings: Settings) -> dict:
    if settings.values.get("rope_parameters") is None:
        fields = rope_fields(settings, THETA)
        return fields | {"sliding_rope_theta": fields["rope_theta"]}
    rope = settings.section("rope_parameters")
    full, sliding = rope.section("full_attention"), rope.section("sliding_attention")
    sliding.refuse("rope_type", "default")
    return {
        "rope_theta": full.number("rope_theta", THETA),
        "rope_scaling": rope_scaling(full, settings),
        "sliding_rope_theta": sliding.number("rope_theta", THETA),
    }


FAMILY = Family(
    "Olmo3ForCausalLM",
    read_config,
    LLAMA_WEIGHTS
    | {
        "q_norm_KMQ": WeightMap("model.layers.{L}.self_attn.q_norm.weight", "KMQ"),
        "k_norm_KQ": WeightMap("model.layers.{L}.self_attn.k_norm.weight", "KQ"),
        "post_attention_norm_D": WeightMap("model.layers.{L}.post_attention_layernorm.weight", "D"),
        "post_mlp_norm_D": WeightMap("model.layers.{L}.post_feedforward_layernorm.weight", "D"),
    },
)
