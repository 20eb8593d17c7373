"""The settings of TRL, verl, Tunix and OpenAI's API by their names there.

setting_for("num_generations")  # "stages.NAME.rollout.group_size"
"""

# `docs/coming_from.md` has them side by side. NAME is that of a stage or of a model.
_ROLLOUT = {
    "group_size": ("num_generations", "n", "compute_multiplier"),
    "max_prompt_tokens": ("max_prompt_length",),
    "max_completion_tokens": (
        *("max_completion_length", "max_response_length", "max_tokens_to_generate"),
        *("max_completions_tokens", "max_new_tokens"),
    ),
    "truncated_completions": ("mask_truncated_completions",),
}
_POLICY_LOSS = {
    "kl_coefficient": ("beta", "kl_loss_coef", "kl_coef"),
    "clip_low": ("epsilon", "clip_ratio", "clip_ratio_low"),
    "clip_high": ("epsilon_high", "clip_ratio_high"),
    "dual_clip": ("delta", "clip_ratio_c"),
    "epochs_per_batch": ("num_iterations", "ppo_epochs"),
    "gradient_accumulation": ("gradient_accumulation_steps", "ppo_micro_batch_size_per_gpu"),
    "loss": ("loss_type", "loss_mode", "policy_loss_fn", "importance_sampling_level"),
    "aggregation": ("loss_agg_mode",),
    "advantage": ("adv_estimator", "advantage_estimator"),
    "scale_rewards": ("norm_adv_by_std_in_grpo",),
    "importance": ("vllm_importance_sampling_correction", "rollout_is", "sampler_is"),
    "old_logprobs": ("bypass_mode",),
    "reward_parts": ("multi_objective_aggregation",),
    "unbiased_kl": ("use_bias_correction_kl",),
}
_OPTIMIZER = {
    "learning_rate": ("learning_rate", "lr", "learning_rate_multiplier"),
    "schedule": ("lr_scheduler_type",),
    "warmup_steps": ("warmup_ratio", "lr_warmup_steps"),
    "clip_norm": ("max_grad_norm", "grad_clip"),
    "b1": ("adam_beta1",),
    "b2": ("adam_beta2",),
    "eps": ("adam_epsilon",),
}
_STAGE = {
    "batch_size": (
        *("per_device_train_batch_size", "train_batch_size", "per_device_batch_size"),
        "ppo_mini_batch_size",
    ),
    "steps": (
        *("n_epochs", "num_train_epochs", "total_epochs", "max_steps"),
        "total_training_steps",
    ),
    "eval_interval": ("eval_steps", "test_freq", "eval_every_n_steps"),
    "eval_samples": ("num_generations_eval", "val_kwargs.n"),
    "checkpoint_interval": ("save_steps", "save_freq"),
    "max_resample_batches": ("filter_groups",),
}
_MODEL = {
    "source": ("model_name_or_path", "model_name", "base_model"),
    "lora": ("peft_config", "use_peft"),
    "lora.rank": ("lora_r", "lora_rank"),
    "lora.alpha": ("lora_alpha",),
    "lora.targets": ("target_modules", "lora_target_modules"),
}
_RUN = {
    "grader": ("reward_funcs", "reward_fn", "reward_function"),
    "data.train": ("training_file", "train_files", "train_dataset"),
    "data.valid": ("validation_file", "val_files", "eval_dataset"),
    "name": ("suffix", "run_name", "experiment_name"),
    "wandb_project": ("project_name",),
}
_PREFIXES = {
    "stages.NAME.rollout.": _ROLLOUT,
    "stages.NAME.policy_loss.": _POLICY_LOSS,
    "stages.NAME.optimizer.": _OPTIMIZER,
    "stages.NAME.": _STAGE,
    "models.NAME.": _MODEL,
    "": _RUN,
}
SETTINGS = {
    theirs: prefix + ours
    for prefix, settings in _PREFIXES.items()
    for ours, names in settings.items()
    for theirs in names
}

# Names whose value does not carry over, and what the setting here counts.
_UNITS = {
    **dict.fromkeys(("n_epochs", "num_train_epochs", "total_epochs", "warmup_ratio"), "in steps"),
    **dict.fromkeys(("per_device_train_batch_size", "per_device_batch_size"), "in prompts"),
    "learning_rate_multiplier": "the rate itself",
}


def remedy(name: str, setting: str) -> str:
    """What an error says of a name elsewhere that stands for a setting here."""
    unit = _UNITS.get(name.rpartition(".")[2].replace("-", "_"), "")
    return f"what other systems call so is {setting} here" + (unit and f", {unit}")


def setting_for(name: str, within: str = "") -> str:
    """Which setting here a name elsewhere stands for; empty if none.

    Args:
        name: As it is elsewhere, such as `epsilon` or `actor_rollout_ref.rollout.n`.
        within: The dotted path at which it was given, whose stage or model takes NAME's place.
    """
    words = name.replace("-", "_").split(".")
    if words[0] == "critic":  # verl's value model, which there is none of here
        return ""
    ends = (".".join(words[at:]) for at in range(len(words)))
    setting = next((SETTINGS[end] for end in ends if end in SETTINGS), "")
    parts = within.split(".")
    if len(parts) > 1 and setting.startswith(f"{parts[0]}.NAME."):
        return setting.replace("NAME", parts[1], 1)
    return setting
