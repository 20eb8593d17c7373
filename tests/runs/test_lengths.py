"""Lengths and batches that do not go with the data are told before anything is compiled."""

import dataclasses

import pytest

from rft_jax.config import Config, RLStage, RolloutConfig, SFTStage
from rft_jax.graders import build_grader
from rft_jax.runs.constant_record import note_constant, read_constant
from rft_jax.runs.datasets import PromptData, Rows
from rft_jax.runs.lengths import check_batches, check_thinking_budgets, length_warnings
from rft_jax.utils.errors import InputError

GRADER = {
    "type": "string_check",
    "name": "label",
    "operation": "eq",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.label }}",
}
ITEMS = [
    {
        "messages": [{"role": "user", "content": f"{n}"}],
        "label": "billing" if n < 31 else "shipping",
    }
    for n in range(34)
]
WORKED = [
    {
        "messages": [
            *item["messages"],
            {"role": "assistant", "content": "<think>a b</think>" + "c " * 9},
        ]
    }
    for item in ITEMS
]


class Words:
    """A tokenizer for which a word is a token; six end a thought."""

    end_of_think_id, lead_ids = 9, (1, 2, 3, 4, 5)

    def encode_completion(self, content, reasoning):
        return f"{reasoning or ''} {content}".replace("</think>", " </think> ").split()


def run(**rollout):
    stage = RLStage(init="sft", rollout=RolloutConfig(**rollout))
    config = Config(stages=(SFTStage(name="sft"), stage))
    rows = {
        "sft": {"supervised": Rows("worked.jsonl", WORKED)},
        "rft": {"train": Rows("train.jsonl", ITEMS)},
    }
    return config, rows


def warnings(**rollout):
    return length_warnings(*run(**rollout), build_grader(GRADER), Words())


def test_lengths_that_hold_what_the_data_has_are_passed_over():
    assert warnings(output_bytes=18, max_completion_tokens=12) == []


def test_references_and_worked_answers_are_compared_with_the_limits():
    (references,) = [w for w in warnings(output_bytes=7) if "train.jsonl" in w]
    assert "output_bytes: 7" in references and "9% of" in references and "8 bytes" in references
    (worked,) = warnings(max_completion_tokens=11)
    assert "worked.jsonl" in worked and "12 tokens" in worked and "100%" in worked


def test_a_batch_larger_than_the_data_is_one_sentence():
    config, rows = run()
    stages = config.stages[0], dataclasses.replace(config.stages[1], batch_size=35)
    with pytest.raises(InputError, match=r"rft.batch_size: 35 prompts.*train.jsonl has 34"):
        check_batches(dataclasses.replace(config, stages=stages), rows)
    check_batches(config, rows)


def test_what_ends_a_thought_counts_in_the_budget():
    config, _ = run(reasoning_effort=10, max_completion_tokens=17)
    check_thinking_budgets(config, Words())
    config, _ = run(reasoning_effort=10, max_completion_tokens=16)
    with pytest.raises(InputError, match=r"max_completion_tokens: 16 .* 10 .* 6 .* more than 16"):
        check_thinking_budgets(config, Words())


def test_the_best_constant_is_written_down_once(tmp_path):
    valid = PromptData("valid.jsonl", ITEMS, None, None)
    note_constant(tmp_path / "rft", build_grader(GRADER), valid)
    found = read_constant(tmp_path / "rft")
    assert found.answer == "billing" and found.reward == pytest.approx(31 / 34)
    note_constant(tmp_path / "rft", None, None)  # nothing is looked at again
    assert read_constant(tmp_path / "nowhere") is None


def test_a_grader_on_the_host_is_not_asked(tmp_path):
    note_constant(tmp_path, build_grader(GRADER, "host"), PromptData("v", ITEMS, None, None))
    assert read_constant(tmp_path) is None
