"""Distillation as stages of a run: on the claims, from a larger model and from demonstrations."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rft_jax.commands import entry
from rft_jax.config import (
    Config,
    DataConfig,
    DistillStage,
    EvalStage,
    ModelConfig,
    OptimizerConfig,
    RolloutConfig,
    SelfDistillStage,
    SFTStage,
    TokenizerConfig,
)
from rft_jax.config.overrides import to_json
from rft_jax.logging.metrics import MetricsFile
from rft_jax.plan import parse_topology
from rft_jax.plan.plan import estimate_plan
from rft_jax.runs.reopen import open_model
from rft_jax.training import train
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import read_metrics

from ..small_checkpoint import write_small

pytestmark = pytest.mark.usefixtures("compiled_once")

CLAIMS = Path(__file__).parents[2] / "experiments" / "claims"
SIZES = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "intermediate_size": 32}
SMALL = ModelConfig(name="small", num_layers=1, hidden_size=16, **SIZES)
LARGER = ModelConfig(name="larger", num_layers=1, hidden_size=32, **SIZES)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2)
ROLLOUT = RolloutConfig(
    group_size=2, max_prompt_tokens=96, max_completion_tokens=24, reasoning_effort=8
)
COMMON = {
    "model": "small",
    "init": "",
    "steps": 3,
    "batch_size": 8,
    "rollout": ROLLOUT,
    "optimizer": OPTIMIZER,
    "checkpoint_interval": 1,
}
DISTILL = DistillStage(teacher="larger_sft", eval_interval=3, **COMMON)
SDFT = SelfDistillStage(
    data="supervised", max_teacher_prompt_tokens=384, eval_interval=0, teacher_rate=0.5, **COMMON
)
SFT = SFTStage(
    name="larger_sft", model="larger", steps=6, max_row_tokens=256, optimizer=OPTIMIZER,
    log_interval=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A few of the claims, on models of a few thousand weights."""
    folder, files = tmp_path_factory.mktemp("data"), {}
    for name in ("train", "valid", "supervised"):
        lines = (CLAIMS / f"{name}.jsonl").read_text().splitlines()[:40]
        files[name] = str(folder / f"{name}.jsonl")
        Path(files[name]).write_text("\n".join(lines) + "\n")
    return Config(
        data=DataConfig(**files),
        grader=str(CLAIMS / "grader.json"),
        tokenizer=TokenizerConfig(vocab_size=400),
        models=(SMALL, LARGER),
        stages=(SFT, DISTILL, SDFT),
        tensorboard=False,
    )


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """A run of self-distillation, without a grader, which no stage needs."""
    workdir = tmp_path_factory.mktemp("alone")
    train(with_stages(config, SDFT, grader=""), workdir)
    return workdir


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A run of all stages without a grader."""
    workdir = tmp_path_factory.mktemp("finished")
    train(dataclasses.replace(config, grader=""), workdir)
    return workdir


def rows(workdir, stage):
    """The metrics without wall-clock fields."""
    found = read_metrics(workdir / stage / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "timing"} for row in found]


def weights(workdir):
    run, stage, step = open_model(workdir)
    return jax.device_get(run.load_params(stage, step))


def check_metrics(lines):
    assert [row["step"] for row in lines] == [1, 2, 3]
    for row in lines:
        assert row["train_loss"] > 0 and row["train_entropy"] > 0
        assert row["train_sampler_learner_logprob_gap"] < 1e-4
        assert row["train_completion_tokens"] > 0 and "train_reward_mean" not in row


def test_self_distillation_has_its_metrics(alone):
    check_metrics(rows(alone, "sdft"))


@pytest.mark.slow
def test_distillation_has_its_metrics_and_learns(finished):
    check_metrics(rows(finished, "distill"))
    losses = [row["train_loss"] for row in rows(finished, "distill")]
    assert losses[-1] < losses[0]


def test_the_terminal_shows_what_is_minimized(alone, capsys):
    assert entry.main(["show", "--workdir", str(alone)]) == 0
    text = capsys.readouterr().out
    assert "sdft" in text and "Loss" in text


def test_a_distilled_model_is_exported_with_the_lengths_that_it_saw(alone, tmp_path):
    command = ["export", "--workdir", str(alone), "--format", "hf", "--out", str(tmp_path / "hf")]
    assert entry.main(command) == 0
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["max_position_embeddings"] == 96 + 24


@pytest.mark.slow
def test_with_a_grader_stages_are_validated_and_compared(config, finished, tmp_path):
    """Which changes nothing in what they learn."""
    compared = EvalStage(name="both", models=("distill", "sdft"))
    train(dataclasses.replace(config, stages=(*config.stages, compared)), tmp_path)
    lines = rows(tmp_path, "distill")
    assert ["valid_reward_mean" in row for row in lines] == [True, False, False, True]
    assert lines[1:3] == rows(finished, "distill")[:2]
    assert rows(tmp_path, "sdft") == rows(finished, "sdft")
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["evaluations"]["both"]["models"]) == ["distill", "sdft"]
    assert entry.main(["show", "--workdir", str(tmp_path)]) == 0


def refused(config, message, workdir):
    with pytest.raises(InputError, match=message):
        train(config, workdir)
    assert not workdir.exists()


def with_stages(config, *stages, **settings):
    return dataclasses.replace(config, stages=stages, **settings)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"teacher": ""}, r"stages.distill.teacher: '' is not an earlier stage; name one"),
        ({"teacher": "larger"}, r"stages.distill.teacher: 'larger' is not an earlier stage"),
        ({"teacher": "nowhere/sft"}, r"nowhere/sft: not a work directory"),
        ({"divergence": "l2"}, r"stages.distill.divergence: 'l2' is not one of reverse_kl"),
        ({"jsd_beta": 1.0}, r"stages.distill.jsd_beta: must lie in \(0, 1\)"),
        ({"early_stopping_patience": 1}, r"early_stopping_patience: needs evaluations; name a gr"),
        ({"gradient_accumulation": 3}, r"gradient_accumulation: 3 does not divide the batch"),
        ({"batch_size": 64}, r"stages.distill.batch_size: 64 prompts a step"),
    ],
)
def test_bad_distillation_is_refused(config, stage, message, tmp_path):
    changed = dataclasses.replace(DISTILL, **stage)
    refused(with_stages(config, SFT, changed, grader=""), message, tmp_path / "run")


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"data": "answers"}, r"data.answers: the stage 'sdft' needs a file; set data.answers"),
        ({"demonstration": "{{ prompt }}"}, r"\{\{ demonstration \}\} must stand in it"),
        ({"teacher_rate": 1.5}, r"stages.sdft.teacher_rate: must lie in \[0, 1\]"),
        (
            {"max_teacher_prompt_tokens": 20},
            r"the prompt has .* set stages.sdft.max_teacher_pro",
        ),
    ],
)
def test_bad_self_distillation_is_refused(config, stage, message, tmp_path):
    changed = dataclasses.replace(SDFT, **stage)
    refused(with_stages(config, changed), message, tmp_path / "run")


def test_prompts_without_answers_are_no_demonstrations(config, tmp_path):
    files = dataclasses.replace(config.data, supervised=config.data.train)
    message = r"train.jsonl, line 1: messages\[.\]: the last message is from 'user'"
    refused(with_stages(config, SDFT, data=files), message, tmp_path / "run")


def test_a_teacher_of_another_tokenizer_is_refused(config, alone, tmp_path):
    stage = dataclasses.replace(DISTILL, teacher=str(alone / "sdft"))
    other = with_stages(config, stage, tokenizer=TokenizerConfig(vocab_size=420))
    message = rf"stages.distill.teacher: {alone}/sdft has another tokenizer than the stu"
    refused(other, message, tmp_path / "run")
    checkpoint = write_small(tmp_path / "checkpoint")
    stage = dataclasses.replace(DISTILL, teacher=str(checkpoint))
    refused(with_stages(config, stage), "checkpoint has another tokenizer", tmp_path / "run")


def test_bad_input_is_one_sentence_and_status_2(config, capsys, tmp_path):
    """As it is typed."""
    file, stored = tmp_path / "experiment.py", tmp_path / "config.json"
    stored.write_text(json.dumps(to_json(config)))
    file.write_text(
        "from pathlib import Path\nfrom rft_jax.config.overrides import read_config\n"
        f"def get_config():\n    return read_config(Path({str(stored)!r}))\n"
    )
    command = ["train", "--config", str(file), "--workdir", str(tmp_path / "run")]
    assert entry.main([*command, "--config.stages.distill.teacher=tutor"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "stages.distill.teacher: 'tutor' is not an earlier stage" in said[0]


def test_a_plan_refuses_what_it_does_not_count(config):
    with pytest.raises(InputError, match="stages.distill: the weights of its teacher are in no pl"):
        estimate_plan(config, parse_topology("v5e:1x1"))


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("distill", 2), ("sdft", 3)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    stage, step, config, finished, tmp_path, monkeypatch
):
    config = dataclasses.replace(config, grader="")

    class Killed(BaseException):
        """Stands for a signal that ends the process."""

    write = MetricsFile.write

    def stop(self, row):
        if row["stage"] == stage and row["step"] == step:
            raise Killed
        write(self, row)

    monkeypatch.setattr(MetricsFile, "write", stop)
    with pytest.raises(Killed):
        train(config, tmp_path)
    monkeypatch.undo()
    train(config, tmp_path)
    for name in ("distill", "sdft"):
        assert rows(tmp_path, name) == rows(finished, name)
    jax.tree.map(np.testing.assert_array_equal, weights(tmp_path), weights(finished))


@pytest.mark.slow
def test_a_teacher_of_another_run_stays_the_one_with_which_the_stage_began(
    config, finished, tmp_path
):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    stage = dataclasses.replace(DISTILL, teacher=str(other / "larger_sft"), eval_interval=0)
    tokenizer = TokenizerConfig(path=str(other / "tokenizer.model"))
    short = with_stages(config, dataclasses.replace(stage, steps=2), tokenizer=tokenizer)
    train(short, tmp_path / "run")
    assert json.loads((tmp_path / "run/distill/teacher.json").read_text()) == {"step": 6}
    whole = with_stages(config, stage, tokenizer=tokenizer)
    train(whole, tmp_path / "whole")
    train(whole, tmp_path / "run")  # is made longer
    assert rows(tmp_path / "run", "distill") == rows(tmp_path / "whole", "distill")
    jax.tree.map(
        np.testing.assert_array_equal, weights(tmp_path / "run"), weights(tmp_path / "whole")
    )
