"""Gemma 2 (https://arxiv.org/abs/2408.00118)."""

from typing import Any

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import (
    ACTIVATIONS,
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
)


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: every other layer slides."""
    pattern = attention_pattern(settings, lambda layer: "full" if layer % 2 else "sliding")
    return gemma_config(
        settings,
        attention_pattern=pattern,
        attention_softcap=settings.optional_number("attn_logit_softcapping", 50.0),
        logit_softcap=settings.optional_number("final_logit_softcapping", 30.0),
    )


def gemma_config(settings: Settings, **options: Any) -> ModelConfig:
    """What Gemma 2 and 3 have in common."""
    settings.refuse("use_bidirectional_attention", False)
    bias = settings.flag("attention_bias", False)
    return llama_config(
        settings,
        head_dim=settings.integer("head_dim", 256),
        tie_embeddings=settings.flag("tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        attention_scale=settings.number("query_pre_attn_scalar", 256) ** -0.5,
        sliding_window=settings.integer("sliding_window", 4096),
        activation=settings.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        norm_weight_offset=True,
        sandwich_norms=True,
        scale_embeddings=True,
        **options,
    )


GEMMA_WEIGHTS = LLAMA_WEIGHTS | {
    "post_attention_norm_D": WeightMap("model.layers.{L}.post_attention_layernorm.weight", "D"),
    "mlp_norm_D": WeightMap("model.layers.{L}.pre_feedforward_layernorm.weight", "D"),
    "post_mlp_norm_D": WeightMap("model.layers.{L}.post_feedforward_layernorm.weight", "D"),
}

FAMILY = Family("Gemma2ForCausalLM", read_config, GEMMA_WEIGHTS)
