"""Gemma 4, dense and text only (https://ai.google.dev/gemma/docs/core/model_card_4): E2B and E4B
with per-layer embeddings and shared keys, and the 12B, which transformers calls unified."""

from rft_jax.config import LayerType, ModelConfig, ProportionalRope, RopeScaling
from rft_jax.models.families.base import (
    ACTIVATIONS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
    rope_scaling,
    shortest_pattern,
)
from rft_jax.models.families.gemma2 import GEMMA_WEIGHTS
from rft_jax.utils.errors import InputError

LAYER = "model.layers.{L}"
THETA, SLIDING_THETA, TURNED = 1_000_000.0, 10_000.0, 0.25
TABLE_ROWS = 262_144  # of per-layer embeddings, unless said otherwise
NAMES: dict[str, LayerType] = {"sliding_attention": "sliding", "full_attention": "global"}
SHARED: dict[LayerType, LayerType] = {"sliding": "shared_sliding", "global": "shared_global"}


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration, with per-layer embeddings."""
    settings.refuse("enable_moe_block", False)
    per_layer = settings.integer("hidden_size_per_layer_input", 256)
    rows = settings.integer("vocab_size_per_layer_input", TABLE_ROWS)
    if per_layer and rows != settings.integer("vocab_size"):
        raise InputError(
            f"{settings.where}: vocab_size_per_layer_input={rows} is not supported, only a table "
            "of per-layer embeddings with as many rows as vocab_size"
        )
    return _config(settings, window=512, per_layer_size=per_layer)


def read_unified(settings: Settings) -> ModelConfig:
    """The decoder's configuration, without per-layer embeddings."""
    return _config(settings, window=1024, per_layer_size=0)


def _config(settings: Settings, *, window: int, per_layer_size: int) -> ModelConfig:
    settings.refuse("use_bidirectional_attention", "vision")  # of tokens that stand for images
    bias = settings.flag("attention_bias", False)
    kinds = _kinds(settings)
    head_dim, heads = settings.integer("head_dim", 256), settings.integer("num_key_value_heads", 4)
    wide = settings.flag("use_double_wide_mlp", False)
    return llama_config(
        settings,
        num_kv_heads=heads,
        head_dim=head_dim,
        attention_pattern=shortest_pattern(kinds),
        attention_bias=bias,
        output_bias=bias,
        attention_scale=1.0,
        qk_norm=True,
        value_norm=True,
        values_are_keys=settings.flag("attention_k_eq_v", False),
        sliding_window=settings.integer("sliding_window", window),
        shared_intermediate_size=2 * settings.integer("intermediate_size") if wide else None,
        activation=settings.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh"),
        sandwich_norms=True,
        scale_embeddings=True,
        tie_embeddings=settings.flag("tie_word_embeddings", True),
        logit_softcap=settings.optional_number("final_logit_softcapping"),
        layer_scale=True,
        per_layer_size=per_layer_size,
        **_global_sizes(settings, kinds),
        **_rope_fields(settings),
    )


def _kinds(settings: Settings) -> list[LayerType]:
    """The kind of each layer: the last layers share the keys and values of others."""
    layers = settings.integer("num_hidden_layers")
    pattern = attention_pattern(settings, lambda i: "sliding" if (i + 1) % 6 else "global", NAMES)
    kinds: list[LayerType] = [pattern[layer % len(pattern)] for layer in range(layers)]
    kinds[-1] = "global"  # as transformers has it, whatever is listed
    own = layers - settings.integer("num_kv_shared_layers", 0)
    if not set(kinds[own:]) <= set(kinds[: max(own, 0)]):
        raise InputError(
            f"{settings.where}: num_kv_shared_layers={layers - own} leaves no layer of their kind "
            "before those that share keys and values"
        )
    return [kind if layer < own else SHARED[kind] for layer, kind in enumerate(kinds)]


def _global_sizes(settings: Settings, kinds: list[LayerType]) -> dict[str, int | None]:
    """The sizes of full layers' heads, in either of two forms."""
    listed = settings.values.get("per_layer_config")
    if listed is None:
        heads = _given(settings, "num_global_key_value_heads")
        return {
            "global_head_dim": settings.integer("global_head_dim", 512),
            "global_kv_heads": heads if settings.flag("attention_k_eq_v", False) else None,
        }
    layers = settings.section("per_layer_config")
    own = {int(name): layers.section(name) for name in layers.values if name.isdigit()}
    places = [layer for layer, kind in enumerate(kinds) if kind in ("global", "shared_global")]
    first = own.get(places[0], Settings({}, layers.where))
    alike = all(own.get(place, first).values == first.values for place in places)
    known = first.values.keys() <= {"head_dim", "num_key_value_heads"}
    if not (alike and known and own.keys() == (set(places) if first.values else set())):
        raise InputError(
            f"{layers.where}: supported are head_dim and num_key_value_heads, the same in all "
            "layers of full attention"
        )
    return {
        "global_head_dim": _given(first, "head_dim"),
        "global_kv_heads": _given(first, "num_key_value_heads"),
    }


def _given(settings: Settings, key: str) -> int | None:
    return settings.integer(key) if settings.values.get(key) is not None else None


def _rope_fields(settings: Settings) -> dict[str, float | RopeScaling | None]:
    """The two rotations; of full layers' heads only a part turns."""
    rope = settings.section("rope_parameters")
    full, sliding = rope.section("full_attention"), rope.section("sliding_attention")
    sliding.refuse("rope_type", "default")
    scaling: RopeScaling | None
    if full.text("rope_type", "proportional") == "proportional":
        turned = full.number("partial_rotary_factor", 1.0 if full.values else TURNED)
        scaling = ProportionalRope(turned, full.number("factor", 1.0))
    else:
        scaling = rope_scaling(full, settings)
    return {
        "rope_theta": full.number("rope_theta", THETA),
        "rope_scaling": scaling,
        "sliding_rope_theta": sliding.number("rope_theta", SLIDING_THETA),
    }


WEIGHTS = GEMMA_WEIGHTS | {"layer_scale_X": WeightMap(f"{LAYER}.layer_scalar", "X")}
FAMILY = Family(
    "Gemma4ForCausalLM",
    read_config,
    WEIGHTS
    | {
        "per_layer_VX": WeightMap("model.embed_tokens_per_layer.weight", "V X"),
        "per_layer_from_DLI": WeightMap("model.per_layer_model_projection.weight", "LI D"),
        "per_layer_norm_I": WeightMap("model.per_layer_projection_norm.weight", "I"),
        "per_layer_gate_DI": WeightMap(f"{LAYER}.per_layer_input_gate.weight", "I D"),
        "per_layer_out_ID": WeightMap(f"{LAYER}.per_layer_projection.weight", "D I"),
        "per_layer_norm_D": WeightMap(f"{LAYER}.post_per_layer_input_norm.weight", "D"),
    },
    model_type="gemma4_text",
    wrapper="Gemma4ForConditionalGeneration",
)
UNIFIED = Family(
    "Gemma4UnifiedForCausalLM",
    read_unified,
    WEIGHTS,
    model_type="gemma4_unified_text",
    wrapper="Gemma4UnifiedForConditionalGeneration",
)
