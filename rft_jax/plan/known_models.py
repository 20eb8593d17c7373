"""Shapes of open models, so that a plan needs no download.

As their `config.json` on Hugging Face has them; any other source is read from its directory.
"""

import dataclasses
import math
from pathlib import Path

from rft_jax.config import (
    NOT_OF_SOURCE,
    Config,
    DeltaNetConfig,
    LayerType,
    Llama3Rope,
    ModelConfig,
    ProportionalRope,
    YarnRope,
)
from rft_jax.models.hugging_face import read_config
from rft_jax.utils.errors import InputError

QWEN3 = ModelConfig(num_kv_heads=8, head_dim=128, qk_norm=True, rope_theta=1e6)
QWEN3_VOCABULARY = 151_936
QWEN3_5 = ModelConfig(
    num_layers=24, num_heads=8, num_kv_heads=2, head_dim=256, rope_theta=1e7, rotary_dim=64,
    qk_norm=True, norm_weight_offset=True, attention_gate=True,
    attention_pattern=("delta_net",) * 3 + ("full",),
    delta_net=DeltaNetConfig(16, 16, 128, 128),
)  # fmt: skip
QWEN3_5_VOCABULARY = 248_320
LLAMA3 = ModelConfig(
    num_kv_heads=8, head_dim=128, rope_theta=5e5, norm_eps=1e-5, tie_embeddings=False,
    rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 8192),
)  # fmt: skip
LLAMA3_VOCABULARY = 128_256
GEMMA4 = ModelConfig(
    num_heads=8, head_dim=256, global_head_dim=512, rope_theta=1e6,
    rope_scaling=ProportionalRope(0.25), sliding_window=512, sliding_rope_theta=1e4,
    attention_scale=1.0, qk_norm=True, value_norm=True, activation="gelu_tanh",
    sandwich_norms=True, scale_embeddings=True, logit_softcap=30.0, layer_scale=True,
    per_layer_size=256,
)  # fmt: skip


def _shape(base: ModelConfig, **sizes) -> ModelConfig:
    return dataclasses.replace(base, **sizes)


def _sharing(sliding: int, own: int, shared: int) -> tuple[LayerType, ...]:
    """Periods of so many sliding layers and a global one, with keys of their own and without."""
    with_keys: tuple[LayerType, ...] = ("sliding",) * sliding + ("global",)
    without: tuple[LayerType, ...] = ("shared_sliding",) * sliding + ("shared_global",)
    return with_keys * own + without * shared


SHAPES: dict[str, tuple[ModelConfig, int]] = {
    "Qwen/Qwen2.5-0.5B-Instruct": (
        ModelConfig(
            num_layers=24, hidden_size=896, num_heads=14, num_kv_heads=2, head_dim=64,
            intermediate_size=4864, rope_theta=1e6, attention_bias=True,
        ),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-0.6B": (
        _shape(QWEN3, num_layers=28, hidden_size=1024, num_heads=16, intermediate_size=3072),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-1.7B": (
        _shape(QWEN3, num_layers=28, hidden_size=2048, num_heads=16, intermediate_size=6144),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-4B": (
        _shape(QWEN3, num_layers=36, hidden_size=2560, num_heads=32, intermediate_size=9728),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-8B": (
        _shape(
            QWEN3, num_layers=36, hidden_size=4096, num_heads=32, intermediate_size=12_288,
            tie_embeddings=False,
        ),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-30B-A3B": (
        _shape(
            QWEN3, num_layers=48, hidden_size=2048, num_heads=32, num_kv_heads=4,
            intermediate_size=768, experts=128, experts_per_token=8, tie_embeddings=False,
        ),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3.5-0.8B": (
        _shape(QWEN3_5, hidden_size=1024, intermediate_size=3584),
        QWEN3_5_VOCABULARY,
    ),
    "Qwen/Qwen3.5-2B": (
        _shape(QWEN3_5, hidden_size=2048, intermediate_size=6144),
        QWEN3_5_VOCABULARY,
    ),
    "Qwen/Qwen3.5-4B": (
        _shape(
            QWEN3_5, num_layers=32, hidden_size=2560, num_heads=16, num_kv_heads=4,
            intermediate_size=9216,
            delta_net=DeltaNetConfig(16, 32, 128, 128),
        ),
        QWEN3_5_VOCABULARY,
    ),
    "openai/gpt-oss-20b": (
        ModelConfig(
            num_layers=24, hidden_size=2880, num_heads=64, num_kv_heads=8, head_dim=64,
            intermediate_size=2880, rope_theta=150_000.0, norm_eps=1e-5, tie_embeddings=False,
            rope_scaling=YarnRope(
                32.0, 4096, attention_factor=1 + 0.1 * math.log(32), truncate=False
            ),
            attention_bias=True, output_bias=True, attention_sinks=True, sliding_window=128,
            attention_pattern=("sliding", "full"), swiglu_limit=7.0, experts=32,
            experts_per_token=4, expert_bias=True,
        ),
        201_088,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": (
        _shape(LLAMA3, num_layers=32, hidden_size=4096, num_heads=32, intermediate_size=14_336),
        LLAMA3_VOCABULARY,
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (
        _shape(LLAMA3, num_layers=80, hidden_size=8192, num_heads=64, intermediate_size=28_672),
        LLAMA3_VOCABULARY,
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        _shape(
            LLAMA3, num_layers=16, hidden_size=2048, num_heads=32, head_dim=64,
            intermediate_size=8192, tie_embeddings=True,
            rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 8192),
        ),
        LLAMA3_VOCABULARY,
    ),
    "google/gemma-3-1b-it": (
        ModelConfig(
            num_layers=26, hidden_size=1152, num_heads=4, num_kv_heads=1, head_dim=256,
            intermediate_size=6912, rope_theta=1e6, qk_norm=True, sliding_window=512,
            sliding_rope_theta=1e4,
            attention_pattern=("sliding",) * 5 + ("full",), activation="gelu_tanh",
            norm_weight_offset=True, sandwich_norms=True, scale_embeddings=True,
        ),
        262_144,
    ),
    "google/gemma-4-E2B-it": (
        _shape(
            GEMMA4, num_layers=35, hidden_size=1536, num_kv_heads=1, intermediate_size=6144,
            shared_intermediate_size=12_288, attention_pattern=_sharing(4, 3, 4),
        ),
        262_144,
    ),
    "google/gemma-4-E4B-it": (
        _shape(
            GEMMA4, num_layers=42, hidden_size=2560, num_kv_heads=2, intermediate_size=10_240,
            attention_pattern=_sharing(5, 4, 3),
        ),
        262_144,
    ),
}  # fmt: skip


def model_shape(config: Config, name: str) -> tuple[ModelConfig, int]:
    """The architecture of a run's model, and the rows of its embedding; nothing is downloaded.

    Raises:
        InputError: Its source is neither a directory nor a model of `SHAPES`.
    """
    model = config.model(name)
    if not model.source:
        return model, config.tokenizer.vocab_size
    source = model.source.removeprefix("hf:")
    if source in SHAPES:
        described, vocabulary = SHAPES[source]
    elif (Path(source) / "config.json").is_file():
        described, vocabulary = read_config(Path(source))
    else:
        raise InputError(
            f"models.{name}.source: {model.source} is no directory here with a config.json, and "
            f"none of the models whose shapes the planner has ({', '.join(SHAPES)}); download its "
            "config.json into a directory and set the source to that"
        )
    free = {setting: getattr(model, setting) for setting in NOT_OF_SOURCE}
    return dataclasses.replace(described, **free), vocabulary
