"""Hyperparameters become a configuration: section by section as a table."""

import dataclasses
from pathlib import Path

import pytest

from rft_jax.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PolicyLossConfig,
    RLStage,
    RolloutConfig,
    SFTStage,
)
from rft_jax.config.validate import validate
from rft_jax.serve.settings import (
    Sizes,
    job_config,
    nearest_epochs,
    plan_reinforcement,
    plan_supervised,
)
from rft_jax.serve.templates import Template

RL = RLStage(
    init="sft",
    steps=100,
    batch_size=16,
    rollout=RolloutConfig(group_size=8, max_completion_tokens=64, reasoning_effort="low", slots=64),
    policy_loss=PolicyLossConfig(gradient_accumulation=4),
    optimizer=OptimizerConfig(learning_rate=3e-4, warmup_steps=5),
    eval_interval=20,
    eval_samples=4,
    early_stopping_patience=3,
)
SFT = SFTStage(
    name="sft", init="", steps=250, batch_size=16, max_row_tokens=256, gradient_accumulation=2
)
CONFIG = Config(models=(ModelConfig(),), stages=(SFT, RL))
TEMPLATE = Template(
    CONFIG, CONFIG.models[0], RL, SFT, Path("/runs/c/rft/checkpoints/100"), "/runs/c/t.model", 1
)


def config_of(plan, template=TEMPLATE, init="/runs/c/rft/checkpoints/100"):
    files = DataConfig(train="t.jsonl", supervised="t.jsonl")
    return job_config(
        template, plan, name="ftjob-1", seed=7, init=init, data=files, grader={"type": "x"},
        python_timeout_s=9.0, wandb_project="",
    )  # fmt: skip


@pytest.mark.parametrize(
    "given, rows, expected",
    [
        ({}, 1000, {"batch_size": 16, "steps": 125, "n_epochs": 2, "eval_interval": 12}),
        ({"n_epochs": 1}, 24, {"batch_size": 16, "steps": 2, "eval_interval": 1}),
        ({}, 10, {"batch_size": 10, "steps": 50, "n_epochs": 50}),
        ({"batch_size": 4, "n_epochs": 1}, 24, {"batch_size": 4, "steps": 6}),
        ({"batch_size": 7, "n_epochs": 3}, 24, {"batch_size": 7, "steps": 11}),
        ({"eval_interval": 100_000}, 24, {"eval_interval": 100_000, "checkpoint_interval": 20}),
        ({"eval_interval": 3}, 24, {"eval_interval": 3, "checkpoint_interval": 3}),
        ({"eval_samples": 2}, 24, {"eval_samples": 2}),
        ({"eval_samples": "auto", "n_epochs": None}, 24, {"eval_samples": 4}),
        ({"n_epochs": 50, "batch_size": 1}, 3, {"steps": 150}),
    ],
)
def test_reinforcement(given, rows, expected):
    plan = plan_reinforcement(TEMPLATE, given, Sizes(rows, 30))
    stage = plan.stage
    assert {name: getattr(stage, name, plan.hyperparameters.get(name)) for name in expected} == (
        expected
    )
    assert "auto" not in plan.hyperparameters.values()
    assert stage.batch_size % stage.policy_loss.gradient_accumulation == 0
    assert stage.early_stopping_patience == 0
    validate(config_of(plan))


@pytest.mark.parametrize(("given", "parts"), [({}, 32), ({"batch_size": 4, "n_epochs": 1}, 8)])
def test_a_template_that_splits_groups_does_so_with_other_batches(given, parts):
    """Two parts of each prompt's samples, as the template has them."""
    loss = dataclasses.replace(RL.policy_loss, gradient_accumulation=32)
    template = dataclasses.replace(TEMPLATE, rl=dataclasses.replace(RL, policy_loss=loss))
    plan = plan_reinforcement(template, given, Sizes(24, 30))
    assert plan.stage.policy_loss.gradient_accumulation == parts


@pytest.mark.parametrize(("lead", "tokens"), [(0, 34), (5, 128)])
def test_a_longer_thought_has_room_for_its_lead(lead, tokens):
    rollout = dataclasses.replace(RL.rollout, max_completion_tokens=34, reasoning_effort=0)
    template = dataclasses.replace(TEMPLATE, rl=dataclasses.replace(RL, rollout=rollout))
    sizes = Sizes(64, 30, multiple=64, lead=lead)
    rollout = plan_reinforcement(template, {"reasoning_effort": "low"}, sizes).stage.rollout
    assert rollout.thinking_tokens == 32 and rollout.max_completion_tokens == tokens


@pytest.mark.parametrize(
    "given, group",
    [
        ({}, 8), ({"compute_multiplier": 0.5}, 4), ({"compute_multiplier": 1e-4}, 2),
        ({"compute_multiplier": 10}, 80),
    ],
)  # fmt: skip
def test_compute_multiplier_is_samples_of_a_prompt(given, group):
    assert plan_reinforcement(TEMPLATE, given, Sizes(64, 30)).stage.rollout.group_size == group


def test_learning_rate_and_warmup_of_a_short_job():
    given = {"learning_rate_multiplier": 0.5, "n_epochs": 1, "batch_size": 4}
    optimizer = plan_reinforcement(TEMPLATE, given, Sizes(120, 30)).stage.optimizer
    assert optimizer.learning_rate == pytest.approx(1.5e-4)
    assert optimizer.warmup_steps == 3


@pytest.mark.parametrize("longest, length", [(1, 64), (64, 64), (65, 128), (1000, 1024)])
def test_prompts_have_room_up_to_a_multiple_of_64(longest, length):
    rollout = plan_reinforcement(TEMPLATE, {}, Sizes(64, longest)).stage.rollout
    assert rollout.max_prompt_tokens == length


@pytest.mark.parametrize(
    "effort, thinking, shown, completion",
    [
        (None, 32, "low", 64), ("default", 32, "low", 64), ("low", 32, "low", 64),
        ("medium", 96, "medium", 128), ("high", 192, "high", 256),
    ],
)  # fmt: skip
def test_a_long_thought_leaves_room_for_the_answer(effort, thinking, shown, completion):
    plan = plan_reinforcement(TEMPLATE, {"reasoning_effort": effort}, Sizes(64, 30))
    rollout = plan.stage.rollout
    assert (rollout.thinking_tokens, rollout.max_completion_tokens) == (thinking, completion)
    assert plan.hyperparameters["reasoning_effort"] == shown
    validate(config_of(plan))


def test_slots_that_a_small_batch_does_not_fill_are_off():
    small = plan_reinforcement(TEMPLATE, {"batch_size": 4}, Sizes(64, 30))
    assert small.stage.rollout.slots == 0
    assert plan_reinforcement(TEMPLATE, {}, Sizes(64, 30)).stage.rollout.slots == 64


@pytest.mark.parametrize(
    "given, sizes, batch, steps, shown",
    [
        # 1,500 examples in 300 rows: 5 a row.
        ({"batch_size": 16, "n_epochs": 1}, Sizes(1500, 40, 300), 3, 100, 16),
        ({"batch_size": 1, "n_epochs": 1}, Sizes(1500, 40, 300), 1, 300, 1),
        ({"n_epochs": 2}, Sizes(1500, 40, 300), 16, 38, 80),
        ({"batch_size": 256, "n_epochs": 3}, Sizes(24, 40, 5), 5, 3, 256),
    ],
)
def test_supervised(given, sizes, batch, steps, shown):
    plan = plan_supervised(TEMPLATE, given, sizes)
    assert (plan.stage.batch_size, plan.stage.steps) == (batch, steps)
    assert plan.hyperparameters["batch_size"] == shown
    validate(config_of(plan))


def test_supervised_rows_hold_the_longest_item():
    assert plan_supervised(TEMPLATE, {}, Sizes(10, 300, 10)).stage.max_row_tokens == 320
    assert plan_supervised(TEMPLATE, {}, Sizes(10, 30, 10)).stage.max_row_tokens == 256


def test_the_configuration_is_one_stage_that_starts_from_the_model():
    config = config_of(plan_reinforcement(TEMPLATE, {}, Sizes(64, 30)))
    (stage,) = config.stages
    assert (stage.name, stage.init) == ("rft", "/runs/c/rft/checkpoints/100")
    assert (config.name, config.seed, config.tensorboard) == ("ftjob-1", 7, False)
    assert config.tokenizer.path == "/runs/c/t.model"
    assert config.host.sandbox and config.host.python_timeout_s == 9


def test_a_model_of_hugging_face_starts_from_its_source():
    model = dataclasses.replace(CONFIG.models[0], source="hf:Owner/Name")
    template = dataclasses.replace(TEMPLATE, model=model, path=Path("hf:Owner/Name"), tokenizer="")
    plan = plan_reinforcement(template, {}, Sizes(64, 30))
    assert config_of(plan, template, "hf:Owner/Name").stages[0].init == ""
    tuned = config_of(plan, template, "/d/jobs/ftjob-1/run/rft/checkpoints/5")
    assert tuned.stages[0].init.endswith("/5")


@pytest.mark.parametrize(
    "rows, batch, steps, epochs", [(24, 4, 6, 1), (24, 4, 100, 17), (1000, 16, 10, 1)]
)
def test_nearest_epochs(rows, batch, steps, epochs):
    assert nearest_epochs(rows, batch, steps) == epochs
