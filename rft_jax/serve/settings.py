"""From a job's hyperparameters to a configuration; pure.

    plan = plan_reinforcement(template, {"batch_size": 4, "n_epochs": "auto"}, sizes)
    config = job_config(template, plan.stage, ...)

What is "auto" becomes a number here, which clients see from then on.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from rft_jax.config import (
    Config,
    DataConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    TokenizerConfig,
    TrainingStageConfig,
)
from rft_jax.config.update_parts import split_update
from rft_jax.serve.templates import Template
from rft_jax.utils.types import JsonMapping, JsonObject

AUTO = "auto"
RL_STAGE, SFT_STAGE = "rft", "sft"  # their folders in a job's run
MOST_EPOCHS = 50
_CHECKPOINT_INTERVAL = 20  # steps, at most
_LENGTHS = 64  # the static lengths of prompts and rows are multiples of it


class Sizes(NamedTuple):
    """What a job's files are.

    Attributes:
        rows: Those of the training file.
        longest: Tokens of the longest prompt of both files, or of their longest supervised item.
        packed_rows: Those of supervised items, at `row_tokens`; 0 for reinforcement.
        multiple: What static lengths are multiples of.
        lead: Tokens before the marker that ends a thought.
    """

    rows: int
    longest: int
    packed_rows: int = 0
    multiple: int = _LENGTHS
    lead: int = 0


class Plan(NamedTuple):
    """A stage, and what its hyperparameters became.

    Attributes:
        stage: The stage of the job's configuration.
        hyperparameters: As clients see them; nothing is "auto" any more.
    """

    stage: TrainingStageConfig
    hyperparameters: JsonObject


def plan_reinforcement(template: Template, given: JsonMapping, sizes: Sizes) -> Plan:
    """The reinforcement stage of a job.

    Args:
        given: `hyperparameters` as checked; what is absent or "auto" is chosen.
    """
    base = template.rl
    batch = _or_auto(given, "batch_size", min(base.batch_size, sizes.rows))
    epochs = _or_auto(given, "n_epochs", nearest_epochs(sizes.rows, batch, base.steps))
    steps = math.ceil(epochs * sizes.rows / batch)
    multiplier = _or_auto(given, "learning_rate_multiplier", 1)
    compute = _or_auto(given, "compute_multiplier", 1)
    interval = _or_auto(given, "eval_interval", max(1, steps // 10))
    samples = _or_auto(given, "eval_samples", base.eval_samples)
    group = max(2, round(base.rollout.group_size * compute))
    effort = given.get("reasoning_effort")
    rollout = _rollout(base.rollout, effort, group, sizes)
    if 2 * rollout.slots > batch * group or rollout.slots and batch * group % rollout.slots:
        rollout = dataclasses.replace(rollout, slots=0, cache_tokens=None)
    stage = dataclasses.replace(
        base,
        name=RL_STAGE,
        steps=steps,
        batch_size=batch,
        max_resample_batches=1,
        rollout=rollout,
        policy_loss=_loss(base, batch, group),
        optimizer=_optimizer(base.optimizer, template, multiplier, steps),
        eval_interval=interval,
        eval_samples=samples,
        early_stopping_patience=0,
        checkpoint_interval=min(interval, _CHECKPOINT_INTERVAL),
        async_rollout=False,
    )
    shown = effort if effort in ("low", "medium", "high") else rollout.reasoning_effort
    return Plan(
        stage,
        {
            "batch_size": batch,
            "n_epochs": epochs,
            "learning_rate_multiplier": multiplier,
            "compute_multiplier": compute,
            "eval_interval": interval,
            "eval_samples": samples,
            "reasoning_effort": shown if isinstance(shown, str) else "default",
        },
    )


def plan_supervised(template: Template, given: JsonMapping, sizes: Sizes, valid: str = "") -> Plan:
    """The supervised stage of a job; clients count a batch in examples, the stage in packed rows.

    Args:
        given: `hyperparameters` as checked.
        valid: The validation file, whose loss is measured at each checkpoint; empty: none.
    """
    base = template.sft
    per_row = sizes.rows / sizes.packed_rows
    usual = min(base.batch_size, sizes.packed_rows)
    examples = _or_auto(given, "batch_size", min(256, max(1, round(usual * per_row))))
    batch = max(1, min(round(examples / per_row), sizes.packed_rows))
    epochs = _or_auto(given, "n_epochs", nearest_epochs(sizes.packed_rows, batch, base.steps))
    multiplier = _or_auto(given, "learning_rate_multiplier", 1)
    steps = math.ceil(epochs * sizes.packed_rows / batch)
    stage = dataclasses.replace(
        base,
        name=SFT_STAGE,
        data="supervised",
        steps=steps,
        batch_size=batch,
        max_row_tokens=row_tokens(base.max_row_tokens, sizes),
        optimizer=_optimizer(base.optimizer, template, multiplier, steps),
        gradient_accumulation=_largest_divisor(batch, base.gradient_accumulation),
        checkpoint_interval=_CHECKPOINT_INTERVAL,
        log_interval=1,
        valid=valid,
        eval_interval=_CHECKPOINT_INTERVAL,
    )
    return Plan(
        stage,
        {
            "batch_size": examples,
            "n_epochs": epochs,
            "learning_rate_multiplier": multiplier,
        },
    )


def job_config(
    template: Template,
    plan: Plan,
    *,
    name: str,
    seed: int,
    init: str,
    data: DataConfig,
    grader: JsonObject | None,
    python_timeout_s: float,
    wandb_project: str,
) -> Config:
    """The configuration of a job's run.

    Args:
        init: The checkpoint that it starts from, or a Hugging Face checkpoint.
        data: The job's files.
    """
    of_source = bool(template.model.source) and init == template.model.source
    stage = dataclasses.replace(plan.stage, init="" if of_source else init)
    tokenizer = dataclasses.replace(template.config.tokenizer, path=template.tokenizer)
    return Config(
        name=name,
        seed=seed,
        data=data,
        grader=grader or "",
        host=dataclasses.replace(template.host, python_timeout_s=python_timeout_s),
        tokenizer=tokenizer if template.tokenizer else TokenizerConfig(thinking=tokenizer.thinking),
        models=(template.model,),
        mesh=template.config.mesh,
        tensorboard=False,
        wandb_project=wandb_project,
        compilation_cache=template.config.compilation_cache,
        stages=(stage,),
    )


def row_tokens(usual: int, sizes: Sizes) -> int:
    """The length of packed rows that holds the longest item."""
    return max(usual, -(-sizes.longest // sizes.multiple) * sizes.multiple)


def nearest_epochs(rows: int, batch: int, steps: int) -> int:
    """How often all rows are gone through, so that the steps are nearest a number."""
    epochs = range(1, MOST_EPOCHS + 1)
    return min(epochs, key=lambda n: abs(math.ceil(n * rows / batch) - steps))


def _or_auto(given: JsonMapping, name: str, chosen: Any) -> Any:
    value = given.get(name, AUTO)
    return chosen if value in (AUTO, None) else value


def _rollout(base: RolloutConfig, effort: object, group: int, sizes: Sizes) -> RolloutConfig:
    """How the job samples: prompts of the data's length, and room for the thought it asks for."""
    changes: Mapping[str, Any] = {
        "group_size": group,
        "max_prompt_tokens": max(1, -(-sizes.longest // sizes.multiple)) * sizes.multiple,
        "prompt_buckets": 1,
    }
    rollout = dataclasses.replace(base, **changes)
    if effort not in ("low", "medium", "high"):
        return rollout
    least = sizes.lead + 2  # what ends the thought, and a token of the answer
    answer = max(base.max_completion_tokens - base.thinking_tokens, least)
    rollout = dataclasses.replace(rollout, reasoning_effort=effort)
    if rollout.thinking_tokens + least > base.max_completion_tokens:
        longer = -(-(rollout.thinking_tokens + answer) // sizes.multiple) * sizes.multiple
        room = base.cache_tokens
        if room is not None:  # for as many whole completions as before
            room = -(-room * longer // base.max_completion_tokens)
        rollout = dataclasses.replace(rollout, max_completion_tokens=longer, cache_tokens=room)
    return rollout


def _loss(base: RLStage, batch: int, group: int) -> PolicyLossConfig:
    """In parts of no more prompts than the template's, or samples where it splits groups."""
    loss = base.policy_loss
    split = split_update(loss.gradient_accumulation, base.batch_size)
    parts = _largest_divisor(batch, loss.gradient_accumulation)
    if split.of_group > 1:
        samples = base.rollout.group_size // split.of_group
        parts = batch * group // _largest_divisor(group, samples)
    return dataclasses.replace(loss, gradient_accumulation=parts)


def _optimizer(
    base: OptimizerConfig, template: Template, multiplier: float, steps: int
) -> OptimizerConfig:
    """The template's, with a warm-up that fits into a short job."""
    rate = base.peak_learning_rate(template.model.lora is not None) * multiplier
    warmup = min(base.warmup_steps, steps // 10)
    return dataclasses.replace(base, learning_rate=rate, warmup_steps=warmup)


def _largest_divisor(number: int, most: int) -> int:
    return max(k for k in range(1, min(most, number) + 1) if number % k == 0)
