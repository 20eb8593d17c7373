r"""GSM8K with the settings of two published runs, for an accelerator.

    rft train --config experiments/gsm8k.py:qwen2.5-0.5b-instruct --workdir runs/gsm8k
    rft train --config experiments/gsm8k.py:qwen3-1.7b --workdir runs/gsm8k_qwen3

Questions and answers come from TFDS' `gsm8k`: 7,473 to train on, the 1,319 of the test split to
evaluate, as the published runs do. They evaluate greedily, these sample as in training. Neither was
run on an accelerator here yet; `experiments/README.md` has what they need by `rft plan`.

qwen2.5-0.5b-instruct
    What to expect: 56.7 % of the test split. verl reports it for PPO
    (https://verl.readthedocs.io/en/latest/algo/baseline.html), and 36.4 % for the model itself.
    Taken from verl's log: prompt, answers read strictly after `####`, so that reward begins near 0;
    512 tokens, 1e-6, 435 steps. There is no value network here: in its place are groups of 8, 512
    samples a step instead of 256, and a KL term of 0.001 in the loss, as in verl's examples of
    GRPO.

qwen3-1.7b
    What to expect: a mean reward from 0.804 to 0.820 after 100 steps. That is the range of NeMo-RL,
    in which MaxText's 0.808 falls (https://github.com/AI-Hypercomputer/maxtext/pull/4015). The
    reward is 1 for a right answer in the form that is asked for, 0.5 without the form, 0.1 for the
    form alone. Taken from its authors' first recipe: prompt, reward, 4 prompts of 8 samples, 768
    tokens, two updates a batch, clip 0.2, KL 0.04 (k2), 2e-7, weight decay 0.01. They give the
    model the bare prompt, which goes on with `<reasoning>`; here it is a user's message, without a
    thought before the answer. Warmup is 25 of the 100 steps, theirs 125 of 500.
"""

import dataclasses
from typing import NamedTuple

from rft_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    TfdsConfig,
    TokenizerConfig,
)
from rft_jax.utils.errors import InputError
from rft_jax.utils.types import JsonObject

STEP_BY_STEP = '{{ question }} Let\'s think step by step and output the final answer after "####".'
TAGS = r"""Solve the following math problem.
First, put your detailed step-by-step reasoning process inside <reasoning>...</reasoning> tags.
Then, put your final numerical answer inside <answer>\boxed{}</answer> tags. """ + (
    """Do not put anything else in the answer tags.

Problem: {{ question }}"""
)
REFERENCE = "{{ answer.split('####')[-1].strip() }}"
INPUT = {"input": "{{ sample.output_text }}", "reference": "{{ item.reference }}"}

AFTER_MARKER: JsonObject = {
    "type": "number",
    "name": "right",
    "which": "marked",
    "marker": "####",
    "pass_threshold": 1.0,
    **INPUT,
}
BOXED: JsonObject = {
    "type": "multi",
    "name": "answer_and_form",
    "calculate_output": "0.5 * right + 0.1 * form + 0.4 * right * form",
    "pass_threshold": 0.5,
    "graders": {
        "right": {"type": "number", "name": "right", "marker": "\\boxed{", **INPUT},
        "form": {
            "type": "format",
            "name": "form",
            "markers": ["</reasoning>", "<answer>", "</answer>"],
        },
    },
}


class Job(NamedTuple):
    """A model with the settings of its published run."""

    source: str
    prompt: str
    grader: JsonObject
    stage: RLStage


JOBS = {
    "qwen2.5-0.5b-instruct": Job(
        "hf:Qwen/Qwen2.5-0.5B-Instruct",
        STEP_BY_STEP,
        AFTER_MARKER,
        RLStage(
            steps=435,
            batch_size=64,
            rollout=RolloutConfig(max_prompt_tokens=512, max_completion_tokens=512),
            policy_loss=PolicyLossConfig(
                clip_high=0.2, kl_coefficient=0.001, gradient_accumulation=16
            ),
            optimizer=OptimizerConfig(learning_rate=1e-6),
        ),
    ),
    "qwen3-1.7b": Job(
        "hf:Qwen/Qwen3-1.7B",
        TAGS,
        BOXED,
        RLStage(
            steps=100,
            batch_size=4,
            rollout=RolloutConfig(max_prompt_tokens=256, max_completion_tokens=768),
            policy_loss=PolicyLossConfig(
                clip_high=0.2, kl_coefficient=0.04, kl_estimator="k2", epochs_per_batch=2
            ),
            optimizer=OptimizerConfig(learning_rate=2e-7, warmup_steps=25, weight_decay=0.01),
        ),
    ),
}


def get_config(variant: str = "qwen2.5-0.5b-instruct") -> Config:
    """The experiment of a model.

    Raises:
        InputError: There is no such model.
    """
    if variant not in JOBS:
        raise InputError(f"{variant}: expected one of {', '.join(JOBS)}")
    job = JOBS[variant]
    rollout = dataclasses.replace(
        job.stage.rollout, group_size=8, output_bytes=4096, reasoning_effort=0
    )
    return Config(
        name=f"gsm8k_{variant}",
        data=DataConfig(
            train="tfds:gsm8k:train",
            valid="tfds:gsm8k:test",
            tfds=TfdsConfig(prompt=job.prompt, reference=REFERENCE),
        ),
        grader=job.grader,
        tokenizer=TokenizerConfig(thinking=False),
        models=(ModelConfig(source=job.source),),
        mesh=MeshConfig(fsdp=-1, data=1),
        stages=(dataclasses.replace(job.stage, init="", rollout=rollout, eval_interval=25),),
    )
