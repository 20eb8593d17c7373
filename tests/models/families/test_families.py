"""Configurations as they are published, in transformers' older and newer form."""

import pytest

from rft_jax.config import (
    DeltaNetConfig,
    LinearRope,
    Llama3Rope,
    ModelConfig,
    ProportionalRope,
    YarnRope,
)
from rft_jax.models.families import FAMILIES, Settings
from rft_jax.plan.known_models import SHAPES
from rft_jax.utils.errors import InputError

LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
}
QWEN_2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
QWEN3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
}
QWEN3_30B_A3B = {
    **QWEN3_0_6B,
    "architectures": ["Qwen3MoeForCausalLM"],
    "decoder_sparse_step": 1,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
}
GEMMA_4_E2B = {
    "architectures": ["Gemma4ForCausalLM"],
    "attention_bias": False,
    "attention_k_eq_v": False,
    "enable_moe_block": False,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 512,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1536,
    "hidden_size_per_layer_input": 256,
    "intermediate_size": 6144,
    "layer_types": (["sliding_attention"] * 4 + ["full_attention"]) * 7,
    "max_position_embeddings": 131072,
    "num_attention_heads": 8,
    "num_global_key_value_heads": None,
    "num_hidden_layers": 35,
    "num_key_value_heads": 1,
    "num_kv_shared_layers": 20,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 512,
    "tie_word_embeddings": True,
    "use_bidirectional_attention": None,
    "use_double_wide_mlp": True,
    "vocab_size": 262144,
    "vocab_size_per_layer_input": 262144,
}
QWEN3_5_35B_A3B = {
    "architectures": ["Qwen3_5MoeForCausalLM"],
    "attention_bias": False,
    "attn_output_gate": True,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 10,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "mrope_interleaved": True,
        "mrope_section": [11, 11, 10],
        "partial_rotary_factor": 0.25,
        "rope_theta": 10000000,
        "rope_type": "default",
    },
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
}
LFM2_1_2B = {
    "architectures": ["Lfm2ForCausalLM"],
    "block_auto_adjust_ff_dim": True,
    "block_ff_dim": 12288,
    "block_ffn_dim_multiplier": 1.0,
    "block_multiple_of": 256,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5, 8, 10, 12, 14],
    "hidden_size": 2048,
    "max_position_embeddings": 128000,
    "norm_eps": 1e-05,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
}
GPT_OSS_20B = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "mxfp4"},
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
}
GRANITE_4_MICRO = {
    "architectures": ["GraniteMoeHybridForCausalLM"],
    "attention_bias": False,
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 8192,
    "layer_types": ["attention"] * 40,
    "logits_scaling": 10,
    "num_attention_heads": 40,
    "num_experts_per_tok": 0,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "num_local_experts": 0,
    "position_embedding_type": "rope",
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "shared_intermediate_size": 8192,
    "tie_word_embeddings": True,
}
GEMMA = {
    "head_dim": 256,
    "tie_embeddings": True,
    "attention_scale": 1 / 16,
    "activation": "gelu_tanh",
    "norm_weight_offset": True,
    "sandwich_norms": True,
    "scale_embeddings": True,
}


def read(settings, **changes):
    settings = {**settings, **changes}
    return FAMILIES[settings["architectures"][0]].read_config(Settings(settings, "config.json"))


def test_llama():
    assert read(LLAMA_3_2_1B) == ModelConfig(
        num_layers=16,
        hidden_size=2048,
        num_heads=32,
        num_kv_heads=8,
        head_dim=64,
        intermediate_size=8192,
        rope_theta=500_000.0,
        rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 8192),
        norm_eps=1e-5,
        tie_embeddings=True,
    )


def test_qwen2():
    assert read(QWEN_2_5_0_5B) == ModelConfig(
        num_layers=24,
        hidden_size=896,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        intermediate_size=4864,
        rope_theta=1e6,
        attention_bias=True,
    )
    sliding = read(QWEN_2_5_0_5B, use_sliding_window=True, max_window_layers=20)
    assert sliding.attention_pattern == ("full",) * 20 + ("sliding",) * 4
    assert sliding.sliding_window == 32768


def test_qwen3():
    expected = ModelConfig(
        num_layers=28,
        hidden_size=1024,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        intermediate_size=3072,
        rope_theta=1e6,
        qk_norm=True,
    )
    assert read(QWEN3_0_6B) == expected


def test_qwen3_moe():
    expected = ModelConfig(
        num_layers=48,
        hidden_size=2048,
        num_heads=32,
        num_kv_heads=4,
        head_dim=128,
        intermediate_size=768,
        rope_theta=1e6,
        tie_embeddings=False,
        qk_norm=True,
        experts=128,
        experts_per_token=8,
    )
    assert read(QWEN3_30B_A3B) == expected
    newer = {k: v for k, v in QWEN3_30B_A3B.items() if k != "num_experts"}
    assert read(newer, num_local_experts=128) == expected


def test_qwen3_5_moe():
    expected = ModelConfig(
        num_layers=40,
        hidden_size=2048,
        num_heads=16,
        num_kv_heads=2,
        head_dim=256,
        intermediate_size=512,
        rope_theta=1e7,
        rotary_dim=64,
        tie_embeddings=False,
        qk_norm=True,
        attention_gate=True,
        norm_weight_offset=True,
        attention_pattern=("delta_net",) * 3 + ("full",),
        delta_net=DeltaNetConfig(16, 32, 128, 128, 4),
        experts=256,
        experts_per_token=8,
        shared_expert_size=512,
    )
    assert read(QWEN3_5_35B_A3B) == expected


def test_lfm2():
    kinds = ["short_conv"] * 16
    for layer in LFM2_1_2B["full_attn_idxs"]:
        kinds[layer] = "full"
    expected = ModelConfig(
        num_layers=16,
        hidden_size=2048,
        num_heads=32,
        num_kv_heads=8,
        intermediate_size=8192,
        rope_theta=1e6,
        norm_eps=1e-5,
        qk_norm=True,
        attention_pattern=tuple(kinds[:-1]),  # which ends as it begins
    )
    assert read(LFM2_1_2B) == expected
    assert read(LFM2_1_2B, block_auto_adjust_ff_dim=False).intermediate_size == 12288
    assert not read(LFM2_1_2B, tie_embedding=False).tie_embeddings


def test_gpt_oss():
    expected = ModelConfig(
        num_layers=24,
        hidden_size=2880,
        num_heads=64,
        num_kv_heads=8,
        intermediate_size=2880,
        rope_theta=150_000.0,
        rope_scaling=YarnRope(
            32.0, 4096, attention_factor=pytest.approx(0.1 * 3.4657359 + 1), truncate=False
        ),
        norm_eps=1e-5,
        tie_embeddings=False,
        attention_bias=True,
        output_bias=True,
        attention_sinks=True,
        attention_pattern=("sliding", "full"),
        sliding_window=128,
        swiglu_limit=7.0,
        experts=32,
        experts_per_token=4,
        expert_bias=True,
    )
    assert read(GPT_OSS_20B) == expected
    older = {k: v for k, v in GPT_OSS_20B.items() if k not in ("rope_scaling", "layer_types")}
    assert read(older) == expected


def test_granite_without_mamba():
    expected = ModelConfig(
        num_layers=40,
        hidden_size=2560,
        num_heads=40,
        num_kv_heads=8,
        intermediate_size=8192,
        rope_theta=1e7,
        norm_eps=1e-5,
        attention_scale=1 / 64,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=10.0,
    )
    assert read(GRANITE_4_MICRO) == expected
    assert read(GRANITE_4_MICRO, position_embedding_type=None).attention_pattern == ("nope",)


def test_gemma2():
    assert read(GEMMA_2_2B) == ModelConfig(
        num_layers=26,
        hidden_size=2304,
        num_heads=8,
        num_kv_heads=4,
        intermediate_size=9216,
        attention_softcap=50.0,
        logit_softcap=30.0,
        attention_pattern=("sliding", "full"),
        sliding_window=4096,
        **GEMMA,
    )


def test_gemma3():
    expected = ModelConfig(
        num_layers=26,
        hidden_size=1152,
        num_heads=4,
        num_kv_heads=1,
        intermediate_size=6912,
        rope_theta=1e6,
        qk_norm=True,
        attention_pattern=("sliding",) * 5 + ("full",),
        sliding_window=512,
        sliding_rope_theta=1e4,
        **GEMMA,
    )
    assert read(GEMMA_3_1B) == expected
    old = ("rope_local_base_freq", "rope_scaling", "rope_theta", "sliding_window_pattern")
    newer = {k: v for k, v in GEMMA_3_1B.items() if k not in old}
    newer["layer_types"] = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + [
        "sliding_attention"
    ] * 2
    newer["rope_parameters"] = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    }
    assert read(newer) == expected
    longer = read(GEMMA_3_1B, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert longer.rope_scaling == LinearRope(8.0)


def test_gemma4():
    with_keys, without = ("sliding",) * 4, ("shared_sliding",) * 4
    expected = ModelConfig(
        num_layers=35,
        hidden_size=1536,
        num_heads=8,
        num_kv_heads=1,
        head_dim=256,
        global_head_dim=512,
        intermediate_size=6144,
        shared_intermediate_size=12288,
        rope_theta=1e6,
        rope_scaling=ProportionalRope(0.25),
        qk_norm=True,
        value_norm=True,
        attention_scale=1.0,
        logit_softcap=30.0,
        attention_pattern=(*with_keys, "global") * 3 + (*without, "shared_global") * 4,
        sliding_window=512,
        sliding_rope_theta=1e4,
        activation="gelu_tanh",
        sandwich_norms=True,
        scale_embeddings=True,
        per_layer_size=256,
        layer_scale=True,
    )
    assert read(GEMMA_4_E2B) == expected == SHAPES["google/gemma-4-E2B-it"][0]
    newer = {k: v for k, v in GEMMA_4_E2B.items() if "global" not in k}
    newer["per_layer_config"] = {f"{layer:02}": {"head_dim": 512} for layer in range(4, 35, 5)}
    assert read(newer) == expected
    defaults = ("rope_parameters", "vocab_size_per_layer_input", "hidden_size_per_layer_input")
    assert read({k: v for k, v in GEMMA_4_E2B.items() if k not in defaults}) == expected
    # The last layer is full, whatever is listed.
    listed = [*GEMMA_4_E2B["layer_types"][:-1], "sliding_attention"]
    assert read(GEMMA_4_E2B, layer_types=listed) == expected


def test_gemma4_12b():
    config = read(
        GEMMA_4_E2B,
        architectures=["Gemma4UnifiedForCausalLM"],
        attention_k_eq_v=True,
        num_global_key_value_heads=2,
        num_key_value_heads=8,
        num_kv_shared_layers=0,
        use_double_wide_mlp=False,
        use_bidirectional_attention="vision",
        sliding_window=None,
    )
    assert config.values_are_keys and config.per_layer_size == 0
    assert (config.num_kv_heads, config.global_kv_heads, config.sliding_window) == (8, 2, 1024)
    assert config.attention_pattern == ("sliding",) * 4 + ("global",)


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_yarn_of_the_older_and_the_newer_form(key):
    yarn = {key: "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config = read(QWEN3_0_6B, rope_scaling=yarn)
    assert config.rope_theta == 1e6
    assert config.rope_scaling == YarnRope(
        4.0, 32768, attention_factor=pytest.approx(0.1 * 1.3862944 + 1)
    )
    newer = read(QWEN3_0_6B, rope_parameters={**yarn, "rope_theta": 1e6})
    assert newer == config


def test_the_shortest_pattern_is_found():
    types = ["full_attention", "sliding_attention", "sliding_attention"] * 9
    assert read(GEMMA_2_2B, layer_types=types[:26]).attention_pattern == (
        "full",
        "sliding",
        "sliding",
    )


@pytest.mark.parametrize(
    "settings, changes, complaint",
    [
        (LLAMA_3_2_1B, {"hidden_size": None}, "config.json: hidden_size is missing"),
        (LLAMA_3_2_1B, {"hidden_size": "2048"}, "hidden_size must be a whole number, got '2048'"),
        (LLAMA_3_2_1B, {"rms_norm_eps": True}, "rms_norm_eps must be a number, got True"),
        (LLAMA_3_2_1B, {"mlp_bias": True}, "mlp_bias=True is not supported"),
        (LLAMA_3_2_1B, {"hidden_act": "relu"}, "hidden_act 'relu' is not supported, only silu"),
        (
            LLAMA_3_2_1B,
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "config.json, rope_scaling: type 'dynamic' is not supported, only default, linear",
        ),
        (
            LLAMA_3_2_1B,
            {"rope_scaling": {"type": "linear"}},
            "config.json, rope_scaling: factor is missing",
        ),
        (QWEN3_30B_A3B, {"mlp_only_layers": [0]}, "mlp_only_layers=[0] is not supported"),
        (QWEN3_30B_A3B, {"decoder_sparse_step": 2}, "decoder_sparse_step=2 is not supported"),
        (QWEN3_5_35B_A3B, {"norm_topk_prob": False}, "norm_topk_prob=False is not supported"),
        (LFM2_1_2B, {"conv_bias": True}, "conv_bias=True is not supported"),
        (GPT_OSS_20B, {"swiglu_alpha": 1.0}, "swiglu_alpha=1.0 is not supported"),
        (
            GPT_OSS_20B,
            {"quantization_config": {"quant_method": "awq"}},
            "quantization_config={'quant_method': 'awq'} is not supported",
        ),
        (
            GRANITE_4_MICRO,
            {"layer_types": ["mamba"] * 39 + ["attention"]},
            "config.json: Mamba layers are not supported; use a Granite 4 without them, such as",
        ),
        (GRANITE_4_MICRO, {"num_local_experts": 64}, "num_local_experts=64 is not supported"),
        (GEMMA_2_2B, {"layer_types": ["full_attention"]}, "each of the 26 layers one of"),
        (GEMMA_3_1B, {"use_bidirectional_attention": True}, "=True is not supported"),
        (GEMMA_4_E2B, {"use_bidirectional_attention": "all"}, "='all' is not supported"),
        (GEMMA_4_E2B, {"enable_moe_block": True}, "enable_moe_block=True is not supported"),
        (GEMMA_4_E2B, {"vocab_size_per_layer_input": 9}, "with as many rows as vocab_size"),
        (GEMMA_4_E2B, {"num_kv_shared_layers": 32}, "leaves no layer of their kind before those"),
        (
            GEMMA_4_E2B,
            {"per_layer_config": {"4": {"head_dim": 512}}},
            "config.json, per_layer_config: supported are head_dim and num_key_value_heads",
        ),
    ],
)
def test_what_the_decoder_has_no_counterpart_for_is_refused(settings, changes, complaint):
    with pytest.raises(InputError) as error:
        read(settings, **changes)
    assert complaint in str(error.value)
