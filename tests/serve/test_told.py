"""Rows of metrics become what clients are told."""

import csv
import io

import pytest

from rft_jax.serve.told import ERRORS, Teller, checkpoint_metrics, grader_types, table

MULTI = {
    "type": "multi",
    "graders": {"a": {"type": "choice"}, "b": {"type": "python"}},
    "calculate_output": "a + b",
}
TELLER = Teller.of(MULTI, total_steps=20, samples=32)
TRAIN = {
    "step": 10,
    "train_reward_mean": 0.42,
    "train_valid_fraction": 0.75,
    "train_scores/a": 0.5,
    "train_scores/b": 0.25,
    "train_errors/sample_parse_error_mean": 0.5,
    "train_errors/a/sample_parse_error_mean": 0.25,
    "train_errors/a/sample_parse_error_count": 8,
    "train_completion_tokens_mean": 30.0,
    "train_reasoning_tokens_mean": 16.0,
    "train_details/b/prompt_tokens": 11.0,
    "timing": {"full_iteration": 0.5, "b/execution_latency_mean": 0.01},
}
VALID = {
    "valid_reward_mean": 0.68,
    "valid_valid_fraction": 0.5,
    "valid_items": 8,
    "valid_samples": 2,
    "valid_scores/a": 0.75,
    "valid_errors/sample_parse_error_mean": 0.125,
    "valid_reasoning_tokens_mean": 17.0,
}


def test_a_step_without_validation_has_no_keys_of_one():
    data = TELLER.data(TRAIN)
    assert data["scores"]["train_reward_mean"] == data["train_mean_reward"] == 0.42
    assert "full_valid_mean_reward" not in data
    assert not [key for row in data["errors"]["graders"] for key in row if key.startswith("valid_")]
    assert data["usage"]["samples"] == {
        "train_reasoning_tokens_mean": 16.0,
        "train_reasoning_tokens_count": 24,
    }
    assert TELLER.message(data) == "Step 10/20 , train mean reward=0.42"


def test_a_step_with_validation():
    data = TELLER.data(TRAIN | VALID)
    assert data["scores"]["graders"][0] == {
        "name": "a", "type": "choice", "train_reward_mean": 0.5, "valid_reward_mean": 0.75,
    }  # fmt: skip
    assert data["usage"]["samples"]["valid_reasoning_tokens_count"] == 8
    assert data["full_valid_mean_parse_error"] == 0.125
    assert data["mean_unresponsive_rewards"] == 0.25
    assert TELLER.message(data).startswith("Step 10/20 , train mean reward=0.42, full validation")


def test_errors_are_those_of_the_part():
    a, b = TELLER.data(TRAIN | VALID)["errors"]["graders"]
    assert a["train_sample_parse_error_mean"] == 0.25
    assert a["train_sample_parse_error_count"] == 8
    assert b["train_sample_parse_error_mean"] == 0
    assert {f"{side}_{error}_mean" for side in ("train", "valid") for error in ERRORS} <= set(a)


def test_of_one_grader_the_errors_are_the_whole_s():
    teller = Teller.of({"type": "choice", "name": "only"}, 20, 32)
    (row,) = teller.data(TRAIN)["errors"]["graders"]
    assert (row["name"], row["train_sample_parse_error_mean"]) == ("only", 0.5)


def test_times_and_tokens_by_grader():
    data = TELLER.data(TRAIN)
    assert data["timing"]["step"] == {
        "sampling": None, "training": None, "eval": None, "full_iteration": 0.5,
    }  # fmt: skip
    assert data["timing"]["graders"][1]["train_execution_latency_mean"] == 0.01
    assert data["usage"]["graders"] == [
        {"name": "b", "type": "python", "train_prompt_tokens_mean": 11.0}
    ]


def test_a_validation_alone_is_step_0():
    data = TELLER.data({"step": 0, **VALID, "timing": {"eval": 1.0}})
    assert "train_mean_reward" not in data and data["scores"]["valid_reward_mean"] == 0.68
    assert "train" not in TELLER.message(data)


def test_a_validation_without_a_valid_sample_has_no_reward():
    row = {key: value for key, value in (TRAIN | VALID).items() if key != "valid_reward_mean"}
    data = TELLER.data(row | {"valid_valid_fraction": 0.0})
    assert data["full_valid_mean_reward"] is None
    assert "reward=none" in TELLER.message(data)


def test_supervised_steps():
    teller = Teller.of(None, total_steps=5, samples=0)
    row = {"step": 2, "train_loss": 0.25, "train_mean_token_accuracy": 0.9, "timing": {}}
    data = teller.data(row)
    assert (data["train_loss"], data["train_mean_token_accuracy"]) == (0.25, 0.9)
    assert checkpoint_metrics(data) == {
        "step": 2, "train_loss": 0.25, "train_mean_token_accuracy": 0.9,
    }  # fmt: skip
    assert "full_valid_loss" not in table([data]).decode()


def test_supervised_validations():
    teller = Teller.of(None, total_steps=5, samples=0)
    valid = {"valid_loss": 0.5, "valid_mean_token_accuracy": 0.75}
    before = teller.data({"step": 0, **valid, "timing": {}})
    assert "train_loss" not in before
    assert teller.message(before) == "Step 0/5 , full validation loss=0.50"
    data = teller.data({"step": 2, "train_loss": 0.25, **valid, "timing": {}})
    assert checkpoint_metrics(data) == {
        "step": 2, "train_loss": 0.25,
        "full_valid_loss": 0.5, "full_valid_mean_token_accuracy": 0.75,
    }  # fmt: skip
    assert teller.message(data) == "Step 2/5 , training loss=0.25, full validation loss=0.50"
    (read,) = csv.DictReader(io.StringIO(table([data]).decode()))
    assert (read["full_valid_loss"], read["full_valid_mean_token_accuracy"]) == ("0.5", "0.75")


def test_the_table_is_plain_csv_with_gaps():
    rows = [TELLER.data(TRAIN | {"step": 9}), TELLER.data(TRAIN | VALID)]
    read = list(csv.DictReader(io.StringIO(table(rows).decode())))
    assert [row["step"] for row in read] == ["9", "10"]
    assert [row["full_valid_mean_reward"] for row in read] == ["", "0.68"]
    assert read[1]["scores/graders/choice/a/valid_reward_mean"] == "0.75"
    assert read[0]["errors/graders/choice/a/errors/train_sample_parse_error_count"] == "8"
    assert read[0]["total_duration"] == "0.5" and read[0]["sampling_duration"] == ""


def test_a_table_of_no_steps_has_a_header():
    assert table([]) == b"step\n"


@pytest.mark.parametrize(
    "grader, expected",
    [
        (MULTI, {"a": "choice", "b": "python"}),
        (
            MULTI | {"graders": [{"name": "a", "type": "choice"}, {"name": "b", "type": "rank"}]},
            {"a": "choice", "b": "rank"},
        ),
        ({"type": "rank"}, {"rank": "rank"}),
        ({"type": "rank", "name": "mine"}, {"mine": "rank"}),
    ],
)
def test_grader_types(grader, expected):
    assert grader_types(grader) == expected
