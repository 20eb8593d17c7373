"""A small run to plan."""

import pytest

from rft_jax.config import (
    Config,
    ModelConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    TokenizerConfig,
)


@pytest.fixture(scope="session")
def small() -> Config:
    """A decoder of two layers; 8 prompts with 2 samples each."""
    model = ModelConfig(
        num_layers=2,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=128,
        tie_embeddings=False,
    )
    stage = RLStage(
        init="",
        batch_size=8,
        rollout=RolloutConfig(
            group_size=2, max_prompt_tokens=16, max_completion_tokens=32, reasoning_effort=8
        ),
        policy_loss=PolicyLossConfig(gradient_accumulation=2, logit_chunk=8),
    )
    return Config(tokenizer=TokenizerConfig(vocab_size=256), models=(model,), stages=(stage,))
