"""Insurance: what caused a claim, from the adjuster's note, by a model trained here from scratch.

git clone https://github.com/OpenActTexts/LDAVer2
rft train --config experiments/perils.py --workdir runs/perils --config.data.release=LDAVer2

One core, 5 minutes, 10 beside other work. Reinforcement from 1,000 right answers puts the right
peril first in 75 to 76 % of the test notes, 6 to 9 points above these; right answers for all notes
do so in 77 to 79 %, with reinforcement in 79 %, and a logistic regression in 84 %
(2026-11-29, three seeds). Earlier figures (74, 79, 79, 83 %) had some notes on both sides of the
split.
"""

import dataclasses

from rft_jax.config import (
    Config,
    EvalStage,
    ModelConfig,
    OptimizerConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.tasks.insurance.perils import PerilsData, grader


def get_config() -> Config:
    """For a CPU."""
    from_few = RLStage(
        name="rft_few",
        init="sft_few",
        steps=300,
        batch_size=32,
        rollout=RolloutConfig(
            group_size=8,
            max_prompt_tokens=48,
            max_completion_tokens=12,
            output_bytes=96,
            reasoning_effort=2,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=10),
        eval_interval=100,
        eval_samples=2,
        samples_interval=100,
    )
    return Config(
        name="perils",
        data=PerilsData(copies=2),
        grader=grader(),
        tokenizer=TokenizerConfig(vocab_size=2048),
        models=(
            ModelConfig(
                num_layers=2,
                hidden_size=128,
                num_heads=4,
                num_kv_heads=2,
                head_dim=32,
                intermediate_size=256,
            ),
        ),
        stages=(
            _supervised("sft_few", "supervised", steps=150),
            from_few,
            _supervised("sft_all", "answers", steps=400),
            dataclasses.replace(from_few, name="rft_all", init="sft_all", steps=200),
            EvalStage(
                name="test",
                models=("sft_few", "rft_few", "sft_all", "rft_all"),
                data="test",
                baselines=("logistic",),
                samples=4,
            ),
        ),
    )


def _supervised(name: str, data: str, steps: int) -> SFTStage:
    return SFTStage(
        name=name,
        data=data,
        steps=steps,
        batch_size=16,
        max_row_tokens=256,
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=10, schedule="cosine", weight_decay=0.1
        ),
        log_interval=50,
    )
