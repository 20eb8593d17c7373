"""Reward and audit of the same samples, side by side."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rft_jax.evaluation.audit import largest_differences, make_auditor, summarize_audit
from rft_jax.evaluation.evaluator import Evaluation
from rft_jax.graders import Grade, Items, build_grader
from rft_jax.strings import ByteString, from_host

LIKES_E = {"type": "regex", "name": "e", "input": "{{sample.output_text}}", "pattern": "e"}
RIGHT = {
    "type": "string_check",
    "name": "right",
    "operation": "eq",
    "input": "{{sample.output_text}}",
    "reference": "{{item.answer}}",
}


def evaluation(rewards, texts=None, valid=None):
    reward_MS = np.array(rewards, np.float32)
    shape = reward_MS.shape
    valid_MS = np.ones(shape, bool) if valid is None else np.array(valid)
    zero = np.zeros(shape, int)
    flat = from_host([text for row in texts or [] for text in row] or [""] * zero.size, 16)
    text = ByteString(flat.bytes.reshape(*shape, -1), flat.length.reshape(shape))
    no = zero > 0
    tokens = zero[..., None]
    return Evaluation(reward_MS, valid_MS, {}, {}, {}, zero, zero, no, tokens, text, ~no, no)


def grade(rewards, valid=None):
    reward = np.array(rewards, np.float32)
    return Grade(
        reward, np.ones(reward.shape, bool) if valid is None else np.array(valid), {}, {}, {}
    )


def test_means_difference_and_correlation_are_of_the_samples_that_were_graded():
    found = summarize_audit(
        evaluation([[1, 0.5], [0, 1]], valid=[[True, True], [True, False]]),
        grade([[0.5, 0], [1, 1]], valid=[[True, True], [False, True]]),
    )
    assert found["audit/valid_fraction"] == 0.75
    assert found["audit/reward_mean"] == pytest.approx(0.5)
    assert found["audit/difference"] == pytest.approx(0.75 - 0.25)
    assert found["audit/correlation"] == pytest.approx(1)


def test_what_cannot_be_told_is_left_out():
    nothing = summarize_audit(evaluation([[1.0]]), grade([[1.0]], valid=[[False]]))
    assert nothing == {"audit/valid_fraction": 0}
    alike = summarize_audit(evaluation([[1, 1]]), grade([[0, 1]]))
    assert "audit/correlation" not in alike and alike["audit/difference"] == 0.5


def test_the_largest_differences_come_first_and_none_that_are_none():
    rewards, audits = [[1, 0], [0.5, 1], [1, 1]], [[0.5, 1], [0.5, 0.9], [1, 0]]
    valid = [[True, True], [True, True], [True, False]]
    found = largest_differences(evaluation(rewards), grade(audits, valid))
    assert found == [(0, 1), (0, 0), (1, 1)]


def test_an_auditor_grades_what_was_sampled_and_shows_where_it_differs(tmp_path):
    run = SimpleNamespace(
        grader=build_grader(LIKES_E),
        audit_grader=build_grader(RIGHT),
        tokenizer=SimpleNamespace(decode=lambda tokens: "", lead_ids=()),
    )
    rows = [{"messages": [{"role": "user", "content": q}], "answer": a} for q, a in ["ay", "be"]]
    items, texts = Items(rows, "items"), [["y", "eee"], ["e", "x"]]
    with run.audit_grader.open_host() as host:
        audit = make_auditor(run, host, items, tmp_path)
        found = audit(evaluation([[0, 1], [1, 0]], texts), 30)
    assert found["audit/reward_mean"] == 0.5 and found["audit/correlation"] == 0
    lines = (tmp_path / "audit" / "step_000030.jsonl").read_text().splitlines()
    shown = [json.loads(line) for line in lines]
    assert [(row["answer"], row["reward"], row["audit"]) for row in shown] == [
        ("y", 0, 1),
        ("eee", 1, 0),
    ]
    assert [row["expected"] for row in shown] == ["y", "y"] and shown[0]["step"] == 30
    assert shown[0]["prompt"][0]["content"] == "a"
