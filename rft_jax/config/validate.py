"""Every rule about configurations, refused before anything is compiled.

`validate` needs the configuration alone. The others need to know as well what the machine, the
grader or a model's source is, and are asked by `runs.prepare` and `plan`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rft_jax.config import (
    DEMONSTRATION_GAPS,
    RESERVED,
    Config,
    DistillStage,
    EvalStage,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossSettings,
    RLStage,
    RolloutConfig,
    SamplingStage,
    SelfDistillStage,
    SFTStage,
    StageConfig,
    TrainingStageConfig,
)
from rft_jax.config.algorithms import IMPORTANCE_WEIGHTS, POLICY_LOSSES
from rft_jax.config.checks import (
    check_pool,
    check_rollout,
    check_types,
    or_of_group,
    require,
    require_parts,
    require_positive,
)
from rft_jax.config.presets import policy_loss
from rft_jax.config.validate_layers import validate_kinds, validate_sharing
from rft_jax.utils.errors import InputError


def validate(config: Config) -> None:
    """Refuses a configuration that cannot work.

    Raises:
        InputError: Naming the setting and what to change.
    """
    check_types(config, "")
    _check_names("models", config.models)
    _check_names("stages", config.stages)
    require_positive("tokenizer", config.tokenizer, "training_texts")
    require_positive("host", config.host, "requests")
    if config.host.workers is not None:
        require_positive("host", config.host, "workers")
    if not config.host.python_timeout_s > 0:
        raise InputError("host.python_timeout_s: must be above 0 seconds")
    for model in config.models:
        if model.lora is not None:
            _validate_lora(f"models.{model.name}", model, model.lora)
        if not model.source:
            _validate_model(model)
    earlier: dict[str, TrainingStageConfig] = {}
    for stage in config.stages:
        _RULES[type(stage)](f"stages.{stage.name}", stage, config, earlier)


def _validate_training(
    section: str,
    stage: TrainingStageConfig,
    config: Config,
    earlier: dict[str, TrainingStageConfig],
) -> None:
    """The rules that all stages share which change weights."""
    if stage.model not in [model.name for model in config.models]:
        raise InputError(f"{section}.model: there is no model {stage.model!r} in `models`")
    here = stage.init and "/" not in stage.init
    if here and (stage.init not in earlier or earlier[stage.init].model != stage.model):
        raise InputError(
            f"{section}.init: {stage.init!r} is not an earlier stage of the model "
            f"{stage.model!r}; name one, or give WORKDIR/STAGE of another run"
        )
    require_positive(section, stage, "steps", "batch_size", "checkpoint_interval")
    _validate_optimizer(f"{section}.optimizer", stage.optimizer, stage.steps)
    earlier[stage.name] = stage


def _validate_sft(
    section: str, stage: SFTStage, config: Config, earlier: dict[str, TrainingStageConfig]
) -> None:
    _validate_training(section, stage, config, earlier)
    require_positive(
        section, stage, "max_row_tokens", "gradient_accumulation", "logit_chunk", "log_interval"
    )
    require(section, stage, "eval_interval", lambda value: value >= 0, "be 0 (never) or more")
    require_parts(section, stage.update_parts, stage.batch_size)


def _check_names(section: str, things: Sequence[ModelConfig] | Sequence[StageConfig]) -> None:
    names = [thing.name for thing in things]
    if not names or len(set(names)) < len(names):
        raise InputError(f"{section}: at least one is needed and names must differ, got {names}")
    for name in names:
        if not name or "/" in name or "." in name:
            raise InputError(f"{section}: the name {name!r} must be non-empty, without '/' and '.'")
        if section == "stages" and name in RESERVED:
            raise InputError(
                f"{section}: the name {name!r} is taken in a work directory; use another"
            )


def _validate_model(model: ModelConfig) -> None:
    section = f"models.{model.name}"
    require_positive(
        section,
        model,
        "num_layers",
        "hidden_size",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "intermediate_size",
    )
    if model.num_heads % model.num_kv_heads:
        raise InputError(
            f"{section}.num_heads: {model.num_heads} is not a multiple of num_kv_heads"
        )
    for name in ("rope_theta", "norm_eps"):
        if not getattr(model, name) > 0:
            raise InputError(f"{section}.{name}: must be above 0, got {getattr(model, name)}")
    if model.head_dim % 2:
        raise InputError(f"{section}.head_dim: rotary positions need an even number")
    if not model.attention_pattern:
        raise InputError(f"{section}.attention_pattern: name at least one kind of layer")
    if "sliding" in model.attention_pattern and model.sliding_window < 1:
        raise InputError(f"{section}.sliding_window: sliding layers need a window of at least 1")
    if model.rotary_dim is not None and not 0 < model.rotary_dim <= model.head_dim:
        raise InputError(f"{section}.rotary_dim: must lie between 2 and head_dim")
    if (model.rotary_dim or 0) % 2:
        raise InputError(f"{section}.rotary_dim: rotary positions need an even number")
    validate_kinds(section, model)
    validate_sharing(section, model)
    if model.swiglu_limit is not None:
        require(section, model, "swiglu_limit", lambda limit: limit > 0, "be above 0")
    require(section, model, "shared_expert_size", lambda size: size >= 0, "be 0 (none) or more")
    if model.experts and not 1 <= model.experts_per_token <= model.experts:
        raise InputError(
            f"{section}.experts_per_token: {model.experts_per_token} must lie between 1 and the "
            f"{model.experts} experts"
        )


def _validate_lora(section: str, model: ModelConfig, lora: LoraConfig) -> None:
    if not model.source:
        raise InputError(
            f"{section}.lora: adapters change a model that is there already; set {section}.source"
        )
    require_positive(f"{section}.lora", lora, "rank")
    if not lora.alpha > 0:
        raise InputError(f"{section}.lora.alpha: must be above 0, got {lora.alpha}")
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise InputError(f"{section}.lora.targets: name at least one weight, and each only once")


def _validate_optimizer(section: str, optimizer: OptimizerConfig, steps: int) -> None:
    if optimizer.learning_rate is not None:
        require(section, optimizer, "learning_rate", lambda rate: rate > 0, "be above 0")
    for name in ("clip_norm", "eps"):
        require(section, optimizer, name, lambda value: value > 0, "be above 0")
    for name in ("b1", "b2"):
        require(section, optimizer, name, lambda value: 0 <= value < 1, "lie in [0, 1)")
    require(section, optimizer, "weight_decay", lambda decay: decay >= 0, "be 0 or more")
    require_positive(section, optimizer, "max_nonfinite_updates")
    if not 0 <= optimizer.warmup_steps < steps:
        raise InputError(
            f"{section}.warmup_steps: {optimizer.warmup_steps} must be less than the {steps} steps"
            "; lower it, or take more steps"
        )


def _validate_sampling(
    section: str,
    stage: SamplingStage,
    config: Config,
    earlier: dict[str, TrainingStageConfig],
) -> None:
    """The rules that all stages share whose model samples."""
    _validate_training(section, stage, config, earlier)
    rollout, where = stage.rollout, f"{section}.rollout"
    check_rollout(where, rollout)
    lora = config.model(stage.model).lora
    if rollout.int8_weights and lora is not None and lora.base_dtype == "nf4":
        raise InputError(
            f"{where}.int8_weights: models.{stage.model}.lora.base_dtype=nf4 is sampled from as it "
            "is, in four bits; leave int8_weights off"
        )
    if not 0 <= 2 * rollout.slots <= stage.batch_size * rollout.group_size:
        raise InputError(
            f"{where}.slots: {rollout.slots} must be at most half of the "
            f"{stage.batch_size * rollout.group_size} completions of a step; 0 decodes all at once"
        )
    check_pool(section, rollout, parts=1)
    require_positive(section, stage, "eval_samples")
    for name in ("eval_interval", "early_stopping_patience"):
        require(section, stage, name, lambda value: value >= 0, "be 0 (never) or more")
    if stage.early_stopping_patience and not stage.eval_interval:
        raise InputError(
            f"{section}.early_stopping_patience: needs evaluations; set eval_interval as well"
        )


def _validate_rl(
    section: str, stage: RLStage, config: Config, earlier: dict[str, TrainingStageConfig]
) -> None:
    _validate_sampling(section, stage, config, earlier)
    rollout, loss = stage.rollout, policy_loss(stage)
    where = f"{section}.rollout"
    require_positive(section, stage, "max_resample_batches", "samples_interval", "host_chunks")
    if rollout.group_size < 2:
        raise InputError(
            f"{where}.group_size: an advantage compares the samples of a prompt; use at least 2"
        )
    _validate_loss(f"{section}.policy_loss", loss)
    if loss.advantage == "max_at_k" and not 1 <= loss.best_of < rollout.group_size:
        raise InputError(
            f"{section}.policy_loss.best_of: {loss.best_of} must be at least 1 and below "
            f"group_size={rollout.group_size}"
        )
    if loss.score_centering:
        _validate_centering(f"{section}.policy_loss", loss, rollout)
    uncorrected = loss.importance == "none" and loss.old_logprobs == "learner"
    if uncorrected and not loss.score_centering:
        another = "samples come from another policy than is trained; set "
        another += f"{section}.policy_loss.importance=auto"
        if rollout.int8:
            raise InputError(f"{where}: with int8_weights or int8_cache {another}")
        if stage.async_rollout:
            raise InputError(f"{section}.async_rollout: with it {another}")
    require_parts(section, stage.update_parts, stage.batch_size)
    if loss.pack_rows < 0 or (loss.pack_rows and loss.gradient_accumulation > 1):
        raise InputError(
            f"{section}.policy_loss.pack_rows: must be 0 (off), or at least 1 with "
            "gradient_accumulation=1; packed rows are the parts of the update themselves"
        )


def _validate_distillation(
    section: str,
    stage: DistillStage | SelfDistillStage,
    config: Config,
    earlier: dict[str, TrainingStageConfig],
) -> None:
    """The rules that both stages of distillation share."""
    _validate_sampling(section, stage, config, earlier)
    if stage.early_stopping_patience and not config.grader:
        raise InputError(
            f"{section}.early_stopping_patience: needs evaluations; name a grader as well"
        )
    require_positive(section, stage, "gradient_accumulation", "logit_chunk")
    require(section, stage, "jsd_beta", lambda beta: 0 < beta < 1, "lie in (0, 1)")
    require_parts(section, stage.update_parts, stage.batch_size)


def _validate_distill(
    section: str, stage: DistillStage, config: Config, earlier: dict[str, TrainingStageConfig]
) -> None:
    if "/" not in stage.teacher and stage.teacher not in earlier:
        raise InputError(
            f"{section}.teacher: {stage.teacher!r} is not an earlier stage; name one, or give "
            "WORKDIR/STAGE of another run or hf:Owner/Name"
        )
    _validate_distillation(section, stage, config, earlier)


def _validate_self_distill(
    section: str, stage: SelfDistillStage, config: Config, earlier: dict[str, TrainingStageConfig]
) -> None:
    _validate_distillation(section, stage, config, earlier)
    require_positive(section, stage, "max_teacher_prompt_tokens")
    require(section, stage, "teacher_rate", lambda rate: 0 <= rate <= 1, "lie in [0, 1]")
    if missing := [name for name in DEMONSTRATION_GAPS if name not in stage.demonstration]:
        raise InputError(
            f"{section}.demonstration: {' and '.join(missing)} must stand in it, where the "
            "question and its answer go"
        )


def _validate_eval(
    section: str, stage: EvalStage, config: Config, earlier: dict[str, TrainingStageConfig]
) -> None:
    require_positive(section, stage, "samples")
    if stage.temperature is not None and not 0 <= stage.temperature < math.inf:
        raise InputError(f"{section}.temperature: must be 0 (greedy) or more, and finite")
    taken = [*earlier, *stage.models]
    for name in stage.baselines:
        if not name or "/" in name or name in taken:
            raise InputError(
                f"{section}.baselines: {name!r} must differ from stages and models, without '/'"
            )
        taken.append(name)
    for name in stage.models:
        if "/" not in name and name not in earlier:
            raise InputError(
                f"{section}.models: {name!r} is not an earlier stage; name one, or give "
                "WORKDIR/STAGE of another run"
            )
    if not any(before.name in earlier for before in config.sampling_stages):
        raise InputError(
            f"{section}: samples are drawn as in a stage of reinforcement or distillation; put one "
            "before it"
        )


def _validate_loss(section: str, loss: PolicyLossSettings) -> None:
    require_positive(section, loss, "epochs_per_batch", "gradient_accumulation", "logit_chunk")
    for setting in dataclasses.fields(loss):
        if "algorithms" in setting.metadata:
            try:
                setting.metadata["algorithms"].check(getattr(loss, setting.name))
            except InputError as error:
                raise InputError(f"{section}.{setting.name}: {error}") from None
    require(section, loss, "clip_low", lambda low: 0 < low <= 1, "lie in (0, 1]")
    require(section, loss, "clip_high", lambda high: high > 0, "be above 0")
    if loss.dual_clip is not None and (loss.loss != "ppo_clip" or not loss.dual_clip > 1):
        raise InputError(f"{section}.dual_clip: must be above 1, and is for loss=ppo_clip only")
    for name in ("gate_positive", "gate_negative"):
        require(section, loss, name, lambda temperature: temperature > 0, "be above 0")
    require(section, loss, "tis_cap", lambda cap: cap > 0, "be above 0")
    high = loss.icepop_high
    require(
        section, loss, "icepop_low", lambda low: 0 <= low < high,
        f"be 0 or more and below icepop_high={high:g}",
    )  # fmt: skip
    if not loss.kl_coefficient >= 0:
        raise InputError(f"{section}.kl_coefficient: must be 0 (off) or more")
    if loss.kl_coefficient and loss.kl_estimator == "k1":
        raise InputError(
            f"{section}.kl_estimator: the gradient of k1 is zero in expectation; use k1_in_reward, "
            "k2 or k3"
        )
    if loss.unbiased_kl and loss.kl_estimator == "k1_in_reward":
        raise InputError(
            f"{section}.unbiased_kl: is for KL terms in the loss, and k1_in_reward is none; set it "
            "to False, or use k3"
        )


def _validate_centering(section: str, loss: PolicyLossSettings, rollout: RolloutConfig) -> None:
    """Score centering expects the score of the first update, with the weights that sample."""
    reasons = {
        "epochs_per_batch=1": loss.epochs_per_batch == 1,
        "old_logprobs=learner": loss.old_logprobs == "learner",
        "pack_rows=0": loss.pack_rows == 0,
        "a loss that ships": loss.loss in POLICY_LOSSES.shipped,
        "an importance that ships": loss.importance in IMPORTANCE_WEIGHTS.shipped,
        "rollout.int8_cache off": not rollout.int8_cache,
    }
    if missing := [need for need, met in reasons.items() if not met]:
        raise InputError(f"{section}.score_centering: needs {', '.join(missing)}")


def validate_placement(stage: RLStage, needs_host: bool) -> None:
    """Refuses what does not go with where the grader runs.

    Args:
        stage: The stage.
        needs_host: Whether the grader has a node on the host.

    Raises:
        InputError: Naming the setting.
    """
    section = f"stages.{stage.name}"
    if stage.max_resample_batches > 1 and needs_host:
        raise InputError(
            f"{section}.max_resample_batches: {stage.max_resample_batches} batches are sampled and "
            "graded in one program, but this grader needs the host "
            "(`graders.explain` says why); set it to 1 or use a grader that runs on the device"
        )
    if stage.async_rollout and not needs_host:
        raise InputError(
            f"{section}.async_rollout: the grader runs on the device, so that there is nothing to "
            "wait for; leave it off"
        )


def validate_mesh(stage: TrainingStageConfig, parts: int) -> None:
    """Refuses a stage whose batch, micro-batches or slots the mesh's batch axes do not divide.

    With less than a whole prompt of a micro-batch on each device, the compiler would lay prompts
    out over no axis at all, and send every activation to every device.

    Args:
        stage: The stage.
        parts: Into how many parts the mesh splits a batch.

    Raises:
        InputError: Naming the setting and a size that works.
    """
    section, accumulation = f"stages.{stage.name}", stage.update_parts
    validate_split(f"{section}.batch_size", stage.batch_size, parts)
    validate_split(f"{section}.rollout.slots", stage.decode_slots, parts)
    if not isinstance(stage, SFTStage):
        check_pool(section, stage.rollout, parts)
    if not accumulation.fit(own := stage.batch_size // parts):
        raise InputError(
            f"{section}.{accumulation.setting}: {accumulation.count} parts of a batch of "
            f"{stage.batch_size} cannot be split over data x fsdp = {parts} devices; use a divisor "
            f"of {own}{or_of_group(accumulation, own)}"
        )


def validate_split(setting: str, size: int, parts: int) -> None:
    """Refuses what is split as a batch is, and has a size that the mesh's batch axes do not divide.

    Raises:
        InputError: Naming the setting and a size that works.
    """
    if size % parts:
        raise InputError(
            f"{setting}: {size} cannot be split over data x fsdp = {parts} devices; use a multiple "
            f"of {parts} or another mesh"
        )


def validate_partition(
    model: str, sizes: Iterable[tuple[str, int]], rules: Mapping[str, str | None], mesh: Mapping
) -> None:
    """Refuses a mesh whose axes do not divide the weights' that they split.

    Args:
        model: The model's name.
        sizes: The logical axes of the weights, each with its size.
        rules: The mesh axis of each logical axis, or None.
        mesh: The size of each mesh axis.

    Raises:
        InputError: Naming the mesh axis, the model's setting and its size.
    """
    for name, size in sizes:
        axis = rules[name]
        if axis is not None and size % mesh[axis]:
            raise InputError(
                f"mesh.{axis}: {mesh[axis]} devices cannot split {_AXIS_SETTINGS[name]}={size} of "
                f"the model {model!r}; choose a divisor of {size}"
            )


# What sets the size of a logical axis; the others are never split.
_AXIS_SETTINGS = {
    "vocab": "the vocabulary",
    "embed": "hidden_size",
    "embed_blocks": "blocks of hidden_size",
    "num_kv_heads": "num_kv_heads",
    "mlp": "intermediate_size",
    "mlp_blocks": "blocks of intermediate_size",
    "shared_mlp": "shared_expert_size",
    "shared_mlp_blocks": "blocks of shared_expert_size",
    "delta_heads": "delta_net.num_value_heads",
    "per_layer_table": "num_layers x per_layer_size",
}


def validate_adapters(stage: TrainingStageConfig, model: ModelConfig) -> None:
    """Refuses an optimizer that does not go with adapters.

    Args:
        stage: The stage.
        model: The stage's model, as its source describes it.

    Raises:
        InputError: Naming the setting.
    """
    if stage.optimizer.name == "muon" and model.lora is not None:
        raise InputError(
            f"stages.{stage.name}.optimizer.name: muon is for whole weights, but this model trains "
            "adapters; set it to adamw"
        )


_RULES: dict[type[StageConfig], Callable[..., None]] = {
    SFTStage: _validate_sft,
    RLStage: _validate_rl,
    DistillStage: _validate_distill,
    SelfDistillStage: _validate_self_distill,
    EvalStage: _validate_eval,
}
