"""Reinforcement of an open model on one GPU: LoRA over a base in four bits (NF4).

    rft plan --config experiments/one_card.py:qwen3.5-4b --topology rtx4090:1

As `plans.py`, but 8 prompts a step; adapters on all linear layers, of gpt-oss on attention's. The
same file trains (`rft train`), with your data and grader in place of the claims. What cards of 24,
40 and 80 GB hold: docs/planning.md.
"""

import dataclasses
from pathlib import Path

from rft_jax.config import Config, LoraConfig, MeshConfig, ModelConfig, PolicyLossConfig
from rft_jax.config.load import load_config
from rft_jax.utils.errors import InputError

LORA = LoraConfig(base_dtype="nf4")
ATTENTION = LoraConfig(base_dtype="nf4", targets=("q_proj", "k_proj", "v_proj", "o_proj"))

MODELS = {
    "qwen3.5-0.8b": ModelConfig(source="hf:Qwen/Qwen3.5-0.8B", lora=LORA),
    "qwen3.5-2b": ModelConfig(source="hf:Qwen/Qwen3.5-2B", lora=LORA),
    "qwen3.5-4b": ModelConfig(source="hf:Qwen/Qwen3.5-4B", lora=LORA),
    "gemma-4-e2b": ModelConfig(source="hf:google/gemma-4-E2B-it", lora=LORA),
    "gemma-4-e4b": ModelConfig(source="hf:google/gemma-4-E4B-it", lora=LORA),
    "gpt-oss-20b": ModelConfig(source="hf:openai/gpt-oss-20b", lora=ATTENTION),
}


def get_config(variant: str = "qwen3.5-2b") -> Config:
    """The experiment of a model.

    Raises:
        InputError: there is no such model.
    """
    if variant not in MODELS:
        raise InputError(f"{variant}: expected one of {', '.join(MODELS)}")
    plan = load_config(str(Path(__file__).with_name("plans.py")), {})
    (stage,) = plan.rl_stages
    loss = PolicyLossConfig(gradient_accumulation=8, logit_chunk=16)
    return dataclasses.replace(
        plan,
        name=variant,
        models=(MODELS[variant],),
        mesh=MeshConfig(data=1, fsdp=1, tensor=1),
        stages=(dataclasses.replace(stage, batch_size=8, policy_loss=loss),),
    )
