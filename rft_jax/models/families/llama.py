"""Llama 3.x, and distillations into it (DeepSeek-R1-Distill-Llama)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, llama_config


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration."""
    bias = settings.flag("attention_bias", False)
    return llama_config(settings, attention_bias=bias, output_bias=bias)


FAMILY = Family("LlamaForCausalLM", read_config, LLAMA_WEIGHTS)
