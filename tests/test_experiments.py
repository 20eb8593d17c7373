"""The experiments are configurations that can run, and their scripts write what they promise."""

import importlib.util
import json
from pathlib import Path

import pytest

from rft_jax.config import DataConfig
from rft_jax.config.load import load_config
from rft_jax.config.validate import validate

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
VARIANTS = {
    "claims.py": [""],
    "gsm8k.py": [":qwen2.5-0.5b-instruct", ":qwen3-1.7b"],
    "jsonl.py": [""],
    "open_models.py": [
        ":jsonl/qwen3-0.6b",
        ":rare_disease/qwen3-4b-lora",
        ":perils/qwen3-0.6b",
        ":coverage/llama-3.2-1b",
        ":law/qwen3-4b-lora",
        ":citations/qwen3-0.6b",
        ":finance/gemma-3-1b",
        ":scibench/qwen3-0.6b",
    ],
    "one_card.py": [":qwen3.5-4b", ":gpt-oss-20b"],
    "perils.py": [""],
    "plans.py": [":qwen3-8b"],
    "rare_disease.py": ["", ":direct"],
}
SCRIPTS = (
    "annotations.py",
    "distillation.py",
    "eight_bits.py",
    "evidence.py",
    "few_examples.py",
    "graders_that_teach.py",
    "three_seeds.py",
)


def load(name):
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXPERIMENTS / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_experiment_is_tested():
    assert sorted(path.name for path in EXPERIMENTS.glob("*.py")) == sorted((*VARIANTS, *SCRIPTS))


@pytest.mark.parametrize(
    "experiment", [name + variant for name in VARIANTS for variant in VARIANTS[name]]
)
def test_a_configuration_is_valid(experiment):
    validate(load_config(str(EXPERIMENTS / experiment), {}))


@pytest.mark.parametrize("size", [30, 1000])
def test_few_examples(size, tmp_path):
    config = load("few_examples.py").tuned_config(0, size, tmp_path / "base")
    assert config.data.examples == size
    validate(config)


def test_eight_bits(tmp_path):
    script = load("eight_bits.py")
    for arm in script.ARMS:
        config = script.arm_config(0, arm, tmp_path / "base")
        validate(config)
        (stage,) = config.training_stages
        assert stage.rollout.int8_weights == (arm != "exact")
        assert stage.policy_loss.score_centering == (arm == "centered")


def test_graders_that_teach(tmp_path):
    script = load("graders_that_teach.py")
    for credit in script.GRADERS.values():
        config = script.tuned_config(0, credit, tmp_path / "base")
        assert config.grader["credit"] == credit
        validate(config)


def test_distillation(tmp_path):
    script = load("distillation.py")
    files = DataConfig(*(f"{tmp_path}/{name}.jsonl" for name in ("train", "valid", "mixed", "x")))
    validate(script.base_config(0, files))
    config = script.student_config(0, tmp_path / "base", files, "answers.jsonl")
    validate(config)
    completions = {stage.batch_size for stage in config.training_stages}
    assert completions == {script.PROMPTS, script.PROMPTS * script.SAMPLES}
    row = {"top1": 0.25, "reward_mean": 0.5, "malformed_rate": 0.0}
    found = {
        "models": dict.fromkeys(config.stages[-1].models, row),
        "paired": [
            {"a": a, "b": b, "metric": "top1", "difference": 0.1, "low": 0.05, "high": 0.2}
            for a, b in (("sft_on_larger", "distilled"), ("sdft", "sft_on_answers"))
        ],
    }
    lines = script.lines_of({seed: {"genes_unseen": found} for seed in (0, 1)})
    assert "| larger_rft | 25.0 / 25.0 | 0.500 / 0.500 | 0.0 / 0.0 |" in lines
    assert f"| distilled minus sft_on_larger |{' -10.0 [-20.0, -5.0] |' * 2}" in lines
    assert f"| sdft minus sft_on_answers |{' +10.0 [+5.0, +20.0] |' * 2}" in lines


@pytest.mark.slow
def test_figures(tmp_path):
    pytest.importorskip("matplotlib")
    script = load("few_examples.py")
    lines = [
        {"seed": seed, "cases": size, "model": model, "top1": 0.1 + size / 10_000}
        for seed in script.SEEDS
        for size in script.SIZES
        for model in script.COLOURS
    ]
    script.plot(lines, tmp_path / "few_examples.svg")
    script = load("graders_that_teach.py")
    lines = [
        {"seed": seed, "grader": name, "step": step, **dict.fromkeys(script.PANELS, 0.1 * step)}
        for seed in script.SEEDS
        for name in script.GRADERS
        for step in range(3)
    ]
    script.plot(lines, tmp_path / "graders.svg")
    for name in ("few_examples.svg", "graders.svg"):
        assert (tmp_path / name).read_text().rstrip().endswith("</svg>")


def test_three_seeds():
    script = load("three_seeds.py")
    rates = dict.fromkeys((*script.RATES, "mean_list_length"), 0.25)
    pairs = [
        {"a": script.TUNED, "b": "base", "difference": 0.1, "low": 0.05, "high": 0.2},
        {"a": "ceiling", "b": script.TUNED, "difference": 0.3, "low": 0.1, "high": 0.4},
        {"a": "ceiling", "b": "base", "difference": 0.4, "low": 0.2, "high": 0.6},
    ]
    evaluation = {
        "cases": 9,
        "models": {"base": {"parameters": 1234} | rates, script.TUNED: rates, "ceiling": rates},
        "paired": [pair | {"metric": metric} for pair in pairs for metric in ("top1", "mrr")],
    }
    run = {"seed": 0, "wall_s": 90.0, "peak_rss_bytes": 2e9, "evaluations": {"unseen": evaluation}}
    lines = script.lines_of([json.loads(json.dumps(run))] * 3)
    assert lines[0] == "Seed 0: 1.5 minutes, 2.0 GB."
    assert any(line.startswith("| base | 1,234 | 25.0 / 25.0 / 25.0 |") for line in lines)
    assert f"| base | {' | '.join(['+10.0 [+5.0, +20.0]'] * 3)} |" in lines
    assert f"| ceiling | {' | '.join(['-30.0 [-40.0, -10.0]'] * 3)} |" in lines
