"""Describes a decoder as a config.json of the architecture in transformers that computes the same.

`describe(config, vocab_size, max_tokens)` is the inverse of a family's `read_config`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from rft_jax.config import (
    NOT_OF_SOURCE,
    LinearRope,
    Llama3Rope,
    ModelConfig,
    ProportionalRope,
    RopeScaling,
)
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.models.families.base import ACTIVATIONS, LAYER_TYPES
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}


def describe(config: ModelConfig, vocab_size: int, max_tokens: int) -> JsonObject:
    """The content of config.json.

    Args:
        config: The architecture.
        vocab_size: Rows of the embedding.
        max_tokens: The longest sequence that the model was trained on.

    Raises:
        InputError: No architecture has these options, which are named.
    """
    config = canonical(config)
    architecture = _nearest(config)
    values = {
        "architectures": [architecture],
        "model_type": MODEL_TYPES[architecture],
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _key_of(ACTIVATIONS, config.activation),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.attention_bias,
        "max_position_embeddings": max_tokens,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope(config.rope_scaling),
        **_sliding(config),
        **_experts(config),
        "torch_dtype": "float32",
    }
    found = FAMILIES[architecture].read_config(Settings(values, "config.json"))
    found = canonical(dataclasses.replace(found, **_free(config)))
    names = [field.name for field in dataclasses.fields(config)]
    if others := [name for name in names if getattr(found, name) != getattr(config, name)]:
        raise InputError(
            f"models.{config.name}: transformers has no architecture with this model's "
            f"{', '.join(others)} (the nearest is {architecture}); only models with the options of "
            "Llama, Qwen 2 or Qwen 3 can be exported"
        )
    return values


def canonical(config: ModelConfig) -> ModelConfig:
    """The same model with settings that change nothing as they are by default."""
    types = tuple(np.resize(config.attention_pattern, config.num_layers).tolist())
    shortest = next(
        types[:period]
        for period in range(1, config.num_layers + 1)
        if types == tuple(np.resize(types[:period], config.num_layers).tolist())
    )
    same: JsonObject = {"attention_pattern": shortest}
    rope = config.rope_theta, config.rope_scaling
    if "sliding" not in types:
        same |= {"sliding_window": 0, "sliding_rope_theta": None}
    elif (config.sliding_rope_theta, None) == rope:
        same["sliding_rope_theta"] = None
    if config.attention_scale == config.head_dim**-0.5:
        same["attention_scale"] = None
    if not config.experts:
        same |= {"experts_per_token": 0, "normalize_experts": True}
        same |= {"shared_expert_size": 0, "expert_bias": False}
    if "short_conv" not in types:
        same["conv_width"] = ModelConfig.conv_width
    return dataclasses.replace(config, **same)


def _nearest(config: ModelConfig) -> str:
    if config.experts:
        return "Qwen3MoeForCausalLM"
    if config.qk_norm:
        return "Qwen3ForCausalLM"
    if config.attention_bias and not config.output_bias:
        return "Qwen2ForCausalLM"
    return "LlamaForCausalLM"


def _free(config: ModelConfig) -> JsonObject:
    return {name: getattr(config, name) for name in NOT_OF_SOURCE}


def _sliding(config: ModelConfig) -> JsonObject:
    if "sliding" not in config.attention_pattern:
        return {}
    types = np.resize(config.attention_pattern, config.num_layers).tolist()
    return {
        "use_sliding_window": True,
        "sliding_window": config.sliding_window,
        "max_window_layers": types.index("sliding"),
        "layer_types": [_key_of(LAYER_TYPES, kind) for kind in types],
    }


def _experts(config: ModelConfig) -> JsonObject:
    if not config.experts:
        return {}
    return {
        "moe_intermediate_size": config.intermediate_size,
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "norm_topk_prob": config.normalize_experts,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _rope(scaling: RopeScaling | None) -> JsonObject | None:
    if scaling is None or isinstance(scaling, ProportionalRope):
        return None  # the latter is only Gemma 4's
    if isinstance(scaling, LinearRope):
        return {"rope_type": "linear", "factor": scaling.factor}
    original = {"original_max_position_embeddings": scaling.original_positions}
    if isinstance(scaling, Llama3Rope):
        return {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            **original,
        }
    return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "attention_factor": scaling.attention_factor,
        "truncate": scaling.truncate,
        **original,
    }


def _key_of(names: Mapping[str, str], value: str) -> str:
    return next(key for key, ours in names.items() if ours == value)
