"""Ministral 3, text only (https://mistral.ai/news/mistral-3)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, llama_config
from rft_jax.utils.errors import InputError


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: queries grow with their position, beyond the lengths of
    pre-training."""
    kind = settings.text("model_type", "ministral3")
    if kind != "ministral3":
        raise InputError(f"{settings.where}: model_type {kind!r} is not supported, only ministral3")
    rope = settings.section("rope_parameters")
    growth = None
    if beta := rope.number("llama_4_scaling_beta", 0.0):
        growth = beta, rope.integer("original_max_position_embeddings")
    sliding = {}
    if settings.values.get("sliding_window") is not None:
        window = settings.integer("sliding_window")
        sliding = {"attention_pattern": ("sliding",), "sliding_window": window}
    return llama_config(
        settings,
        num_kv_heads=settings.integer("num_key_value_heads", 8),
        head_dim=settings.integer("head_dim", 128),
        norm_eps=settings.number("rms_norm_eps", 1e-5),
        query_growth=growth,
        **sliding,
    )


FAMILY = Family(
    "Ministral3ForCausalLM",
    read_config,
    LLAMA_WEIGHTS,
    model_type="ministral3",
    wrapper="Mistral3ForConditionalGeneration",
)
