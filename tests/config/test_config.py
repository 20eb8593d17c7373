"""Settings: overrides from the command line, JSON, comparison and what is refused."""

import dataclasses
import json
import re

import pytest

from rft_jax.config import (
    Config,
    DataConfig,
    EvalStage,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.config.overrides import apply_overrides, differences, from_json, read_config, to_json
from rft_jax.config.validate import validate
from rft_jax.utils.errors import InputError

CONFIG = Config(
    data=DataConfig(train="a.jsonl"),
    grader={"type": "multi", "list": [1, [2.5, None]], "graders": {"a": {"name": "x"}}},
    models=(ModelConfig(), ModelConfig(name="large", num_layers=2)),
    mesh=MeshConfig(2, 1, -1),
    stages=(
        SFTStage(),
        RLStage(policy_loss=PolicyLossConfig(dual_clip=3.0)),
        SFTStage(name="other", model="large", init="elsewhere/run/pretrain"),
    ),
)


def setting(config, path):
    for name in path.split("."):
        if isinstance(config, tuple):
            config = next(member for member in config if member.name == name)
        else:
            config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("seed", "7", 7),
        ("name", "12", "12"),
        ("name", "true", "true"),
        ("data.train", "dir/x=1.jsonl", "dir/x=1.jsonl"),
        ("grader", "grader.json", "grader.json"),
        ("grader", "{'type': 'rank'}", {"type": "rank"}),
        ("mesh.data", "-1", -1),
        ("models.large.tie_embeddings", "false", False),
        ("models.policy.rope_theta", "1e6", 1e6),
        ("models.policy.rope_theta", "500000", 500000.0),
        ("models.large.compute_dtype", "bfloat16", "bfloat16"),
        ("stages.rft.steps", "200", 200),
        ("stages.rft.rollout.reasoning_effort", "high", "high"),
        ("stages.rft.rollout.reasoning_effort", "64", 64),
        ("stages.rft.policy_loss.dual_clip", "none", None),
        ("stages.rft.policy_loss.dual_clip", "4", 4.0),
        ("stages.rft.policy_loss.importance", "none", "none"),
        ("stages.rft.policy_loss.scale_rewards", "none", "none"),
        ("stages.rft.policy_loss.clip_high", "none", None),
        ("stages.rft.policy_loss.algorithm", "gspo", "gspo"),
        ("stages.rft.policy_loss.loss", "mine:clip", "mine:clip"),
        ("stages.other.optimizer.learning_rate", "3e-4", 3e-4),
    ],
)
def test_an_override_replaces_one_setting(path, text, value):
    changed = apply_overrides(CONFIG, {path: text})
    assert setting(changed, path) == value
    assert type(setting(changed, path)) is type(value)
    lines = differences(to_json(CONFIG), to_json(changed))
    assert len(lines) <= 1 or path == "grader"
    assert all(line.startswith(path) for line in lines)


def test_settings_that_are_off_are_set_one_by_one():
    changed = apply_overrides(CONFIG, {"models.policy.lora.rank": "8"})
    assert setting(changed, "models.policy.lora") == LoraConfig(rank=8)
    off = apply_overrides(changed, {"models.policy.lora": "none"})
    assert off == CONFIG


def test_overrides_add_up():
    changed = apply_overrides(
        CONFIG, {"seed": "1", "stages.rft.steps": "9", "models.policy.num_layers": "1"}
    )
    assert (changed.seed, setting(changed, "stages.rft.steps")) == (1, 9)
    assert setting(changed, "models.policy.num_layers") == 1
    assert CONFIG.seed == 0


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        ("sed", "1", "sed: there is no setting 'sed'; did you mean seed? known here: name, seed"),
        ("stages.rft.group_size", "4", "did you mean rollout.group_size?"),
        ("seed.x", "1", "seed.x: there is no setting 'x'"),
        ("seed", "many", "seed: 'many' is not a value of type int"),
        ("seed", "1.5", "seed: '1.5' is not a value of type int"),
        ("seed", "true", "seed: 'true' is not a value of type int"),
        ("models.policy.tie_embeddings", "1", "'1' is not a value of type bool"),
        ("models.policy.rope_theta", "big", "'big' is not a value of type float"),
        ("models.policy.compute_dtype", "int8", "'int8' is not one of auto, float32, bfloat16"),
        ("stages.rft.policy_loss.dual_clip", "x", "'x' is not a value of type float | None"),
        ("stages.sft.steps", "1", "expected one of pretrain, rft, other and a setting of it"),
        ("stages.rft", "1", "expected one of pretrain, rft, other and a setting of it"),
        ("stages", "1", "stages: '1' is not a value of type"),
        ("data", "x.jsonl", "data: 'x.jsonl' is not a value of type DataConfig"),
    ],
)
def test_an_override_that_fits_no_setting_is_refused(path, text, sentence):
    with pytest.raises(InputError) as error:
        apply_overrides(CONFIG, {path: text})
    assert sentence in str(error.value)
    assert str(error.value).startswith(path)


@pytest.mark.parametrize(
    "path", ["data.materialize", "model", "stages.rft.rollout.thinking_tokens"]
)
def test_methods_and_properties_are_no_settings(path):
    with pytest.raises(InputError, match="there is no setting"):
        apply_overrides(CONFIG, {path: "5"})


def test_a_configuration_survives_json():
    text = json.dumps(to_json(CONFIG))
    assert from_json(json.loads(text)) == CONFIG
    assert to_json(from_json(json.loads(text))) == json.loads(text)


def test_differences_name_settings_and_both_values():
    changed = apply_overrides(CONFIG, {"stages.rft.rollout.top_k": "5", "seed": "3"})
    assert differences(to_json(CONFIG), to_json(changed)) == [
        "seed: 0 -> 3",
        "stages.rft.rollout.top_k: 0 -> 5",
    ]
    assert differences(to_json(CONFIG), to_json(CONFIG)) == []
    fewer = dataclasses.replace(CONFIG, stages=CONFIG.stages[:1])
    (line,) = differences(to_json(CONFIG), to_json(fewer))
    assert line.startswith("stages: ")


def test_the_thinking_budget_is_a_name_or_a_number():
    efforts = {"low": 32, "medium": 96, "high": 192, 0: 0, 17: 17}
    for effort, tokens in efforts.items():
        assert RolloutConfig(reasoning_effort=effort).thinking_tokens == tokens
    assert RolloutConfig(reasoning_effort="low", effort_low=5).thinking_tokens == 5


def test_the_defaults_are_valid():
    validate(Config())
    validate(CONFIG)
    validate(Config(stages=(RLStage(init=""),)))


def supervised(**changes):
    return Config(stages=(SFTStage(**changes),))


def reinforce(**changes):
    return Config(stages=(SFTStage(), RLStage(**changes)))


def compared(**changes):
    stages = SFTStage(), RLStage(), EvalStage(name="compare", **changes)
    return Config(stages=stages)


def sampled(**changes):
    return reinforce(rollout=RolloutConfig(**changes))


def learned(**changes):
    return reinforce(policy_loss=PolicyLossConfig(**changes))


def modelled(**changes):
    return Config(models=(ModelConfig(**changes),))


REFUSED = {
    "models: at least one is needed": Config(models=()),
    "models: at least one is needed and names must differ, got ['policy', 'policy']": Config(
        models=(ModelConfig(), ModelConfig())
    ),
    "stages: at least one is needed": Config(stages=()),
    "stages: must be a tuple; with one member a comma stands behind it": Config(
        stages=(RLStage(init=""))  # pyright: ignore[reportArgumentType]  # without its comma
    ),
    "stages: at least one is needed and names must differ": Config(stages=(SFTStage(), SFTStage())),
    "stages: the name 'a.b' must be non-empty, without '/' and '.'": supervised(name="a.b"),
    "stages: the name 'a/b' must be": supervised(name="a/b"),
    "stages: the name '' must be": supervised(name=""),
    "models.policy.num_layers: must be at least 1, got 0": modelled(num_layers=0),
    "models.policy.num_heads: 3 is not a multiple of num_kv_heads": modelled(num_heads=3),
    "models.policy.head_dim: rotary positions need an even number": modelled(head_dim=7),
    "stages.pretrain.model: there is no model 'huge' in `models`": supervised(model="huge"),
    "stages.compare.temperature: must be 0 (greedy) or more": compared(temperature=-1.0),
    "stages.compare.baselines: 'rft' must differ from stages": compared(baselines=("rft",)),
    "stages.compare.baselines: 'a/b' must differ": compared(baselines=("a/b",)),
    "stages.compare.baselines: 'b' must differ": compared(baselines=("b", "b")),
    "stages.pretrain.init: 'rft' is not an earlier stage of the model 'policy'; name one": Config(
        stages=(SFTStage(init="rft"), RLStage())
    ),
    "stages.pretrain.init: 'pretrain' is not an earlier stage": supervised(init="pretrain"),
    "stages.rft.init: 'pretrain' is not an earlier stage of the model 'large'": dataclasses.replace(
        CONFIG, stages=(SFTStage(), RLStage(model="large"))
    ),
    "stages.pretrain.steps: must be at least 1, got 0": supervised(steps=0),
    "stages.pretrain.batch_size: must be at least 1": supervised(batch_size=0),
    "stages.pretrain.max_row_tokens: must be at least 1": supervised(max_row_tokens=0),
    "stages.pretrain.logit_chunk: must be at least 1": supervised(logit_chunk=0),
    "stages.pretrain.checkpoint_interval: must be at least 1": supervised(checkpoint_interval=0),
    "stages.pretrain.gradient_accumulation: 3 does not divide the batch of 16; choose": supervised(
        gradient_accumulation=3
    ),
    "stages.pretrain.gradient_accumulation: must be at least 1": supervised(
        gradient_accumulation=0
    ),
    "stages.pretrain.optimizer.warmup_steps: 100 must be less than the 100 steps": supervised(
        steps=100
    ),
    "stages.rft.optimizer.warmup_steps: -1 must be": reinforce(
        optimizer=OptimizerConfig(warmup_steps=-1)
    ),
    "stages.rft.optimizer.learning_rate: must be above 0, got 0.0": reinforce(
        optimizer=OptimizerConfig(learning_rate=0.0)
    ),
    "stages.rft.rollout.max_completion_tokens: must be at least 1": sampled(
        max_completion_tokens=0
    ),
    "stages.rft.rollout.temperature: training needs a temperature above 0": sampled(
        temperature=0.0
    ),
    "stages.rft.rollout.top_p: must lie in (0, 1], got 0.0": sampled(top_p=0.0),
    "stages.rft.rollout.top_k: must be 0 (off) or more, got -1": sampled(top_k=-1),
    "stages.rft.rollout.reasoning_effort: 'extreme' is none of low, medium, high nor a": sampled(
        reasoning_effort="extreme"
    ),
    "stages.rft.rollout.reasoning_effort: 63 thinking tokens leave no room": sampled(
        reasoning_effort=63, max_completion_tokens=64
    ),
    "stages.rft.rollout.reasoning_effort: 96 thinking tokens leave no room": sampled(
        max_completion_tokens=64
    ),
    "stages.rft.rollout.reasoning_effort: -1 thinking": sampled(reasoning_effort=-1),
    "stages.rft.policy_loss.gradient_accumulation: 3 does not divide the batch of 8": learned(
        gradient_accumulation=3
    ),
    "stages.rft.policy_loss.epochs_per_batch: must be at least 1": learned(epochs_per_batch=0),
    "stages.rft.eval_samples: must be at least 1": reinforce(eval_samples=0),
    "stages.rft.samples_interval: must be at least 1": reinforce(samples_interval=0),
    "stages.rft.host_chunks: must be at least 1": reinforce(host_chunks=0),
    "stages.rft.async_rollout: with it samples come from another policy": reinforce(
        async_rollout=True, policy_loss=PolicyLossConfig(importance="none")
    ),
    "stages.rft.eval_interval: must be 0 (never) or more, got -1": reinforce(eval_interval=-1),
    "stages.rft.max_resample_batches: must be at least 1": reinforce(max_resample_batches=0),
    "stages.rft.early_stopping_patience: must be 0 (never)": reinforce(early_stopping_patience=-1),
    "stages.rft.early_stopping_patience: needs evaluations": reinforce(
        early_stopping_patience=2, eval_interval=0
    ),
    "stages.rft.rollout.output_bytes: must be at least 4": sampled(output_bytes=3),
    "stages.rft.rollout.slots: 33 must be at most half of the 64 completions": sampled(slots=33),
    "stages.rft.rollout.slots: -1 must be": sampled(slots=-1),
    "stages.rft.rollout.cache_tokens: is the room that slots share": sampled(cache_tokens=256),
    "stages.rft.rollout.cache_tokens: 255 leave a completion of max_completion": sampled(
        slots=8, cache_tokens=255
    ),
    "stages.pretrain.log_interval: must be at least 1": supervised(log_interval=0),
    "stages: the name 'data' is taken": supervised(name="data"),
    "tokenizer.training_texts: must be": Config(tokenizer=TokenizerConfig(training_texts=0)),
    "models.policy.rope_theta: must be above 0": modelled(rope_theta=0.0),
    "models.policy.norm_eps: must be above 0": modelled(norm_eps=-1e-6),
    "models.policy.experts_per_token: 9 must lie between 1 and the 8": modelled(
        experts=8, experts_per_token=9
    ),
    "models.policy.sliding_window: sliding layers": modelled(attention_pattern=("sliding",)),
    "models.policy.attention_pattern: shared layers come last": modelled(
        attention_pattern=("global", "shared_global")
    ),
    "models.policy.global_head_dim: rotary positions need": modelled(global_head_dim=7),
    "stages.rft.policy_loss.clip_low: must lie in (0, 1], got -0.2": learned(clip_low=-0.2),
    "stages.rft.policy_loss.clip_high: must be above 0": learned(clip_high=0.0),
    "stages.rft.policy_loss.dual_clip: must be above 1": learned(dual_clip=1.0),
    "stages.rft.policy_loss.dual_clip: must be above 1, and is for loss=ppo_clip": learned(
        dual_clip=3.0, loss="gspo"
    ),
    "stages.rft.rollout: with int8_weights or int8_cache samples come from another": reinforce(
        rollout=RolloutConfig(int8_cache=True), policy_loss=PolicyLossConfig(importance="none")
    ),
    "stages.rft.policy_loss.best_of: 8 must be at least 1 and below group_size=8": learned(
        advantage="max_at_k", best_of=8
    ),
    "stages.rft.policy_loss.gate_negative: must be above 0": learned(gate_negative=0.0),
    "stages.rft.policy_loss.algorithm: 'ppo' is not one of grpo, dr_grpo, dapo": learned(
        algorithm="ppo"
    ),
    "models.policy.lora: adapters change a model that is there already": Config(
        models=(ModelConfig(lora=LoraConfig()),)
    ),
    "models.policy.lora.rank: must be at least 1": Config(
        models=(ModelConfig(source="x", lora=LoraConfig(rank=0)),)
    ),
    "models.policy.lora.targets: name at least one weight": Config(
        models=(ModelConfig(source="x", lora=LoraConfig(targets=())),)
    ),
    "stages.rft.policy_loss.tis_cap: must be above 0": learned(tis_cap=0.0),
    "stages.rft.policy_loss.icepop_low: must be 0 or more and below icepop_high=1, got 2": learned(
        icepop_low=2.0, icepop_high=1.0
    ),
    "stages.rft.policy_loss.kl_coefficient: must be 0": learned(kl_coefficient=-0.1),
    "stages.rft.policy_loss.kl_estimator: the gradient of k1": learned(
        kl_coefficient=0.1, kl_estimator="k1"
    ),
    "stages.rft.policy_loss.unbiased_kl: is for KL terms in the loss": learned(
        kl_coefficient=0.1, kl_estimator="k1_in_reward", unbiased_kl=True
    ),
    "stages.rft.optimizer.b1: must lie in [0, 1), got 1.0": reinforce(
        optimizer=OptimizerConfig(b1=1.0)
    ),
    "stages.rft.optimizer.eps: must be above 0": reinforce(optimizer=OptimizerConfig(eps=0.0)),
    "stages.rft.optimizer.weight_decay: must be": reinforce(
        optimizer=OptimizerConfig(weight_decay=-0.1)
    ),
    "stages.rft.optimizer.max_nonfinite_updates: must be at least 1": reinforce(
        optimizer=OptimizerConfig(max_nonfinite_updates=0)
    ),
    "stages.rft.policy_loss.pack_rows: must be 0 (off)": learned(
        pack_rows=2, gradient_accumulation=2
    ),
    "stages.rft.policy_loss.loss: 'grpo' is no policy loss; use one of ppo_clip, gspo,": learned(
        loss="grpo"
    ),
    "stages.rft.policy_loss.advantage: 'group' is no advantage; use one of": learned(
        advantage="group"
    ),
    "stages.rft.policy_loss.kl_estimator: nowhere: cannot be imported": learned(
        kl_estimator="nowhere:k9"
    ),
    "stages.rft.policy_loss.importance: rft_jax.learn.losses: has no tis; correct": learned(
        importance="rft_jax.learn.losses:tis"
    ),
    "stages.rft.policy_loss.importance: rft_jax.learn.losses:k3: takes (new, reference": learned(
        importance="rft_jax.learn.losses:k3"
    ),
    "stages.rft.policy_loss.loss: 3 is not a name, module:name of a function, or a": learned(
        loss=3
    ),
    "stages.rft.policy_loss.scale_rewards: 'max' is not one of group, batch, mean": learned(
        scale_rewards="max"
    ),
    "stages.rft.rollout.truncated_completions: 'drop' is not one of": sampled(
        truncated_completions="drop"
    ),
    "stages.rft.rollout.temperature: inf is not": sampled(temperature=float("inf")),
    "stages.rft.steps: 10.0 is not a value of type int": reinforce(steps=10.0),
    "seed: '0' is not a value of type int": Config(seed="0"),
    "models.policy.remat: True is not one of full, dots, none": modelled(remat=True),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_cannot_work_is_refused_with_the_setting_and_the_remedy(sentence):
    with pytest.raises(InputError) as error:
        validate(REFUSED[sentence])
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_groups_of_one_are_refused():
    with pytest.raises(InputError, match="group_size: an advantage compares the samples"):
        validate(sampled(group_size=1))


def test_the_largest_thinking_budget_leaves_the_marker_and_a_token():
    validate(sampled(reasoning_effort=62, max_completion_tokens=64))


def test_a_stored_configuration_makes_settings_only():
    stored = to_json(CONFIG) | {"data": {"class": "subprocess:Popen", "args": ["true"]}}
    with pytest.raises(ValueError, match="subprocess:Popen is no class of settings"):
        from_json(stored)


def test_a_class_is_found_wherever_in_the_package_it_was():
    text = re.sub(r'"rft_jax\.config\.\w+:', '"rft_jax.config.schema:', json.dumps(to_json(CONFIG)))
    assert from_json(json.loads(text)) == CONFIG


def test_a_tuple_without_its_comma_is_told():
    with pytest.raises(InputError, match="stages: must be a tuple; with one member a comma"):
        validate(dataclasses.replace(CONFIG, stages=RLStage(init="")))


def test_a_work_directory_of_the_first_version_is_refused_with_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"class": "rft_jax.config:Config"}))
    with pytest.raises(InputError, match="was written by rft_jax 0.1, .* use another work dir"):
        read_config(tmp_path / "config.json")
