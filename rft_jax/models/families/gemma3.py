"""Gemma 3, text only (https://arxiv.org/abs/2503.19786)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import (
    Family,
    Settings,
    attention_pattern,
    rope_fields,
    rope_scaling,
)
from rft_jax.models.families.gemma2 import GEMMA_WEIGHTS, gemma_config

THETA, SLIDING_THETA = 1_000_000.0, 10_000.0


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: five sliding layers with positions of their own, one full."""
    period = settings.integer("sliding_window_pattern", 6)
    pattern = attention_pattern(
        settings, lambda layer: "sliding" if (layer + 1) % period else "full"
    )
    return gemma_config(
        settings,
        qk_norm=True,
        attention_pattern=pattern,
        logit_softcap=settings.optional_number("final_logit_softcapping"),
        **_rope_fields(settings),
    )


def _rope_fields(settings: Settings) -> dict:
    if settings.values.get("rope_parameters") is None:
        sliding = settings.number("rope_local_base_freq", SLIDING_THETA)
        return rope_fields(settings, THETA) | {"sliding_rope_theta": sliding}
    rope = settings.section("rope_parameters")
    full, sliding = rope.section("full_attention"), rope.section("sliding_attention")
    sliding.refuse("rope_type", "default")
    return {
        "rope_theta": full.number("rope_theta", THETA),
        "rope_scaling": rope_scaling(full, settings),
        "sliding_rope_theta": sliding.number("rope_theta", SLIDING_THETA),
    }


FAMILY = Family("Gemma3ForCausalLM", read_config, GEMMA_WEIGHTS)
