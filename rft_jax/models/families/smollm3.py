"""SmolLM 3 (https://huggingface.co/blog/smollm3)."""

from rft_jax.config import LayerType, ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    llama_config,
    rope_fields,
    shortest_pattern,
)
from rft_jax.utils.errors import InputError


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: every fourth layer has no positions."""
    settings.refuse("use_sliding_window", False)
    bias = settings.flag("attention_bias", False)
    return llama_config(
        settings,
        num_kv_heads=settings.integer("num_key_value_heads", 4),
        tie_embeddings=settings.flag("tie_word_embeddings", True),
        attention_bias=bias,
        output_bias=bias,
        attention_pattern=_pattern(settings),
        **rope_fields(settings, 2_000_000.0),
    )


def _pattern(settings: Settings) -> tuple[LayerType, ...]:
    """From `no_rope_layers`, which in spite of its name has a 1 where there are positions."""
    layers = settings.integer("num_hidden_layers")
    interval = settings.integer("no_rope_layer_interval", 4)
    listed = settings.values.get("no_rope_layers")
    if listed is None:
        listed = [int((layer + 1) % interval != 0) for layer in range(layers)]
    if not isinstance(listed, list) or len(listed) != layers or not set(listed) <= {0, 1}:
        raise InputError(
            f"{settings.where}: no_rope_layers must give each of the {layers} layers a 0 or a 1"
        )
    types: list[LayerType] = ["full" if rotary else "nope" for rotary in listed]
    return shortest_pattern(types)


FAMILY = Family("SmolLM3ForCausalLM", read_config, LLAMA_WEIGHTS)
