"""LFM 2 and 2.5, dense (https://arxiv.org/abs/2511.23404)."""

from rft_jax.config import LayerType, ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
    rope_fields,
)

LAYER = "model.layers.{L}"
KINDS: dict[str, LayerType] = {"conv": "short_conv", "full_attention": "full"}


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: short convolutions, and some layers of attention."""
    settings.refuse("conv_bias", False)
    layers = settings.integer("num_hidden_layers")
    full = settings.values.get("full_attn_idxs")
    full = range(layers) if full is None else full
    return llama_config(
        settings,
        num_kv_heads=settings.integer("num_key_value_heads", 8),
        intermediate_size=_intermediate_size(settings),
        norm_eps=settings.number("norm_eps", 1e-5),
        tie_embeddings=settings.flag("tie_embedding", settings.flag("tie_word_embeddings", True)),
        activation="silu",
        qk_norm=True,
        attention_pattern=attention_pattern(
            settings, lambda layer: "full" if layer in full else "short_conv", KINDS
        ),
        conv_width=settings.integer("conv_L_cache", 3),
        **rope_fields(settings, 1_000_000.0),
    )


def _intermediate_size(settings: Settings) -> int:
    """Two thirds of what is named, as a gated MLP has a matrix more, in multiples."""
    size = settings.integer("block_ff_dim", settings.integer("intermediate_size", 12_288))
    if not settings.flag("block_auto_adjust_ff_dim", True):
        return size
    size = int(settings.number("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3))
    multiple = settings.integer("block_multiple_of", 256)
    return multiple * -(-size // multiple)


FAMILY = Family(
    "Lfm2ForCausalLM",
    read_config,
    LLAMA_WEIGHTS
    | {
        "final_norm_D": WeightMap("model.embedding_norm.weight", "D"),
        "attention_norm_D": WeightMap(f"{LAYER}.operator_norm.weight", "D"),
        "mlp_norm_D": WeightMap(f"{LAYER}.ffn_norm.weight", "D"),
        "out_KMQD": WeightMap(f"{LAYER}.self_attn.out_proj.weight", "D KMQ"),
        "q_norm_Q": WeightMap(f"{LAYER}.self_attn.q_layernorm.weight", "Q"),
        "k_norm_Q": WeightMap(f"{LAYER}.self_attn.k_layernorm.weight", "Q"),
        "conv_in_DXC": WeightMap(f"{LAYER}.conv.in_proj.weight", "XC D"),
        "conv_taps_CXW": WeightMap(f"{LAYER}.conv.conv.weight", "C X W"),
        "conv_out_CD": WeightMap(f"{LAYER}.conv.out_proj.weight", "D C"),
        "gate_DF": WeightMap(f"{LAYER}.feed_forward.w1.weight", "F D"),
        "up_DF": WeightMap(f"{LAYER}.feed_forward.w3.weight", "F D"),
        "down_FD": WeightMap(f"{LAYER}.feed_forward.w2.weight", "D F"),
    },
)
