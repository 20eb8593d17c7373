"""The command line: bad input gets one sentence and status 2, before anything is compiled."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from rft_jax import training  # noqa: F401  imported before jax.jit is replaced
from rft_jax.commands import entry  # noqa: F401  imported before jax.jit is replaced
from rft_jax.config.load import load_config
from rft_jax.config.overrides import to_json
from rft_jax.config.validate import validate
from rft_jax.runs.workdir import check_same
from rft_jax.utils.errors import InputError

REPOSITORY = Path(__file__).parents[2]
CLAIMS = REPOSITORY / "experiments" / "claims"
EXPERIMENT = str(REPOSITORY / "experiments" / "jsonl.py")
OPEN_MODELS = str(REPOSITORY / "experiments" / "open_models.py")


@pytest.fixture
def claims(tmp_path):
    """A copy of the example's data."""
    return Path(shutil.copytree(CLAIMS, tmp_path / "claims"))


def test_an_experiment_that_fails_is_named_with_its_line(refuse, tmp_path, monkeypatch):
    (tmp_path / "bad.py").write_text("import json\n\nundefined\n")
    monkeypatch.chdir(tmp_path)
    sentence = refuse(experiment="bad.py")
    assert "bad.py: failed at line 3 (NameError: name 'undefined' is not defined)" in sentence


def test_every_variant_of_an_experiment_is_valid(refuse):
    variants = ["jsonl", "rare_disease"], ["qwen3-0.6b", "qwen3-4b-lora", "gemma-3-1b"]
    for job, model in itertools.product(*variants):
        config = load_config(f"{OPEN_MODELS}:{job}/{model}", {"stages.rft.steps": "7"})
        validate(config)
        assert config.name == job and config.stages[-1].steps == 7
    sentence = refuse(experiment=f"{OPEN_MODELS}:jsonl/gpt")
    assert "jsonl/gpt: expected one of rare_disease, jsonl, perils" in sentence


def files(workdir):
    """All but the lock."""
    return sorted(path for path in workdir.rglob("*") if path.name != ".lock")


@pytest.fixture
def refuse(tmp_path, capsys, monkeypatch):
    """Runs `rft train`, which must refuse; returns its sentence."""

    def run(*settings, experiment=EXPERIMENT):
        monkeypatch.setattr("jax.jit", no_compilation)
        workdir = tmp_path / "run"
        there, before = workdir.exists(), files(workdir)
        status = entry.main(["train", "--config", experiment, "--workdir", str(workdir), *settings])
        captured = capsys.readouterr()
        assert status == 2 and captured.out == ""
        *progress, sentence = captured.err.splitlines()
        assert sentence.startswith("rft train: ") and "Traceback" not in captured.err
        assert files(workdir) == before and workdir.exists() == there
        return sentence

    return run


def no_compilation(*_, **__):
    raise AssertionError("compiled before the input was checked")


def edit(path, line, change):
    lines = path.read_bytes().split(b"\n")
    lines[line - 1] = change(lines[line - 1])
    path.write_bytes(b"\n".join(lines))
    return f"--config.data.{path.stem}={path}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line[:-9], "line 3: not JSON"),
        (lambda line: line.replace(b"broken", b"br\xffken").replace(b"c", b"\xe9"), "not UTF-8"),
        (lambda line: b'{"prompt": "x"}', "line 3: messages: is missing"),
        (lambda line: line.replace(b'"reason"', b'"raison"'), "reason"),
        (lambda line: line.replace(b"reported", b"reported " * 60), "the limit is 64"),
    ],
    ids=["json", "utf-8", "messages", "template", "length"],
)
def test_a_bad_line_is_named_with_file_and_line(change, said, claims, refuse):
    path = claims / "train.jsonl"
    sentence = refuse(edit(path, 3, change))
    assert str(path) in sentence and "line 3" in sentence and said in sentence


def test_a_missing_file_is_named(refuse):
    assert "nowhere.jsonl: there is no such file" in refuse("--config.data.train=nowhere.jsonl")
    assert "nowhere.json" in refuse("--config.grader=nowhere.json")
    assert "nowhere.py: there is no such" in refuse(experiment="nowhere.py")


def test_a_response_format_that_cannot_be_kept_is_named(refuse, tmp_path):
    setting = "--config.stages.rft.rollout.response_format"
    assert "nowhere.json: there is no such file" in refuse(f"{setting}=nowhere.json")
    assert "rollout.response_format.oneOf: is not" in refuse(
        setting + "={'oneOf': [], 'enum': [1]}"
    )
    few = "--config.stages.rft.rollout.max_completion_tokens=40"
    sentence = refuse(f"{setting}={CLAIMS / 'response_format.json'}", few)
    assert "rollout.max_completion_tokens: 40 are too few for the response format" in sentence


def test_a_row_in_both_files_is_named_with_both_lines(claims, refuse):
    row = (claims / "train.jsonl").read_text().splitlines()[4]
    with (claims / "valid.jsonl").open("a") as file:
        file.write(row + "\n")
    sentence = refuse(
        f"--config.data.train={claims}/train.jsonl", f"--config.data.valid={claims}/valid.jsonl"
    )
    assert "valid.jsonl, line 101" in sentence and "train.jsonl, line 5" in sentence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"type": "vibes"}, "vibes"),
        ({"calculate_output": "decision + raison"}, "raison"),
        ({"calculate_output": "decision +"}, "calculate_output"),
        ({"graders": {"type": "string_check", "name": "x"}}, "graders"),
    ],
    ids=["type", "name", "syntax", "bare"],
)
def test_a_bad_grader_is_named_with_its_path(change, said, claims, refuse):
    grader = json.loads((claims / "grader.json").read_text()) | change
    (claims / "grader.json").write_text(json.dumps(grader))
    assert said in refuse(f"--config.grader={claims}/grader.json")


def test_an_unknown_operation_is_named_with_its_path(claims, refuse):
    grader = json.loads((claims / "grader.json").read_text())
    grader["graders"]["reason"]["operation"] = "neq"
    (claims / "grader.json").write_text(json.dumps(grader))
    sentence = refuse(f"--config.grader={claims}/grader.json")
    assert "graders.reason.operation" in sentence and "neq" in sentence


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("stages.rft.rollout.group_size=1", "use at least 2"),
        ("stages.rft.batch_size=12", "12 cannot be split over data x fsdp = 8 devices"),
        ("mesh.tensor=3", "does not fit"),
        ("stages.rft.rollout.color=red", "there is no setting 'color'"),
        ("stages.rft.num_generations=4", "call so is stages.rft.rollout.group_size here"),
        ("stages.rft.policy_loss.beta=0", "call so is stages.rft.policy_loss.kl_coefficient here"),
        ("stages.sft.gradient_accumulation_steps=2", "did you mean gradient_accumulation?"),
        ("actor_rollout_ref.rollout.n=4", "call so is stages.NAME.rollout.group_size here"),
        ("stages.rft.init=nothing", "is not an earlier stage"),
        ("stages.rft.init=/nowhere/rft", "not a work directory"),
        ("stages.rft.init=hf:Owner/Name", "set models.policy.source=hf:Owner/Name, and leave init"),
    ],
)
def test_a_bad_setting_is_named(setting, said, refuse):
    assert said in refuse(f"--config.{setting}")


def test_a_work_directory_of_another_configuration_is_refused(tmp_path, refuse):
    workdir = tmp_path / "run"
    workdir.mkdir()
    config = load_config(EXPERIMENT, {"seed": "7"})
    (workdir / "config.json").write_text(json.dumps(to_json(config)))
    sentence = refuse()
    assert "another configuration (seed: 7 -> 0)" in sentence


def test_what_changes_no_more_than_rounding_may_differ_when_a_run_goes_on(tmp_path):
    stored = tmp_path / "config.json"
    config = load_config(EXPERIMENT, {"models.policy.attention": "xla", "mesh.data": "1"})
    stored.write_text(json.dumps(to_json(config)))
    check_same(stored, load_config(EXPERIMENT, {"models.policy.remat": "dots"}))
    with pytest.raises(InputError, match="models.policy.num_layers"):
        check_same(stored, load_config(EXPERIMENT, {"models.policy.num_layers": "1"}))


def test_models_that_are_not_there_are_refused(tmp_path, capsys):
    for command in (["eval"], ["sample", "--prompt", "x"]):
        assert entry.main([*command, "--workdir", str(tmp_path)]) == 2
        assert "not a work directory" in capsys.readouterr().err
    assert entry.main(["bench", "--model", str(tmp_path)]) == 2
    assert "not a work directory" in capsys.readouterr().err


def test_usage_errors_have_status_2(capsys):
    for arguments in ([], ["train"], ["fly"], ["sample", "--workdir", "x"]):
        with pytest.raises(SystemExit) as stopped:
            entry.main(arguments)
        assert stopped.value.code == 2


def test_an_interrupt_before_there_is_anything_to_save_is_no_traceback(monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("rft_jax.commands.quickstart.apply_overrides", interrupt)
    assert entry.main(["quickstart"]) == 130
    assert capsys.readouterr().err == "rft quickstart: interrupted\n"
