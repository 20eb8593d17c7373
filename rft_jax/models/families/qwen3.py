"""Qwen 3, dense (https://arxiv.org/abs/2505.09388)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, llama_config
from rft_jax.models.families.qwen2 import sliding_fields


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration."""
    bias = settings.flag("attention_bias", False)
    return llama_config(
        settings,
        head_dim=settings.integer("head_dim", 128),
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        **sliding_fields(settings),
    )


FAMILY = Family("Qwen3ForCausalLM", read_config, LLAMA_WEIGHTS)
