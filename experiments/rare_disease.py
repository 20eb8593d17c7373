"""Rare disease on real cases: pre-train on simulated patients, then RFT against the rank grader.

    rft train --config experiments/rare_disease.py --workdir runs/rare_disease \
        --config.data.archive=all_phenopackets.zip

`all_phenopackets.zip` is a release of phenopacket-store, from
https://github.com/monarch-initiative/phenopacket-store/releases; a folder of phenopackets will do.
Needs `pip install 'rft_jax[rare-disease]'` for the Human Phenotype Ontology.

The validation cases have genes and publications that no training case has, and their publications
are dropped from the annotations that the simulated patients come from.
"""

from rft_jax.config import (
    Config,
    ModelConfig,
    OptimizerConfig,
    ReinforceStage,
    RolloutConfig,
    SupervisedStage,
    TokenizerConfig,
)
from rft_jax.tasks.rare_disease.data import RareDiseaseData
from rft_jax.tasks.rare_disease.prompts import grader


def get_config() -> Config:
    """A model of 4 M parameters for a CPU of two cores."""
    return Config(
        name="rare_disease",
        data=RareDiseaseData(),
        grader=grader(),
        tokenizer=TokenizerConfig(vocab_size=4096),
        models=(ModelConfig(layers=4, width=256, heads=4, kv_heads=2, head_dim=64, mlp_width=768),),
        stages=(
            SupervisedStage(
                name="pretrain",
                steps=2000,
                batch_size=8,
                row_tokens=384,
                optimizer=OptimizerConfig(
                    learning_rate=2e-3,
                    warmup_steps=100,
                    schedule="cosine",
                    b2=0.95,
                    weight_decay=0.01,
                ),
            ),
            ReinforceStage(
                name="rft",
                init="pretrain",
                steps=100,
                batch_size=8,
                rollout=RolloutConfig(
                    group_size=8,
                    prompt_tokens=256,
                    completion_tokens=144,
                    output_bytes=640,
                    reasoning_effort="medium",
                    temperature=0.6,  # at 1, a model this small writes too much that is garbled
                ),
                # From-scratch models of this size learn at rates far above the default's.
                optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=5),
                eval_interval=20,
                eval_samples=4,
            ),
        ),
    )
