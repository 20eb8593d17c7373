"""Shapes of open models, so that a plan needs no download.

As their `config.json` on Hugging Face has them; any other source is read from its directory.
"""

import dataclasses
from pathlib import Path

from rft_jax.config import NOT_OF_SOURCE, Config, Llama3Rope, ModelConfig
from rft_jax.errors import InputError
from rft_jax.models.hugging_face import read_config

QWEN3 = ModelConfig(kv_heads=8, head_dim=128, qk_norm=True, rope_theta=1e6)
QWEN3_VOCABULARY = 151_936
LLAMA3 = ModelConfig(
    kv_heads=8, head_dim=128, rope_theta=5e5, norm_eps=1e-5, tie_embeddings=False,
    rope_scaling=Llama3Rope(8.0, 1.0, 4.0, 8192),
)  # fmt: skip
LLAMA3_VOCABULARY = 128_256


def _shape(base: ModelConfig, **sizes) -> ModelConfig:
    return dataclasses.replace(base, **sizes)


SHAPES: dict[str, tuple[ModelConfig, int]] = {
    "Qwen/Qwen3-0.6B": (
        _shape(QWEN3, layers=28, width=1024, heads=16, mlp_width=3072),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-1.7B": (
        _shape(QWEN3, layers=28, width=2048, heads=16, mlp_width=6144),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-4B": (
        _shape(QWEN3, layers=36, width=2560, heads=32, mlp_width=9728),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-8B": (
        _shape(QWEN3, layers=36, width=4096, heads=32, mlp_width=12_288, tie_embeddings=False),
        QWEN3_VOCABULARY,
    ),
    "Qwen/Qwen3-30B-A3B": (
        _shape(
            QWEN3, layers=48, width=2048, heads=32, kv_heads=4, mlp_width=768, experts=128,
            experts_per_token=8, tie_embeddings=False,
        ),
        QWEN3_VOCABULARY,
    ),
    "meta-llama/Llama-3.1-8B-Instruct": (
        _shape(LLAMA3, layers=32, width=4096, heads=32, mlp_width=14_336),
        LLAMA3_VOCABULARY,
    ),
    "meta-llama/Llama-3.3-70B-Instruct": (
        _shape(LLAMA3, layers=80, width=8192, heads=64, mlp_width=28_672),
        LLAMA3_VOCABULARY,
    ),
    "meta-llama/Llama-3.2-1B-Instruct": (
        _shape(
            LLAMA3, layers=16, width=2048, heads=32, head_dim=64, mlp_width=8192,
            tie_embeddings=True, rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 8192),
        ),
        LLAMA3_VOCABULARY,
    ),
    "google/gemma-3-1b-it": (
        ModelConfig(
            layers=26, width=1152, heads=4, kv_heads=1, head_dim=256, mlp_width=6912,
            rope_theta=1e6, qk_norm=True, sliding_window=512, sliding_rope_theta=1e4,
            attention_pattern=("sliding",) * 5 + ("full",), activation="gelu_tanh",
            norms_around_one=True, post_norms=True, scale_embeddings=True,
        ),
        262_144,
    ),
}  # fmt: skip


def model_shape(config: Config, name: str) -> tuple[ModelConfig, int]:
    """The architecture of a run's model, and the rows of its embedding; nothing is downloaded.

    Raises:
        InputError: its source is neither a directory nor a model of `SHAPES`.
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
