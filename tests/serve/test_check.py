"""What is wrong with a job is blamed on the parameter that can mend it."""

import json

import pytest

from rft_jax.config.overrides import read_config
from rft_jax.serve import check as module
from rft_jax.serve.job_folder import JobFolder, read_value
from rft_jax.tokenizers import SentencePieceTokenizer, train_sentencepiece
from rft_jax.tokenizers.spm import MIN_VOCAB_SIZE

from .test_settings import TEMPLATE

GRADER = {
    "type": "string_check", "name": "same", "operation": "eq",
    "input": "{{sample.output_text}}", "reference": "{{item.answer}}",
}  # fmt: skip
REQUEST = {
    "id": "ftjob-1", "source": "/runs/c", "init": "/runs/c/rft", "seed": 1, "grader": GRADER,
    "python_timeout_s": 9.0, "wandb_project": "", "train_name": "t.jsonl", "valid_name": "v.jsonl",
    "method": {"type": "reinforcement", "reinforcement": {"hyperparameters": {"batch_size": 2}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    texts = [f"number {n}" for n in range(50)]
    return SentencePieceTokenizer(train_sentencepiece(texts, path, MIN_VOCAB_SIZE))


@pytest.fixture
def checked(tokenizer, tmp_path, monkeypatch):
    """Checks a job with rows; returns its folder and what was found."""
    monkeypatch.setattr(module, "read_template", lambda source: TEMPLATE)
    monkeypatch.setattr(module, "_tokenizer", lambda template: tokenizer)

    def check(train, valid, **request):
        folder = JobFolder(tmp_path)
        for path, rows in ((folder.train, train), (folder.valid, valid)):
            path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        folder.request.write_text(json.dumps(REQUEST | request))
        module.check(folder)
        return folder, read_value(folder.checked)

    return check


def items(first, count, **fields):
    return [
        {"messages": [{"role": "user", "content": f"number {n}"}], **fields}
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize(
    ("train", "valid", "code", "said"),
    [
        ([{"answer": "a"}, {}], [{"answer": "a"}], "invalid_training_file", "t.jsonl, line 2: ref"),
        ([{"answer": "a"}], [{"answer": "a"}, {}], "invalid_validation_file", "v.jsonl, line 2"),
        ([{}, {}], [{"answer": "a"}], "invalid_training_file", "t.jsonl, line 1: reference needs"),
        ([{}, {}], [{"answers": "a"}], "invalid_grader", "reference needs {{item.answer}}, but no"),
    ],
)
def test_a_field_that_is_missing_is_blamed_on_the_file_without_it(
    train, valid, code, said, checked
):
    """And on the grader, where no row has it."""
    rows = [
        [row | item for row, item in zip(fields, items(first, len(fields)), strict=True)]
        for first, fields in ((0, train + [train[0]] * 2), (20, valid))
    ]
    _, found = checked(*rows)
    assert found["error"]["code"] == code and said in found["error"]["message"]
    param = code.removeprefix("invalid_")
    assert found["error"]["param"].removeprefix("method.reinforcement.") == param


def test_a_supervised_job_measures_its_validation_file(checked):
    method = {"type": "supervised", "supervised": {"hyperparameters": {}}}
    answered = [
        {"messages": [*row["messages"], {"role": "assistant", "content": "a"}]}
        for row in items(0, 6)
    ]
    folder, found = checked(answered[:4], answered[4:], method=method, grader=None)
    assert "error" not in found
    (stage,) = read_config(folder.config).stages
    assert stage.valid == str(folder.valid)
    assert stage.eval_interval == stage.checkpoint_interval
    _, found = checked(answered[:4], answered[3:], method=method, grader=None)
    assert found["error"]["code"] == "invalid_validation_file"
