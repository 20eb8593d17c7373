"""What a configuration must not say, refused before anything is read or compiled."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any

from rft_jax.config import (
    REASONING_EFFORTS,
    RESERVED,
    Config,
    EvalStage,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    TrainingStage,
)
from rft_jax.config.types import MISMATCH, alternatives, convert, describe
from rft_jax.utils.errors import InputError


def validate(config: Config) -> None:
    """Refuses a configuration that cannot work.

    Raises:
        InputError: naming the setting and what to change.
    """
    _check_types(config, "")
    _check_names("models", config.models)
    _check_names("stages", config.stages)
    _positive("tokenizer", config.tokenizer, "training_texts")
    _positive("host", config.host, "requests")
    if config.host.workers is not None:
        _positive("host", config.host, "workers")
    if not config.host.python_timeout_s > 0:
        raise InputError("host.python_timeout_s: must be above 0 seconds")
    for model in config.models:
        if model.lora is not None:
            _validate_lora(f"models.{model.name}", model)
        if not model.source:
            _validate_model(model)
    earlier: dict[str, TrainingStage] = {}
    for stage in config.stages:
        place = f"stages.{stage.name}"
        if isinstance(stage, EvalStage):
            _validate_evaluate(place, stage, earlier)
            continue
        if stage.model not in [model.name for model in config.models]:
            raise InputError(f"{place}.model: there is no model {stage.model!r} in `models`")
        here = stage.init and "/" not in stage.init
        if here and (stage.init not in earlier or earlier[stage.init].model != stage.model):
            raise InputError(
                f"{place}.init: {stage.init!r} is not an earlier stage of the model "
                f"{stage.model!r}; name one, or give WORKDIR/STAGE of another run"
            )
        _positive(place, stage, "steps", "batch_size", "checkpoint_interval")
        _validate_optimizer(f"{place}.optimizer", stage.optimizer, stage.steps)
        if isinstance(stage, RLStage):
            _validate_reinforce(place, stage)
        else:
            _positive(
                place,
                stage,
                "max_row_tokens",
                "gradient_accumulation",
                "logit_chunk",
                "log_interval",
            )
            _divides(place, stage.gradient_accumulation, stage.batch_size)
        earlier[stage.name] = stage


def _check_types(node: Any, place: str) -> None:
    """Every setting has its type, and numbers are finite."""
    kinds = typing.get_type_hints(type(node))
    for setting in dataclasses.fields(node):
        value, kind = getattr(node, setting.name), kinds[setting.name]
        where = f"{place}.{setting.name}".strip(".")
        infinite = isinstance(value, float) and not math.isfinite(value)
        if infinite or all(convert(value, option) is MISMATCH for option in alternatives(kind)):
            raise InputError(f"{where}: {value!r} is not {describe(kind)}")
        if dataclasses.is_dataclass(value):
            _check_types(value, where)
        elif isinstance(value, tuple):
            for member in filter(dataclasses.is_dataclass, value):
                _check_types(member, f"{where}.{member.name}")


def _check_names(place: str, things: tuple) -> None:
    names = [thing.name for thing in things]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{place}: at least one is needed and names must differ, got {names}")
    for name in names:
        if not name or "/" in name or "." in name:
            raise InputError(f"{place}: the name {name!r} must be non-empty, without '/' and '.'")
        if place == "stages" and name in RESERVED:
            raise InputError(
                f"{place}: the name {name!r} is taken in a work directory; use another"
            )


def _positive(place: str, settings: Any, *names: str) -> None:
    for name in names:
        if getattr(settings, name) < 1:
            raise InputError(f"{place}.{name}: must be at least 1, got {getattr(settings, name)}")


def _divides(place: str, parts: int, batch_size: int) -> None:
    if batch_size % parts:
        raise InputError(
            f"{place}.gradient_accumulation: {parts} does not divide the batch of {batch_size}; "
            "choose a divisor"
        )


def _validate_model(model: ModelConfig) -> None:
    place = f"models.{model.name}"
    _positive(
        place,
        model,
        "num_layers",
        "hidden_size",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "intermediate_size",
    )
    if model.num_heads % model.num_kv_heads:
        raise InputError(f"{place}.num_heads: {model.num_heads} is not a multiple of num_kv_heads")
    for name in ("rope_theta", "norm_eps"):
        if not getattr(model, name) > 0:
            raise InputError(f"{place}.{name}: must be above 0, got {getattr(model, name)}")
    if model.head_dim % 2:
        raise InputError(f"{place}.head_dim: rotary positions need an even number")
    if not model.attention_pattern:
        raise InputError(f"{place}.attention_pattern: name at least one kind of layer")
    if "sliding" in model.attention_pattern and model.sliding_window < 1:
        raise InputError(f"{place}.sliding_window: sliding layers need a window of at least 1")
    if model.experts and not 1 <= model.experts_per_token <= model.experts:
        raise InputError(
            f"{place}.experts_per_token: {model.experts_per_token} must lie between 1 and the "
            f"{model.experts} experts"
        )


def _validate_lora(place: str, model: ModelConfig) -> None:
    lora = model.lora
    if not model.source:
        raise InputError(
            f"{place}.lora: adapters change a model that is there already; set {place}.source"
        )
    _positive(f"{place}.lora", lora, "rank")
    if not lora.alpha > 0:
        raise InputError(f"{place}.lora.alpha: must be above 0, got {lora.alpha}")
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise InputError(f"{place}.lora.targets: name at least one weight, and each only once")


def _validate_optimizer(place: str, optimizer: OptimizerConfig, steps: int) -> None:
    rate = optimizer.learning_rate
    if (rate is not None and not rate > 0) or not optimizer.clip_norm > 0:
        raise InputError(f"{place}: learning_rate and clip_norm must be above 0")
    if not (0 <= optimizer.b1 < 1 and 0 <= optimizer.b2 < 1 and optimizer.eps > 0):
        raise InputError(f"{place}: b1 and b2 must lie in [0, 1) and eps be above 0")
    if not optimizer.weight_decay >= 0:
        raise InputError(f"{place}.weight_decay: must be 0 or more")
    _positive(place, optimizer, "max_nonfinite_updates")
    if not 0 <= optimizer.warmup_steps < steps:
        raise InputError(
            f"{place}.warmup_steps: {optimizer.warmup_steps} must be less than the {steps} steps"
        )


def _validate_reinforce(place: str, stage: RLStage) -> None:
    rollout, loss = stage.rollout, stage.policy_loss
    where = f"{place}.rollout"
    _positive(place, stage, "max_resample_batches")
    sizes = "max_prompt_tokens", "prompt_buckets", "max_completion_tokens", "output_bytes"
    _positive(where, rollout, "group_size", *sizes)
    if not rollout.temperature > 0:
        raise InputError(f"{where}.temperature: training needs a temperature above 0")
    if not 0 < rollout.top_p <= 1 or rollout.top_k < 0:
        raise InputError(f"{where}: top_p must lie in (0, 1] and top_k must be 0 (off) or more")
    effort = rollout.reasoning_effort
    if isinstance(effort, str) and effort not in REASONING_EFFORTS:
        raise InputError(
            f"{where}.reasoning_effort: {effort!r} is none of {', '.join(REASONING_EFFORTS)} "
            "nor a number of tokens"
        )
    if not 0 <= rollout.thinking_tokens <= rollout.max_completion_tokens - 2:
        raise InputError(
            f"{where}.reasoning_effort: {rollout.thinking_tokens} thinking tokens leave no room "
            f"for an answer in max_completion_tokens={rollout.max_completion_tokens}; raise the latter"
        )
    if rollout.group_size < 2:
        raise InputError(
            f"{where}.group_size: the baseline {loss.baseline!r} compares the samples of a prompt; "
            "use at least 2"
        )
    if not 0 <= 2 * rollout.slots <= stage.batch_size * rollout.group_size:
        raise InputError(
            f"{where}.slots: {rollout.slots} must be at most half of the "
            f"{stage.batch_size * rollout.group_size} completions of a step; 0 decodes all at once"
        )
    if rollout.output_bytes < 4:
        raise InputError(f"{where}.output_bytes: must be at least 4, the longest character")
    _validate_loss(f"{place}.policy_loss", loss)
    if loss.importance == "none":
        another = "samples come from another policy than is trained; set "
        another += f"{place}.policy_loss.importance=tis"
        if rollout.int8_weights or rollout.int8_cache:
            raise InputError(f"{where}: with int8_weights or int8_cache {another}")
        if stage.async_rollout:
            raise InputError(f"{place}.async_rollout: with it {another}")
    _positive(place, stage, "eval_samples", "samples_interval", "host_chunks")
    if stage.eval_interval < 0 or stage.early_stopping_patience < 0:
        raise InputError(
            f"{place}: eval_interval and early_stopping_patience must be 0 (never) or more"
        )
    if stage.early_stopping_patience and not stage.eval_interval:
        raise InputError(
            f"{place}.early_stopping_patience: needs evaluations; set eval_interval as well"
        )
    _divides(f"{place}.policy_loss", loss.gradient_accumulation, stage.batch_size)
    if loss.pack_rows < 0 or (loss.pack_rows and loss.gradient_accumulation > 1):
        raise InputError(
            f"{place}.policy_loss.pack_rows: must be 0 (off), or at least 1 with gradient_accumulation=1; "
            "packed rows are the parts of the update themselves"
        )


def _validate_evaluate(place: str, stage: EvalStage, earlier: Mapping[str, TrainingStage]) -> None:
    _positive(place, stage, "samples")
    taken = [*earlier, *stage.models]
    for name in stage.baselines:
        if not name or "/" in name or name in taken:
            raise InputError(
                f"{place}.baselines: {name!r} must differ from stages and models, without '/'"
            )
        taken.append(name)
    for name in stage.models:
        if "/" not in name and name not in earlier:
            raise InputError(
                f"{place}.models: {name!r} is not an earlier stage; name one, or give "
                "WORKDIR/STAGE of another run"
            )
    if not any(isinstance(before, RLStage) for before in earlier.values()):
        raise InputError(
            f"{place}: samples are drawn as in a reinforcement stage; put one before it"
        )


def _validate_loss(place: str, loss: PolicyLossConfig) -> None:
    _positive(place, loss, "epochs_per_batch", "gradient_accumulation", "logit_chunk")
    if not 0 < loss.clip_low <= 1 or not loss.clip_high > 0:
        raise InputError(f"{place}: clip_low must lie in (0, 1] and clip_high be above 0")
    if loss.dual_clip is not None and (loss.loss != "ppo_clip" or not loss.dual_clip > 1):
        raise InputError(f"{place}.dual_clip: must be above 1, and is for loss=ppo_clip only")
    if not loss.tis_cap > 0 or not 0 <= loss.icepop_low < loss.icepop_high:
        raise InputError(f"{place}: tis_cap must be above 0 and icepop_low below icepop_high")
    if not loss.kl_coefficient >= 0:
        raise InputError(f"{place}.kl_coefficient: must be 0 (off) or more")
    if loss.kl_coefficient and loss.kl_estimator == "k1":
        raise InputError(
            f"{place}.kl_estimator: the gradient of k1 is zero in expectation; use k2 or k3"
        )
