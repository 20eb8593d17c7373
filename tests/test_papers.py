"""The reproductions of papers: their task is right, their arms can run, their verdicts are fair."""

import importlib
import json
import random
from pathlib import Path

import numpy as np
import pytest

from rft_jax.config.validate import validate
from rft_jax.evaluation.bootstrap import Column

ROOT = Path(__file__).parents[1]
PAPERS = sorted(path.stem for path in (ROOT / "experiments/papers").glob("*.py"))


@pytest.fixture
def papers(monkeypatch):
    """Finds a module of `experiments.papers` by its name."""
    monkeypatch.syspath_prepend(ROOT)
    return lambda name: importlib.import_module(f"experiments.papers.{name}")


@pytest.fixture
def common(papers):
    return papers("common")


@pytest.fixture
def countdown(papers):
    return papers("countdown")


def messages_of(rows):
    return [row["messages"][0]["content"] for row in rows]


def test_every_arm_is_a_valid_configuration(common, tmp_path):
    validate(common.base_config(tmp_path, 0))
    for arm in common.ARMS.values():
        validate(common.arm_config(tmp_path, arm, 1))


def test_every_paper_names_its_arms_and_every_arm_has_a_paper(papers, common):
    named = set()
    for name in PAPERS:
        if name not in ("common", "countdown"):
            module = papers(name)
            named |= set(getattr(module, "ARMS", ())) | set(getattr(module, "CLIPS", ()))
            named |= set(getattr(module, "SAMPLINGS", ()))
            assert module.__doc__.splitlines()[2].strip().startswith("python -m experiments.papers")
    assert named == set(common.ARMS)


def test_the_task_is_what_it_says(countdown, tmp_path):
    config = countdown.write_data(tmp_path)
    rows = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "valid", "supervised", "answers", "sort")
    }
    assert Path(config.train).samefile(tmp_path / "train.jsonl")
    for row in [*rows["train"], *rows["valid"]]:
        numbers, target = row["messages"][0]["content"].split(" = ")
        first, *others = map(int, numbers.split())
        signs = [{"+": 1, "-": -1}[one] for one in row["answer"]]
        assert first + sum(map(int.__mul__, signs, others)) == int(target)
    prompts = {name: set(messages_of(found)) for name, found in rows.items()}
    assert not prompts["train"] & prompts["valid"]
    assert not prompts["supervised"] & (prompts["train"] | prompts["valid"] | prompts["sort"])
    assert prompts["answers"] == prompts["train"]
    assert len(rows["valid"]) == len(rows["sort"]) == countdown.VALID
    answers = {row["messages"][0]["content"]: row["answer"] for row in rows["train"]}
    for row in rows["answers"]:
        prompt, said = row["messages"]
        assert said["content"] == answers[prompt["content"]]
        target = prompt["content"].split(" = ")[1]
        assert said["reasoning_content"].endswith(f"={target}")


def test_the_trainee_is_seldom_right_and_answers_what_was_right(countdown):
    rng = random.Random(0)
    problems = countdown.problems(rng)
    right = 0
    for problem in problems:
        tried, answer = countdown.trainee(problem, rng)
        assert 1 <= len(tried) <= 2 and len(set(tried)) == len(tried)
        if problem.solution in tried:
            assert answer == tried[-1] == problem.solution
        right += answer == problem.solution
    assert 0.3 < right / len(problems) < 0.6


@pytest.mark.parametrize(
    ("expected", "seeds", "low", "high", "verdict"),
    [
        ("more", (1, 2, 3), 0.5, 3.5, "held"),
        ("more", (-0.1, 2, 3), 0.5, 3.5, "not decided here"),
        ("more", (1, 2, 3), -0.5, 3.5, "not decided here"),
        ("more", (-1, -2, -3), -3.5, -0.5, "did not hold"),
        ("less", (-1, -2, -3), -3.5, -0.5, "held"),
        ("less", (1, 2, 3), 0.5, 3.5, "did not hold"),
        ("same", (0.01, -0.01, 0), -0.04, 0.04, "held"),
        ("same", (0.01, -0.01, 0), -0.04, 0.06, "not decided here"),
        ("same", (0.1, 0.1, 0.1), 0.06, 0.2, "did not hold"),
        ("", (1, 2, 3), 0.5, 3.5, ""),
    ],
)
def test_verdicts(common, expected, seeds, low, high, verdict):
    mean = float(np.mean(seeds))
    assert common.Difference("x", expected, seeds, mean, low, high).verdict == verdict


def test_a_difference_of_seeds_has_students_interval(common):
    found = common.of_seeds("x", "", [3.0, 4.0, 5.0], [1.0, 1.0, 1.0])
    assert found.seeds == (2.0, 3.0, 4.0) and found.mean == 3.0
    # t (0.975, 2 degrees of freedom) = 4.3027; the standard error is 1 / sqrt(3)
    assert found.high == pytest.approx(3 + 4.3027 / 3**0.5, abs=1e-3)
    assert found.low == pytest.approx(3 - 4.3027 / 3**0.5, abs=1e-3)


def test_a_difference_of_items_draws_items_and_not_seeds(common):
    rng = np.random.default_rng(0)
    item_M = rng.normal(size=40)
    ones = np.ones(40)
    a = [Column(item_M + shift, ones) for shift in (0.1, 0.2, 0.3)]
    b = [Column(np.zeros(40), ones)] * 3
    found = common.of_items("x", "", a, b)
    assert found.mean == pytest.approx(item_M.mean() + 0.2)
    assert found.seeds == pytest.approx([item_M.mean() + shift for shift in (0.1, 0.2, 0.3)])
    # Three copies of an item are no more than one: the width is that of 40 items.
    assert found.high - found.low == pytest.approx(3.92 * item_M.std() / 40**0.5, rel=0.1)


def test_only_wrong_answers_have_a_wrong_length(common):
    samples = common.Samples(np.array([[1, 0], [1, 1]]), np.array([[5, 9], [3, 3]]))
    found = common.wrong_length(samples)
    np.testing.assert_array_equal(found.total_M, [9, 0])
    np.testing.assert_array_equal(found.weight_M, [1, 0])


@pytest.mark.slow
def test_an_arm_goes_end_to_end_and_is_trained_once(common, countdown, tmp_path, monkeypatch):
    for name, value in {"SEEDS": (0,), "BASE_STEPS": 21, "RL_STEPS": 6, "VALID": 8}.items():
        monkeypatch.setattr(common, name, value)
    for name, value in {"VALID": 8, "TRAIN": 96, "SHOWN": 200}.items():
        monkeypatch.setattr(countdown, name, value)
    common.train_arm(tmp_path, "grpo_without_std", 0)
    study = common.Study(tmp_path)
    (samples,) = study.samples("grpo_without_std")
    assert samples.reward_MS.shape == (8, 16) and set(np.unique(samples.reward_MS)) <= {0, 1}
    assert study.curve("grpo_without_std", "train_reward_mean").shape == (1, 6)
    steps, lengths = study.wrong_lengths("grpo_without_std")
    assert steps == [5] and lengths.shape == (1, 1) and lengths.min() >= 0

    def refuse(config, workdir):
        raise AssertionError("it is trained already")

    monkeypatch.setattr(common, "train", refuse)
    common.train_arm(tmp_path, "grpo_without_std", 0)
