"""Training end to end on a smaller claims example: stages, resuming, evaluation, sampling."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from rft_jax.commands import entry
from rft_jax.config import EvalStage
from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.logging.metrics import MetricsFile
from rft_jax.runs.reopen import open_model
from rft_jax.stages.rl import truncation_warning
from rft_jax.training import train
from rft_jax.utils.errors import InputError
from rft_jax.utils.metrics_file import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_once")

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "jsonl.py")
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "stages.sft.steps": "12",
    "stages.sft.optimizer.warmup_steps": "2",
    "stages.sft.checkpoint_interval": "4",
    "stages.sft.eval_interval": "6",
    "stages.rft.steps": "4",
    "stages.rft.optimizer.warmup_steps": "1",
    "stages.rft.batch_size": "8",
    "stages.rft.checkpoint_interval": "2",
    "stages.rft.eval_interval": "2",
    "stages.rft.eval_samples": "1",
    "stages.rft.samples_interval": "2",
    "stages.rft.rollout.group_size": "2",
    "stages.rft.rollout.max_completion_tokens": "40",
}


AUDIT = {
    "type": "string_check",
    "name": "named",
    "operation": "ilike",
    "input": "{{sample.output_text}}",
    "reference": "{{item.decision}}",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    config = apply_overrides(load_config(EXPERIMENT, {}), SMALL)
    held_out = tmp_path_factory.mktemp("held_out") / "held_out.jsonl"
    lines = Path(config.data.supervised).read_text().splitlines()[:3]
    held_out.write_text("\n".join(line.replace("EUR", "CHF") for line in lines))
    config = apply_overrides(config, {"stages.sft.valid": str(held_out)})
    return dataclasses.replace(config, audit_grader=AUDIT)


@pytest.fixture(scope="module")
def compared(config, tmp_path_factory):
    """The same with a comparison at its end, of both and of answers from elsewhere."""
    items = tmp_path_factory.mktemp("items") / "items.jsonl"
    items.write_text(Path(config.data.valid).read_text())
    answer = {"output_text": '{"decision": "deny", "reason": "late"}'}
    items.with_suffix(".always.jsonl").write_text(f"{json.dumps(answer)}\n" * 100)
    stage = EvalStage(
        name="both",
        models=("sft", "rft"),
        data=str(items),
        baselines=("always",),
        samples=2,
        cluster_by="decision",
        macro_by="reason",
    )
    greedy = EvalStage(name="greedy", models=("rft",), samples=2, temperature=0.0, cases=100)
    return dataclasses.replace(config, stages=(*config.stages, greedy, stage))


@pytest.fixture(scope="module")
def finished(compared, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    train(compared, workdir)
    return workdir


def weights(workdir):
    run, stage, step = open_model(workdir)
    return jax.device_get(run.load_params(stage, step))


def rows(workdir, stage):
    """The metrics without wall-clock fields."""
    found = read_metrics(workdir / stage / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "timing"} for row in found]


def test_every_step_has_a_line_and_evaluations_have_theirs(finished):
    assert [row["step"] for row in rows(finished, "sft")] == list(range(13))
    lines = rows(finished, "rft")
    assert [row["step"] for row in lines] == [0, 1, 2, 3, 4]
    validated = [row for row in lines if "valid_reward_mean" in row]
    assert [row["step"] for row in validated] == [0, 2, 4]
    for row in validated:
        low, high = row["valid_reward_mean_low"], row["valid_reward_mean_high"]
        assert low <= row["valid_reward_mean"] <= high
    losses = [row["train_loss"] for row in rows(finished, "sft")[1:]]
    assert losses[-1] < losses[0] - 0.5


def test_a_supervised_stage_has_the_loss_of_what_is_held_out(finished):
    found = {row["step"]: row for row in rows(finished, "sft") if "valid_loss" in row}
    assert list(found) == [0, 6, 12]
    assert found[12]["valid_loss"] < found[6]["valid_loss"] < found[0]["valid_loss"]
    assert all(0 <= row["valid_mean_token_accuracy"] <= 1 for row in found.values())


def test_nothing_compiles_after_the_first_evaluated_step(finished):
    counts = {
        row["step"]: row["timing"]["compilations"] + row["timing"]["compilations_cached"]
        for row in read_metrics(finished / "rft" / "metrics.jsonl")
    }
    assert counts[0] < counts[1] == counts[2] == counts[4]


def test_a_comparison_has_the_temperature_that_it_asks_for(finished):
    def answers_differ(stage):
        lines = (finished / stage / "cases.jsonl").read_text().splitlines()
        answers = [row["answer"] for row in map(json.loads, lines) if row["model"] == "rft"]
        return any(one != other for one, other in zip(answers[::2], answers[1::2], strict=True))

    assert answers_differ("both") and not answers_differ("greedy")


def test_a_stage_compares_models_once(compared, finished, monkeypatch):
    results = json.loads((finished / "results.json").read_text())
    assert {"seed", "wall_s", "peak_rss_bytes"} <= results.keys()
    both = results["evaluations"]["both"]
    assert both["cases"] == 100 and both["samples"] == 2
    assert list(both["models"]) == ["sft", "rft", "always"]
    for row in both["models"].values():
        low, high = row["intervals"]["reward_mean"]
        assert low <= row["reward_mean"] <= high
        assert low < high or row["reward_mean"] == 0
    items = [json.loads(line) for line in Path(compared.stages[-1].data).read_text().splitlines()]
    score = [0.6 * (i["decision"] == "deny") + 0.4 * (i["reason"] == "late") for i in items]
    always = both["models"]["always"]
    assert always["reward_mean"] == pytest.approx(np.mean(score))
    of_reason = {i["reason"]: [] for i in items}
    for item, found in zip(items, score, strict=True):
        of_reason[item["reason"]].append(found)
    means = [np.mean(found) for found in of_reason.values()]
    assert always["macro_reward_mean"] == pytest.approx(np.mean(means))
    pair = next(pair for pair in both["paired"] if pair["metric"] == "reward_mean")
    assert (pair["a"], pair["b"]) == ("rft", "sft")
    difference = both["models"]["rft"]["reward_mean"] - both["models"]["sft"]["reward_mean"]
    assert pair["difference"] == pytest.approx(difference)
    assert "both" in (finished / "report.html").read_text()
    lines = (finished / "both" / "cases.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines]
    assert len(cases) == 24 * (2 + 2 + 1)
    assert [case["model"] for case in cases[:5]] == ["sft", "sft", "rft", "rft", "always"]
    assert len({json.dumps(case["prompt"]) for case in cases[:5]}) == 1
    first = cases[0]
    assert first["prompt"][-1]["role"] == "user" and 0 <= first["reward"] <= 1
    assert {"thought", "answer", "scores", "errors", "stop_reason"} <= first.keys()
    monkeypatch.setattr("rft_jax.stages.comparison.evaluate_models", None)
    train(compared, finished)


def test_samples_are_written_for_people(finished):
    lines = (finished / "rft" / "samples" / "step_000004.jsonl").read_text().splitlines()
    assert len(lines) == 16
    sample = json.loads(lines[0])
    assert sample["prompt"][0]["role"] == "user"
    assert {"thought", "answer", "reward", "scores", "errors", "stop_reason"} <= sample.keys()


def test_an_audit_looks_at_the_validation_samples(finished, capsys):
    validated = [row for row in rows(finished, "rft") if "valid_reward_mean" in row]
    for row in validated:
        assert row["valid_audit/valid_fraction"] == 1
        audit, reward = row["valid_audit/reward_mean"], row["valid_reward_mean"]
        assert row["valid_audit/difference"] == pytest.approx(reward - audit)
        path = finished / "rft" / "audit" / f"step_{row['step']:06d}.jsonl"
        shown = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(shown) <= 12
        for sample in shown:  # the grader that audits asks whether the decision is named
            named = sample["audit"] == 1
            assert named == (json.loads(sample["expected"])["decision"] in sample["answer"].lower())
            assert sample["audit"] != sample["reward"] and sample["prompt"]
        gaps = [abs(sample["reward"] - sample["audit"]) for sample in shown]
        assert gaps == sorted(gaps, reverse=True)
    assert json.loads((finished / "audit_grader.json").read_text()) == AUDIT
    inputs = json.loads((finished / "inputs.json").read_text())
    assert "grader" in inputs and "audit_grader" not in inputs  # it was no file
    assert entry.main(["show", "--workdir", str(finished)]) == 0
    text = capsys.readouterr().out
    assert "Audit of validation" in text and "audit/reward_mean" in text
    assert ("differ most at step 4" in text) == bool(shown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"audit_grader": {"type": "nothing"}}, "nothing"),
        ({"audit_grader": AUDIT | {"reference": "{{item.nothing}}"}}, "valid.jsonl, line 1"),
        ({"audit_grader": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"audit_grader": AUDIT, "eval_interval": 0}, "audit_grader: .* set data.valid"),
        ({"grader": AUDIT, "audit_grader": AUDIT}, "agree with itself"),
    ],
)
def test_an_audit_that_cannot_be_is_refused(settings, message, config, tmp_path):
    rft = dataclasses.replace(config.stages[-1], eval_interval=settings.pop("eval_interval", 2))
    changed = dataclasses.replace(config, stages=(*config.stages[:-1], rft), **settings)
    with pytest.raises(InputError, match=message):
        train(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Killed(BaseException):
    """Stands for a signal that ends the process."""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "step"), [("sft", 7), ("rft", 1), ("rft", 3)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    stage, step, config, finished, tmp_path, monkeypatch
):
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
    for name in ("sft", "rft"):
        assert rows(tmp_path, name) == rows(finished, name)
    jax.tree.map(np.testing.assert_array_equal, weights(tmp_path), weights(finished))


@pytest.mark.slow
def test_dynamic_sampling_goes_on_from_its_cursor(config, finished, tmp_path, monkeypatch):
    rft = dataclasses.replace(
        config.stages[-1],
        steps=3,
        init=f"{finished}/sft",
        max_resample_batches=3,
        checkpoint_interval=1,
    )
    tokenizer = dataclasses.replace(config.tokenizer, path=f"{finished}/tokenizer.model")
    config = dataclasses.replace(config, stages=(rft,), tokenizer=tokenizer)
    train(config, tmp_path / "whole")
    sampled = [row["train_sampled_prompts"] for row in rows(tmp_path / "whole", "rft")[1:]]
    assert set(sampled) <= {8, 16, 24} and max(sampled) > 8

    def stop(self, row):
        if row["step"] == 3:
            raise Killed
        write(self, row)

    write = MetricsFile.write
    monkeypatch.setattr(MetricsFile, "write", stop)
    with pytest.raises(Killed):
        train(config, tmp_path / "stopped")
    monkeypatch.undo()
    train(config, tmp_path / "stopped")
    assert rows(tmp_path / "stopped", "rft") == rows(tmp_path / "whole", "rft")
    jax.tree.map(
        np.testing.assert_array_equal, weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_resample_batches": "2"}, r"stages\.rft\.max_resample_batches: .* needs the host"),
        (
            {"async_rollout": "True", "policy_loss.importance": "tis"},
            r"stages\.rft\.async_rollout: .* nothing",
        ),
    ],
)
def test_what_does_not_go_with_the_grader_s_place_is_refused(settings, message, config, tmp_path):
    settings = {f"stages.rft.{name}": value for name, value in settings.items()}
    placement = "host" if "max_resample_batches" in message else "device"
    config = apply_overrides(config, settings | {"placement": placement})
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_commands_read_a_work_directory(finished, capsys, monkeypatch):
    assert entry.main(["eval", "--workdir", str(finished), "--num-samples", "1"]) == 0
    shown = capsys.readouterr()
    summary = json.loads(shown.out)
    assert summary["items"] == 100 and 0 <= summary["reward_mean"] <= 1
    assert summary["intervals"]["reward_mean"][0] <= summary["reward_mean"]
    assert "the checkpoint of the best validation" in shown.err
    assert (finished / "evaluation.html").exists()

    monkeypatch.setattr("rft_jax.runs.grader.run_grader", None)  # which a sample does not need
    command = ["sample", "--model", f"{finished}/sft", "--prompt", "broken ski", "--n", "2"]
    assert entry.main([*command, "--temperature", "0", "--max-tokens", "9"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == second  # greedy
    assert len(first["token_ids"]) <= 9 and first["stop_reason"] in ("stop", "length")

    sizes = ["--prompt", "8", "--completion", "8", "--prompts", "8", "--group", "2"]
    assert entry.main(["bench", "--model", str(finished), *sizes, "--steps", "3"]) == 0
    timing = json.loads(capsys.readouterr().out)
    assert timing["step_s"] > 0 and timing["completion"] == 8
    assert {"rollout_s", "grade_s", "update_s", "peak_memory_bytes", "devices"} <= timing.keys()


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "out"
    command = ["export", "--workdir", str(finished), "--format", "hf", "--out", str(out)]
    assert entry.main(command) == 0
    return out


def test_an_export_is_sampled_as_its_run(finished, exported, capsys):
    files = {path.name: path for path in exported.iterdir()}
    assert files.keys() == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "rft_jax.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in files.values()}) == 1
    card = files["README.md"].read_text()
    assert "trained from scratch" in card and "| valid_reward_mean |" in card
    table = [line for line in card.splitlines() if line.startswith("| valid_")]
    assert all("_reward_mean" in line or not line.endswith("| 0 | 0 |") for line in table)
    capsys.readouterr()
    lines = []
    for model in (finished, exported):
        prompt = ["--prompt", "broken ski", "--n", "3", "--seed", "4"]
        assert entry.main(["sample", "--model", str(model), *prompt]) == 0
        found = map(json.loads, capsys.readouterr().out.splitlines())
        # Bytes that are no UTF-8, which this model writes, decode otherwise.
        lines.append([(line["token_ids"], line["stop_reason"]) for line in found])
    assert lines[0] == lines[1] and len(lines[0]) == 3


@pytest.mark.slow
def test_an_export_is_evaluated_as_its_run(finished, exported, tmp_path, capsys):
    models = ["--model", str(finished), "--model", str(exported)]
    assert entry.main(["eval", *models, "--html", str(tmp_path / "table.html")]) == 0
    ours, theirs, *paired = map(json.loads, capsys.readouterr().out.splitlines())
    assert theirs["reward_mean"] == ours["reward_mean"] and paired


def test_a_model_that_cannot_be_opened_says_what_to_name(config, finished, tmp_path):
    with pytest.raises(InputError, match="on Hugging Face, write hf:Qwen/Qwen3-0.6B$"):
        open_model(Path("Qwen/Qwen3-0.6B"))
    with pytest.raises(InputError, match="nor a stage or a checkpoint of one; correct the path$"):
        open_model(tmp_path / "no" / "run")
    cut = tmp_path / "cut"
    cut.mkdir()
    shutil.copyfile(finished / "config.json", cut / "config.json")
    for path in (cut, cut / "sft"):
        with pytest.raises(InputError, match="tokenizer.model: the file is missing, .*; copy the"):
            open_model(path)
    shutil.copyfile(finished / "tokenizer.model", cut / "tokenizer.model")
    run, stage, step = open_model(cut)
    with pytest.raises(InputError, match="rft/checkpoints: no checkpoint yet; let `rft train`"):
        run.load_params(stage, step)
    shutil.copytree(finished / "sft", cut / "sft")
    with pytest.raises(InputError, match=f"no checkpoint yet; wait for one, or use {cut}/sft, whi"):
        run.load_params(stage, step)


def test_truncated_sampling_is_warned_of_with_its_remedy(config):
    *_, stage = config.stages
    assert not stage.rollout.truncates
    for change in ({"top_k": 5}, {"top_p": 0.9}):
        rollout = dataclasses.replace(stage.rollout, **change)
        loss = dataclasses.replace(stage.policy_loss, importance="none")
        truncated = dataclasses.replace(stage, rollout=rollout, policy_loss=loss)
        assert truncated.rollout.truncates
        warning = truncation_warning(truncated)
        assert warning.startswith("warning: stages.rft.rollout: ") and "\n" not in warning
        assert warning.endswith("set stages.rft.policy_loss.importance=tis to correct for it")
        loss = dataclasses.replace(stage.policy_loss, importance="tis")
        assert "tis" not in truncation_warning(dataclasses.replace(truncated, policy_loss=loss))


@pytest.mark.slow
def test_a_stage_can_start_from_another_run(config, finished, tmp_path):
    settings = {
        "stages.rft.init": f"{finished}/sft",
        "tokenizer.path": f"{finished}/tokenizer.model",
        "stages.sft.steps": "11",
        "stages.rft.steps": "2",
    }
    train(apply_overrides(config, settings), tmp_path)
    assert rows(tmp_path, "rft")[0] == rows(finished, "rft")[0]  # the same weights, evaluated


@pytest.mark.slow
def test_a_run_learns_from_a_judge_on_the_device(config, finished, tmp_path):
    judge = {
        "type": "score_model",
        "model": f"device:{finished}/sft/checkpoints/12",
        "input": [{"role": "user", "content": "{{item.decision}}: {{sample.output_text}}"}],
        "scale": [1, 5],
    }
    rft = dataclasses.replace(config.stages[-1], steps=2, init="")
    tokenizer = dataclasses.replace(config.tokenizer, path=str(finished / "tokenizer.model"))
    config = dataclasses.replace(config, grader=judge, stages=(rft,), tokenizer=tokenizer)
    train(config, tmp_path / "run")
    lines = rows(tmp_path / "run", "rft")
    assert all(0 < line["train_reward_mean"] < 1 for line in lines[1:])
    assert 0 < lines[-1]["train_details/score_model/verdict_probability"] <= 1
    other = dataclasses.replace(config, tokenizer=dataclasses.replace(tokenizer, path=""))
    with pytest.raises(InputError, match="score_model: the judge .* has another tokenizer"):
        train(other, tmp_path / "other")
