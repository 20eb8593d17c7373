"""Qwen 3, mixture of experts (https://arxiv.org/abs/2505.09388)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import LLAMA_WEIGHTS, Family, Settings, WeightMap, llama_config


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration; all layers must be mixtures, as in the published models."""
    settings.refuse("decoder_sparse_step", 1)
    settings.refuse("mlp_only_layers", [])
    bias = settings.flag("attention_bias", False)
    name = "num_experts" if "num_experts" in settings.values else "num_local_experts"
    sliding = {}
    if settings.flag("use_sliding_window", False):
        window = settings.integer("sliding_window", 4096)
        sliding = {"attention_pattern": ("sliding",), "sliding_window": window}
    return llama_config(
        settings,
        attention_bias=bias,
        output_bias=bias,
        qk_norm=True,
        intermediate_size=settings.integer("moe_intermediate_size"),
        experts=settings.integer(name),
        experts_per_token=settings.integer("num_experts_per_tok"),
        normalize_experts=settings.flag("norm_topk_prob", False),
        **sliding,
    )


EXPERT_WEIGHTS = {
    "router_DE": WeightMap("model.layers.{L}.mlp.gate.weight", "E D"),
    "gate_EDF": WeightMap("model.layers.{L}.mlp.experts.{E}.gate_proj.weight", "F D"),
    "up_EDF": WeightMap("model.layers.{L}.mlp.experts.{E}.up_proj.weight", "F D"),
    "down_EFD": WeightMap("model.layers.{L}.mlp.experts.{E}.down_proj.weight", "D F"),
}

FAMILY = Family("Qwen3MoeForCausalLM", read_config, LLAMA_WEIGHTS | EXPERT_WEIGHTS)
