"""Granite 3, dense (https://arxiv.org/abs/2405.04324)."""

from typing import Any

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, llama_config


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration."""
    return granite_config(settings)


def granite_config(settings: Settings, **options: Any) -> ModelConfig:
    """What the models have in common: Llama's configuration with four multipliers."""
    bias = settings.flag("attention_bias", False)
    return llama_config(
        settings,
        attention_bias=bias,
        output_bias=bias,
        attention_scale=settings.number("attention_multiplier", 1.0),
        embedding_multiplier=settings.number("embedding_multiplier", 1.0),
        residual_multiplier=settings.number("residual_multiplier", 1.0),
        logits_scaling=settings.number("logits_scaling", 1.0),
        **options,
    )


FAMILY = Family("GraniteForCausalLM", read_config, LLAMA_WEIGHTS)
