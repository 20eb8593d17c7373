"""Granite 3 and 4, dense (https://arxiv.org/abs/2405.04324)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, llama_config


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: Llama's with four multipliers."""
    bias = settings.flag("attention_bias", False)
    return llama_config(
        settings,
        attention_bias=bias,
        output_bias=bias,
        attention_scale=settings.number("attention_multiplier", 1.0),
        embedding_multiplier=settings.number("embedding_multiplier", 1.0),
        residual_multiplier=settings.number("residual_multiplier", 1.0),
        logits_scaling=settings.number("logits_scaling", 1.0),
    )


FAMILY = Family("GraniteForCausalLM", read_config, LLAMA_WEIGHTS)
