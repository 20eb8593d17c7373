"""A small run to plan."""

import pytest

from rft_jax.config import (
    Config,
    ModelConfig,
    PolicyLossConfig,
    ReinforceStage,
    RolloutConfig,
    TokenizerConfig,
)


@pytest.fixture(scope="session")
def small() -> Config:
    """A decoder of two layers; 8 prompts with 2 samples each."""
    model = ModelConfig(
        layers=2, width=64, heads=4, kv_heads=2, head_dim=16, mlp_width=128, tie_embeddings=False
    )
    stage = ReinforceStage(
        init="",
        batch_size=8,
        rollout=RolloutConfig(
            group_size=2, prompt_tokens=16, completion_tokens=32, reasoning_effort=8
        ),
        policy_loss=PolicyLossConfig(micro_batches=2, logit_chunk=8),
    )
    return Config(tokenizer=TokenizerConfig(vocab_size=256), models=(model,), stages=(stage,))
