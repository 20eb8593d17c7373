"""The embedded demonstration: a small model, tuned by reinforcement, against a larger one.

Two base models learn a subset of the Human Phenotype Ontology from simulated patients with worked
answers, whose writers differ: most weigh only a few findings, and common ones at that. Both are
then tuned on the right answers to a few hundred cases, the small one also by reinforcement against
the rank grader on the same cases. All are compared on patients whose genes had no case in tuning,
and with a ranking by the evidence itself, the ceiling.
"""

import dataclasses

from rft_jax.config import (
    Config,
    EvalStage,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.tasks.rare_disease.prompts import grader
from rft_jax.tasks.rare_disease.simulated import SimulatedData

SMALL = ModelConfig(
    name="small",
    num_layers=2,
    hidden_size=128,
    num_heads=2,
    num_kv_heads=2,
    head_dim=64,
    intermediate_size=384,
)
LARGER = dataclasses.replace(
    SMALL, name="larger", hidden_size=256, num_heads=4, num_kv_heads=4, intermediate_size=768
)
MODELS = ("small_base", "larger_base", "small_sft", "larger_sft", "small_rft")

ROLLOUT = RolloutConfig(
    group_size=8,
    max_prompt_tokens=48,
    max_completion_tokens=64,
    output_bytes=320,
    reasoning_effort=28,
)


def get_config(seed: int = 0) -> Config:
    """Minutes on two cores of a CPU."""
    return Config(
        name="quickstart",
        seed=seed,
        data=SimulatedData(data_seed=seed),
        grader=grader(),
        tokenizer=TokenizerConfig(vocab_size=1100),
        models=(SMALL, LARGER),
        stages=(
            _pretrain("small", learning_rate=2e-2),
            _pretrain("larger", learning_rate=1e-2),
            _right_answers("small", learning_rate=1e-3),
            _right_answers("larger", learning_rate=3e-4),
            RLStage(
                name="small_rft",
                model="small",
                init="small_base",
                steps=120,
                batch_size=16,
                rollout=ROLLOUT,
                policy_loss=PolicyLossConfig(kl_coefficient=0.1),  # or thoughts turn to gene names
                optimizer=OptimizerConfig(learning_rate=5e-4, warmup_steps=5),
                eval_interval=25,
            ),
            EvalStage(name="genes_unseen", models=MODELS, baselines=("ceiling",)),
            EvalStage(name="genes_seen", models=MODELS, data="seen", baselines=("ceiling",)),
        ),
    )


def _pretrain(model: str, learning_rate: float) -> SFTStage:
    return SFTStage(
        name=f"{model}_base",
        model=model,
        steps=700,
        batch_size=16,
        max_row_tokens=128,
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=learning_rate,
            warmup_steps=30,
            schedule="cosine",
            b2=0.95,
            weight_decay=0.01,
        ),
    )


def _right_answers(model: str, learning_rate: float) -> SFTStage:
    return SFTStage(
        name=f"{model}_sft",
        model=model,
        init=f"{model}_base",
        data="answers",
        steps=60,
        batch_size=16,
        max_row_tokens=128,
        optimizer=OptimizerConfig(learning_rate=learning_rate, warmup_steps=5, schedule="cosine"),
    )
