"""Small checkpoints, one of each architecture that GGUF files name."""

from ...small_checkpoint import write_small

QWEN3_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 8,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 768,  # a file's reader in transformers knows no other
    "norm_topk_prob": True,
}
# What a file does not state is as in the published models.
GEMMA = {"head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 5}
CASES = {
    "llama": {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 8},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128},
    "qwen3_moe": QWEN3_MOE,
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", **GEMMA},
    "gemma3": {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        **GEMMA,
    },
    "lfm2": {
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "layer_types": ["conv", "full_attention"],
        "block_auto_adjust_ff_dim": False,
    },
}
COMMON = {"max_position_embeddings": 64, "rope_theta": 5000.0, "rms_norm_eps": 1e-5}


def write_case(name, directory):
    return write_small(directory, **COMMON | CASES[name])
