"""Qwen 3.5, mixture of experts, text only (https://qwen.ai/blog?id=qwen3.5)."""

from rft_jax.config import ModelConfig
from rft_jax.models.families.base import Family, Settings, WeightMap
from rft_jax.models.families.qwen3_5 import QWEN3_5_WEIGHTS, qwen3_5_config
from rft_jax.models.families.qwen3_moe import EXPERT_WEIGHTS

MLP = "model.layers.{L}.mlp"


def read_config(settings: Settings) -> ModelConfig:
    """The decoder's configuration: Qwen 3.5's, with experts of which one is for all tokens."""
    settings.refuse("norm_topk_prob", True)
    return qwen3_5_config(
        settings,
        num_kv_heads=settings.integer("num_key_value_heads", 2),
        intermediate_size=settings.integer("moe_intermediate_size", 512),
        experts=settings.integer("num_experts", 256),
        experts_per_token=settings.integer("num_experts_per_tok", 8),
        shared_expert_size=settings.integer("shared_expert_intermediate_size", 512),
    )


FAMILY = Family(
    "Qwen3_5MoeForCausalLM",
    read_config,
    QWEN3_5_WEIGHTS
    | EXPERT_WEIGHTS
    | {
        "shared_router_DX": WeightMap(f"{MLP}.shared_expert_gate.weight", "X D"),
        "shared_gate_DF": WeightMap(f"{MLP}.shared_expert.gate_proj.weight", "F D"),
        "shared_up_DF": WeightMap(f"{MLP}.shared_expert.up_proj.weight", "F D"),
        "shared_down_FD": WeightMap(f"{MLP}.shared_expert.down_proj.weight", "D F"),
    },
    packed={
        "gate_EDF": WeightMap(f"{MLP}.experts.gate_up_proj", "E 0F D"),
        "up_EDF": WeightMap(f"{MLP}.experts.gate_up_proj", "E 1F D"),
        "down_EFD": WeightMap(f"{MLP}.experts.down_proj", "E D F"),
    },
    model_type="qwen3_5_moe_text",
    wrapper="Qwen3_5MoeForConditionalGeneration",
)
