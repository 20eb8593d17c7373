"""gpt-oss (https://arxiv.org/abs/2508.10925)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import (
    LLAMA_WEIGHTS,
    Family,
    Settings,
    WeightMap,
    attention_pattern,
    llama_config,
    rope_fields,
)
from rft_jax.models.mlp import BOUNDED_SLOPE

QUANTIZATION = "quantization_config"
EXPERTS = "model.layers.{L}.mlp.experts"
ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: every other layer slides, all have sinks and experts with
    biases."""
    settings.refuse("swiglu_alpha", BOUNDED_SLOPE)
    settings.refuse("hidden_act", "silu")
    bias = settings.flag("attention_bias", True)
    plain = settings.without(QUANTIZATION)
    if settings.section(QUANTIZATION).text("quant_method", "mxfp4") != "mxfp4":
        plain = settings  # which is refused
    if not any(plain.values.get(key) for key in ("rope_parameters", "rope_scaling")):
        plain = plain.with_section("rope_scaling", Settings(ROPE, plain.where))
    return llama_config(
        plain,
        head_dim=settings.integer("head_dim", 64),
        norm_eps=settings.number("rms_norm_eps", 1e-5),
        attention_bias=bias,
        output_bias=bias,
        attention_sinks=True,
        attention_pattern=attention_pattern(
            settings, lambda layer: "full" if layer % 2 else "sliding"
        ),
        sliding_window=settings.integer("sliding_window", 128),
        swiglu_limit=settings.number("swiglu_limit", 7.0),
        experts=_experts(settings),
        experts_per_token=settings.integer("num_experts_per_tok", 4),
        expert_bias=True,
        activation="silu",
        **rope_fields(plain, 150_000.0),
    )


def _experts(settings: Settings) -> int:
    name = "num_local_experts" if "num_local_experts" in settings.values else "num_experts"
    return settings.integer(name)


FAMILY = Family(
    "GptOssForCausalLM",
    read_config,
    LLAMA_WEIGHTS
    | {
        "sink_KM": WeightMap("model.layers.{L}.self_attn.sinks", "KM"),
        "router_DE": WeightMap("model.layers.{L}.mlp.router.weight", "E D"),
        "router_bias_E": WeightMap("model.layers.{L}.mlp.router.bias", "E"),
        "gate_EDF": WeightMap(f"{EXPERTS}.gate_up_proj", "E D F0"),
        "up_EDF": WeightMap(f"{EXPERTS}.gate_up_proj", "E D F1"),
        "gate_bias_EF": WeightMap(f"{EXPERTS}.gate_up_proj_bias", "E F0"),
        "up_bias_EF": WeightMap(f"{EXPERTS}.gate_up_proj_bias", "E F1"),
        "down_EFD": WeightMap(f"{EXPERTS}.down_proj", "E F D"),
        "down_bias_ED": WeightMap(f"{EXPERTS}.down_proj_bias", "E D"),
    },
)
