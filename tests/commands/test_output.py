"""What commands print and how they end: statuses for scripts, tables for people, JSON lines."""

import io
import json
import sys

import pytest

import rft_jax
from rft_jax.commands import entry, grade, output, validate
from rft_jax.config.help import settings_text
from rft_jax.evaluation import grading, sample
from rft_jax.runs import reopen
from rft_jax.utils.errors import InputError


def refusal(capsys, *arguments):
    """The one sentence with which a command refuses."""
    try:
        status = entry.main(arguments)
    except SystemExit as stopped:  # argparse's
        status = stopped.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == "" and "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


PROBES = {"nothing": {"mean": 0.0, "min": 0.0, "max": 0.0}}


@pytest.mark.parametrize(
    ("failures", "probe", "status", "said"),
    [
        ({}, {"mean": 0.5, "min": 0.0, "max": 1.0}, 0, ""),
        ({}, {"mean": None, "min": None, "max": None}, 0, ""),
        ({}, {"mean": 0.5, "min": 0.0, "max": 2.0}, 1, "leave the range 0 .. 1 (right)"),
        ({}, {"mean": 0.5, "min": -1.0, "max": 1.0}, 1, "leave the range 0 .. 1 (right)"),
        ({"other_error": 3}, {"mean": 0.5, "min": 0.0, "max": 1.0}, 1, "(other_error 3)"),
    ],
)
def test_validate_guards_a_script(monkeypatch, capsys, failures, probe, status, said):
    summary = {"items": 3, "probes": PROBES | {"right": probe}, "failures": failures}
    monkeypatch.setattr(grading, "validate_files", lambda *_: (summary, []))
    assert entry.main(["validate", "--grader", "g.json", "--data", "d.jsonl"]) == status
    captured = capsys.readouterr()
    assert json.loads(captured.out) == summary | {"warnings": []} and said in captured.err
    monkeypatch.setattr(validate, "on_terminal", lambda: True)
    assert entry.main(["validate", "--grader", "g.json", "--data", "d.jsonl"]) == status
    assert "right" in (out := capsys.readouterr().out) and "{" not in out


def graded(item, reward, valid, *errors):
    metadata = {"valid": valid, "errors": dict.fromkeys(errors, True)}
    return {"item": item, "reward": reward, "sub_rewards": {"part": reward}, "metadata": metadata}


@pytest.mark.parametrize(
    ("errors", "status"), [(["sample_parse_error"], 0), (["python_grader_runtime_error"], 1)]
)
def test_grade_guards_a_script_and_tells_item_and_mean(
    monkeypatch, capsys, tmp_path, errors, status
):
    lines = [graded(2, 1.0, True), graded(1, 0.5, True), graded(3, 0.0, False, *errors)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps({"output_text": f"a {n}\nb"}) + "\n" for n in range(3)))
    monkeypatch.setattr(grading, "grade_files", lambda *_: iter(lines))
    command = ["grade", "--grader", "g", "--data", "d", "--answers", str(answers)]
    assert entry.main(command) == status
    captured = capsys.readouterr()
    assert [json.loads(line) for line in captured.out.splitlines()] == lines
    assert "mean reward 0.7500 over 2 of 3 answers" in captured.err
    assert (errors[0] in captured.err) == bool(status)
    monkeypatch.setattr(grade, "on_terminal", lambda: True)
    assert entry.main(command) == status
    rows = capsys.readouterr().out.splitlines()
    assert any(row.split()[:3] == ["2", "1", "1"] and "a 0 b" in row for row in rows)
    assert any(errors[0] in row for row in rows)


def test_json_lines_are_ascii_where_the_stream_is(monkeypatch):
    for encoding in ("ascii", "latin-1", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        output.print_json(value := {"text": "é – \ud800"})
        monkeypatch.undo()
        stream.flush()
        assert json.loads(stream.buffer.getvalue()) == value


def test_what_is_misspelled_is_told(capsys):
    assert "there is no command 'trian'; did you mean train?" in refusal(capsys, "trian")
    assert "use one of quickstart, train" in refusal(capsys, "xyz")
    assert "there is no option --confg; did you mean --config?" in refusal(
        capsys, "train", "--confg", "claims", "--workdir", "x"
    )
    assert "there is no option --confg.seed; did you mean --config.seed?" in refusal(
        capsys, "train", "--config", "claims", "--confg.seed=1", "--workdir", "x"
    )
    command = "train", "--config", "claims", "--workdir", "x"
    for given, meant in (
        ("--stages.rft.steps=3", "stages.rft.steps"),
        ("stages.rft.steps=3", "stages.rft.steps"),
        ("--seed=3", "seed"),
        ("--learning-rate=1e-5", "stages.NAME.optimizer.learning_rate"),
        ("actor_rollout_ref.rollout.n=8", "stages.NAME.rollout.group_size"),
    ):
        assert f"did you mean --config.{meant}?" in refusal(capsys, *command, given)
    sentence = refusal(capsys, *command, "--config.stages.rft.step=3")
    assert "there is no setting 'step'; did you mean steps? known here: name" in sentence
    sentence = refusal(
        capsys, "plan", "--config", "claims", "--topology", "rtx4900:1", "--estimate"
    )
    assert "did you mean rtx4090? it begins with" in sentence
    with pytest.raises(SystemExit) as stopped:
        entry.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"rft_jax {rft_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--search", "--topology", "v5e", "--compile", "-1"], "--compile: must be at least 1"),
        (["--search", "--topology", "v5e", "--compile", "2", "--estimate"], "leave one out"),
        (["--topology", "v5e:2x2", "--compile", "2"], "--compile: is for --search"),
        (["--search"], "--search: needs --topology"),
        (["--topology", "v5e:3x3", "--estimate"], "offered in some shapes; use one of v5e:1x1"),
    ],
)
def test_what_a_plan_cannot_do_is_told(arguments, said, capsys):
    assert said in refusal(capsys, "plan", "--config", "claims", *arguments)


@pytest.mark.parametrize("search", [[], ["--search"]])
def test_a_plan_that_does_not_fit_fails(search, capsys):
    command = ["plan", "--config", "experiments/plans.py:llama-3-70b", "--topology", "v5e:2x2"]
    command += ["--estimate", *search, "--config.mesh.fsdp=1", "--config.mesh.tensor=4"]
    assert entry.main(command) == 1
    assert "fit" in capsys.readouterr().err
    assert entry.main([*command, "--no-fail"]) == 0


def test_help_has_the_values_that_are_allowed():
    text = " ".join(settings_text().split())
    assert "one of group_mean, leave_one_out, max_at_k, or module:name" in text
    assert "one of ppo_clip, gspo, cispo, sapo, dppo_tv, dppo_kl, reinforce, or module:name" in text
    assert "one of adamw, muon" in text and "one of auto, xla, triton" in text
    assert "--config.models.NAME.lora.rank=16" in text
    assert "any of q_proj, k_proj" in text


def test_bad_arguments_are_told_before_the_work(tmp_path, capsys):
    file = tmp_path / "train.jsonl"
    file.write_text("{}\n")
    assert "train.jsonl: not a work directory" in refusal(capsys, "show", "--workdir", str(file))
    (tmp_path / "config.json").write_text('{"stages": [')
    sentence = refusal(capsys, "show", "--workdir", str(tmp_path))
    assert "config.json: cannot be read as a run's configuration" in sentence
    twice = refusal(capsys, "eval", "--model", "a", "--model", "b", "--model", "a")
    assert "--model: a is named twice" in twice
    sentence = refusal(capsys, "eval", "--model", "a", "--html", "/nope/x.html")
    assert "/nope/x.html: cannot be written (there is no folder /nope)" in sentence
    sentence = refusal(capsys, "sample", "--model", "a", "--data", "https://example.com/x.jsonl")
    assert "https://example.com/x.jsonl: is a URL; download" in sentence
    sentence = refusal(capsys, "sample", "--model", "a", "--messages", "hello")
    assert "--messages: is not JSON" in sentence
    sentence = refusal(capsys, "bench", "--model", "a", "--group", "1")
    assert "--group: must be at least 2, got 1" in sentence


def test_variables_that_jax_cannot_use_are_told(monkeypatch, capsys):
    for value in ("abc", "0", ""):
        monkeypatch.setenv("JAX_NUM_CPU_DEVICES", value)
        sentence = refusal(capsys, "show", "--workdir", "x")
        assert f"JAX_NUM_CPU_DEVICES: {value!r} is no number from 1" in sentence


USER = {"role": "user", "content": "broken ski"}


def test_a_system_message_stands_before_the_conversation():
    item = {"messages": [USER], "tools": []}
    system = {"role": "system", "content": "Be brief."}
    assert sample._with_system(item, "", "x") == item
    assert sample._with_system(item, "Be brief.", "x") == item | {"messages": [system, USER]}
    with pytest.raises(InputError, match="x: has a system message of its own"):
        sample._with_system({"messages": [system, USER]}, "Be brief.", "x")
    with pytest.raises(InputError, match="x: is not UTF-8"):
        sample._with_system({"messages": [{"role": "user", "content": "\ud800"}]}, "", "x")
    with pytest.raises(InputError, match="the last message is the assistant's"):
        sample._with_system({"messages": [USER, {"role": "assistant", "content": ""}]}, "", "x")


def test_the_best_checkpoint_is_taken_where_a_validation_chose_one(tmp_path, monkeypatch, capsys):
    run = type("Run", (), {"checkpoints": lambda self, stage: tmp_path / stage})()
    for stage, rewards in {"rft": {20: 0.3, 40: 0.6, 60: 0.5}, "sft": {7: None}}.items():
        for step, reward in rewards.items():
            folder = tmp_path / stage / str(step) / "metrics"
            folder.mkdir(parents=True)
            if reward is not None:
                (folder / "metrics").write_text(json.dumps({"valid_reward_mean": reward}))
    found = {
        "rft": reopen.OpenModel(run, "rft", None),
        "exact": reopen.OpenModel(run, "rft", 60),
        "sft": reopen.OpenModel(run, "sft", None),
    }
    monkeypatch.setattr(reopen, "open_model", lambda path: found[path])
    assert [reopen.open_best(name).step for name in found] == [40, 60, None]
    assert capsys.readouterr().err.startswith("rft: step 40, the checkpoint of the best validation")
