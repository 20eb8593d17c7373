"""Means of an evaluation: pass@k against all subsets, majorities, what is not valid."""

import itertools

import numpy as np
import pytest

from rft_jax.evaluation import models
from rft_jax.evaluation.evaluator import Evaluation
from rft_jax.evaluation.metrics import columns, majority, pass_at, summarize, validation_summary
from rft_jax.graders import build_grader, load_grader, load_pass_threshold
from rft_jax.runs.datasets import PromptData

GRADER = {
    "type": "choice",
    "name": "letter",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.answer }}",
    "choices": ["A", "B"],
    "pass_threshold": 0.5,
}


def grader(**more):
    spec = GRADER | more
    return build_grader(load_grader(spec), pass_threshold=load_pass_threshold(spec))


def test_pass_at_k_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(0)
    passed, valid = rng.random((20, 5)) < 0.4, rng.random((20, 5)) < 0.8
    found = pass_at(passed, valid)
    assert list(found) == ["pass_at_1", "pass_at_2", "pass_at_4", "pass_at_5"]
    for name, column in found.items():
        k, means = int(name.removeprefix("pass_at_")), []
        for item in range(20):
            outcomes = passed[item][valid[item]]
            if len(outcomes) >= k:
                means.append(np.mean([any(s) for s in itertools.combinations(outcomes, k)]))
        assert column.mean == pytest.approx(np.mean(means) if means else 0)


def test_the_majority_is_that_of_the_valid_answers():
    answers = np.array([[0, 1, 1, 1], [0, 0, 1, 1], [-1, -1, -1, 2], [-1, -1, -1, -1]])
    rewards = np.where(answers == np.array([[0], [0], [2], [0]]), 1.0, 0.0)
    valid = np.array([[True, True, False, False], [True] * 4, [True] * 4, [True] * 4])
    # A tie, whose first counts; a tie again; one answer is more than none; no answer at all.
    assert majority(answers, rewards, valid)["majority"].total_M.tolist() == [1, 1, 1, 0]


def evaluation(rewards, answers):
    valid = np.ones_like(rewards, bool)
    zero = np.zeros_like(rewards)
    details, tokens, text = {"letter/answer": answers}, zero[..., None], None
    return Evaluation(
        rewards, valid, {}, details, {}, zero, zero, ~valid, tokens, text, valid, ~valid
    )


def summarized(found):
    return summarize(found, columns(found, grader()))


def test_a_grader_defines_what_passes_and_what_an_answer_is():
    rewards, answers = np.array([[1.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    summary = summarized(evaluation(rewards, answers))
    assert summary["reward_mean"] == pytest.approx(2 / 3) == summary["pass_at_1"]
    assert summary["pass_at_2"] == 1 == summary["majority"]
    assert "letter/answer" not in str(list(summary))
    without = columns(evaluation(rewards, answers), grader(pass_threshold=None))
    assert list(without) == ["reward_mean", "majority"]


def test_a_validation_without_a_valid_sample_has_no_mean_reward():
    found = evaluation(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
    summary = validation_summary(found, grader())
    assert summary["reward_mean_low"] <= summary["reward_mean"] <= summary["reward_mean_high"]
    none = validation_summary(found._replace(valid_MS=np.zeros((1, 2), bool)), grader())
    assert [name for name in none if name.startswith("reward_mean")] == ["reward_mean_all"]
    assert none["valid_fraction"] == 0


def test_a_threshold_that_is_no_number_is_named():
    with pytest.raises(ValueError, match="pass_threshold: must be a number, not 'high'"):
        load_pass_threshold(GRADER | {"pass_threshold": "high"})
    assert load_pass_threshold("some_module:some_function") is None


@pytest.mark.parametrize("first", [True, False])
def test_the_host_s_graders_are_asked_of_other_answers_by_the_first_host_only(first, monkeypatch):
    asked, answers = [], ["A", "B", "A"]
    monkeypatch.setattr(models, "is_first", lambda: first)
    monkeypatch.setattr(models, "ask_host", lambda *given: asked.append(given) or {})
    items = PromptData("valid.jsonl", [{"messages": [], "answer": "A"}] * 3, None, None)
    found = models._grade_answers(grader(), items, answers)
    assert found.reward_MS.tolist() == [[1.0], [0.0], [1.0]] and len(asked) == int(first)
