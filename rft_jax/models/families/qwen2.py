"""Qwen 2 and 2.5, and distillations into them (DeepSeek-R1-Distill-Qwen)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    attention_pattern,
    llama_config,
)


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration."""
    return llama_config(settings, attention_bias=True, **sliding_fields(settings))


def sliding_fields(settings: Settings) -> dict:
    """Qwen's sliding windows, off in most models: in layers from `max_window_layers` on."""
    if not settings.flag("use_sliding_window", False):
        return {}
    first = settings.integer("max_window_layers", 28)
    return {
        "attention_pattern": attention_pattern(
            settings, lambda layer: "sliding" if layer >= first else "full"
        ),
        "sliding_window": settings.integer("sliding_window", 4096),
    }


FAMILY = Family("Qwen2ForCausalLM", read_config, LLAMA_WEIGHTS)
