"""RFT of five open models, to be planned before there is a TPU to run them on.

    rft plan --config experiments/plans.py:qwen3-8b --topology v5e:4x4 --search

64 prompts a step with 8 samples each, 512 prompt and 1,024 completion tokens, all weights trained.
The same file trains (`rft train`), with your data and grader in place of the claims and with the
mesh that the planner found. `benchmarks/plan_table.py` plans all five from 8 to 256 chips.
"""

from pathlib import Path

from rft_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
)
from rft_jax.utils.errors import InputError

CLAIMS = Path(__file__).parent / "claims"

MODELS = {
    "qwen3-0.6b": "hf:Qwen/Qwen3-0.6B",
    "qwen3-4b": "hf:Qwen/Qwen3-4B",
    "qwen3-8b": "hf:Qwen/Qwen3-8B",
    "qwen3-30b-a3b": "hf:Qwen/Qwen3-30B-A3B",
    "llama-3-70b": "hf:meta-llama/Llama-3.3-70B-Instruct",
}


def get_config(variant: str = "qwen3-8b") -> Config:
    """The experiment of a model.

    Raises:
        InputError: there is no such model.
    """
    if variant not in MODELS:
        raise InputError(f"{variant}: expected one of {', '.join(MODELS)}")
    stage = RLStage(
        name="rft",
        init="",
        steps=100,
        batch_size=64,
        rollout=RolloutConfig(
            group_size=8,
            max_prompt_tokens=512,
            max_completion_tokens=1024,
            output_bytes=4096,
            reasoning_effort=768,
        ),
        policy_loss=PolicyLossConfig(logit_chunk=16),
        eval_interval=20,
    )
    return Config(
        name=variant,
        data=DataConfig(
            train=str(CLAIMS / "train.jsonl"),
            valid=str(CLAIMS / "valid.jsonl"),
        ),
        grader=str(CLAIMS / "grader.json"),
        models=(ModelConfig(source=MODELS[variant]),),
        mesh=MeshConfig(fsdp=-1, data=1),
        stages=(stage,),
    )
