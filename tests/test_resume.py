"""A run survives what happens to processes, disks and files."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from rft_jax.commands import entry
from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.logging.metrics import MetricsFile
from rft_jax.runs.prepare import open_run
from rft_jax.runs.reopen import open_model
from rft_jax.runs.warm_start import load_init
from rft_jax.runs.workdir import lock_workdir
from rft_jax.stages import STAGE_TYPES
from rft_jax.training import train
from rft_jax.utils.errors import InputError, Interrupted, RunFailed
from rft_jax.utils.metrics_file import read_metrics

pytestmark = pytest.mark.usefixtures("compiled_once")

EXPERIMENT = str(Path(__file__).parents[1] / "experiments" / "jsonl.py")
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "tensorboard": "False",
    "stages.sft.steps": "8",
    "stages.sft.optimizer.warmup_steps": "2",
    "stages.sft.checkpoint_interval": "1",
    "stages.rft.steps": "4",
    "stages.rft.optimizer.warmup_steps": "1",
    "stages.rft.batch_size": "8",
    "stages.rft.checkpoint_interval": "1",
    "stages.rft.eval_interval": "2",
    "stages.rft.eval_samples": "1",
    "stages.rft.samples_interval": "2",
    "stages.rft.rollout.group_size": "2",
    "stages.rft.rollout.max_completion_tokens": "40",
    "stages.rft.policy_loss.kl_coefficient": "0.1",
}
LONGER = {"stages__sft__steps": "40", "stages__rft__steps": "16"}

MODULE = """
from rft_jax.graders import device_grader

@device_grader(answer="{{ sample.output_text }}")
def short(answer):
    return answer.length < 9
"""


def settings(**more):
    return SMALL | {name.replace("__", "."): value for name, value in more.items()}


@pytest.fixture(scope="module")
def config():
    return apply_overrides(load_config(EXPERIMENT, {}), SMALL)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    train(config, workdir)
    return workdir


def contents(workdir):
    """Metrics without wall-clock fields, samples and final weights."""
    rows = [
        {key: value for key, value in row.items() if key != "timing"}
        for stage in ("sft", "rft")
        for row in read_metrics(workdir / stage / "metrics.jsonl")
    ]
    samples = {p.name: p.read_text() for p in sorted((workdir / "rft" / "samples").iterdir())}
    run, stage, step = open_model(workdir)
    return rows, samples, jax.device_get(run.load_params(stage, step))


def assert_same(workdir, other):
    ours, theirs = contents(workdir), contents(other)
    assert ours[:2] == theirs[:2]
    jax.tree.map(np.testing.assert_array_equal, ours[2], theirs[2])


def command(workdir, **more):
    flags = [f"--config.{name}={value}" for name, value in settings(**more).items()]
    return [sys.executable, "-m", "rft_jax.commands", "train", "--config", EXPERIMENT] + [
        "--workdir", str(workdir), *flags
    ]  # fmt: skip


def size(workdir):
    """Grows with whatever the run writes; folders that Orbax renames meanwhile are passed over."""
    total = 0
    for folder, _, names in os.walk(workdir):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.path.getsize(os.path.join(folder, name))
    return total


@pytest.fixture(scope="module")
def peaceful(tmp_path_factory):
    """A longer run, of the command, that nothing happened to."""
    workdir = tmp_path_factory.mktemp("peaceful")
    subprocess.run(command(workdir, **LONGER), check=True, capture_output=True)
    return workdir


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(peaceful, tmp_path):
    """The process is killed while it starts, compiles, steps, evaluates or saves.

    Twenty kills of a job are in experiments/benchmarks/serve_kills.py.
    """

    def written(stage):
        path = tmp_path / stage / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    choose = random.Random(0)
    compiles = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    for reached, longest, environment in (
        (lambda: size(tmp_path) > 0, 0.3, os.environ),
        (lambda: (tmp_path / "sft").exists(), 2.0, compiles),
        (lambda: written("sft") > 1, 0.3, os.environ),
        (lambda: written("sft") > 15, 0.3, os.environ),
        (lambda: written("rft") > 1, 0.3, os.environ),
        (lambda: written("rft") > 6, 0.3, os.environ),
    ):
        process = subprocess.Popen(
            command(tmp_path, **LONGER),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        while process.poll() is None and not reached():
            time.sleep(0.002)
        time.sleep(choose.uniform(0, longest))
        assert process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(command(tmp_path, **LONGER), check=True, capture_output=True)
    assert_same(tmp_path, peaceful)


# Runs in a mount namespace of its own: the work directory is a small tmpfs, which is filled up
# while the run goes on, and then emptied.
FULL_DISK = """
import os, pathlib, subprocess, sys, time
disk, out, *command = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
metrics, filler = pathlib.Path(disk, "run/sft/metrics.jsonl"), pathlib.Path(disk, "filler")
with open(out, "wb") as log:
    process = subprocess.Popen(command, stdout=log, stderr=log)
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 6:
        assert process.poll() is None
        time.sleep(0.01)
    with filler.open("wb", buffering=0) as file:
        size = 1 << 20
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    status = process.wait()
    print(status, sorted(os.listdir(metrics.parent / "checkpoints")), flush=True)
    filler.unlink()
    subprocess.run(command, stdout=log, stderr=log, check=True)
subprocess.run(["cp", "-r", str(pathlib.Path(disk, "run")), out + ".run"], check=True)
"""


@pytest.mark.slow
def test_a_full_disk_costs_no_more_than_what_it_could_not_take(peaceful, tmp_path):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("needs user namespaces: sysctl kernel.unprivileged_userns_clone=1")
    disk, out = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    script = [sys.executable, "-c", FULL_DISK, str(disk), str(out)]
    driver = ["unshare", "-rm", *script, *command(disk / "run", **LONGER)]
    shown = subprocess.run(driver, check=True, capture_output=True, text=True).stdout
    log = out.read_text()
    assert "warning: a checkpoint could not be written" in log
    assert shown.startswith("1 ") and "could not be written; make room" in log
    assert_same(Path(f"{out}.run"), peaceful)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_in_good_order(tmp_path, number):
    workdir = tmp_path / "run"
    process = subprocess.Popen(
        command(workdir, stages__sft__steps="100000", stages__sft__checkpoint_interval="50000"),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = workdir / "sft" / "metrics.jsonl"
    while not metrics.exists() or len(read_metrics(metrics)) < 5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == 128 + number
    assert f"ended by {number.name}, all saved" in error and "Traceback" not in error
    last = read_metrics(metrics)[-1]["step"]
    assert [int(p.name) for p in (workdir / "sft" / "checkpoints").iterdir()] == [last]


@pytest.mark.slow
def test_a_run_that_was_asked_to_end_goes_on_where_it_was(config, whole, tmp_path, monkeypatch):
    ended = tmp_path / "ended"
    write = MetricsFile.write

    def interrupt(self, row):
        write(self, row)
        if row["step"] == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "write", interrupt)
        for _ in range(2):  # in either stage
            with pytest.raises(Interrupted) as caught:
                train(config, ended)
            assert caught.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    train(config, ended)
    assert_same(ended, whole)


def test_a_work_directory_has_one_process(config, tmp_path):
    with (
        lock_workdir(tmp_path),
        pytest.raises(InputError, match="another process is working in it"),
    ):
        train(config, tmp_path)


def test_a_signal_before_there_is_anything_to_save_ends_at_once(config, tmp_path, monkeypatch):
    handlers = []

    def look(*_):
        handlers.extend(map(signal.getsignal, (signal.SIGTERM, signal.SIGINT)))
        raise InputError

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr("rft_jax.training.open_run", look)
    with pytest.raises(InputError):
        train(config, tmp_path)
    assert handlers == before


def test_a_finished_run_acquires_nothing_for_its_graders(config, whole, monkeypatch):
    monkeypatch.setattr("rft_jax.graders.Grader.open_host", None)
    train(config, whole)


def test_the_reference_policy_is_in_no_checkpoint(whole):
    described = (whole / "rft" / "checkpoints" / "4" / "rest" / "_METADATA").read_text()
    assert "opt_state" in described and "reference" not in described


def test_a_stage_goes_on_from_the_checkpoint_with_which_it_began(config, whole, tmp_path):
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    settings = {"stages.rft.init": f"{other}/sft", "tokenizer.path": f"{other}/tokenizer.model"}
    run = open_run(apply_overrides(config, settings), tmp_path / "run", STAGE_TYPES)
    before = load_init(run, run.stage("rft"))
    shutil.copytree(other / "rft" / "checkpoints" / "4", other / "sft" / "checkpoints" / "99")
    jax.tree.map(np.testing.assert_array_equal, before, load_init(run, run.stage("rft")))


def test_a_file_that_changed_since_the_run_began_is_named(config, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text(Path(config.data.train).read_text())
    config = apply_overrides(config, {"data.train": str(data)})
    open_run(config, tmp_path / "run", STAGE_TYPES)
    data.write_text(data.read_text().replace("days", "weeks"))
    with pytest.raises(InputError, match=r"train\.jsonl: has changed since the run"):
        train(config, tmp_path / "run")


def test_a_start_that_came_to_no_configuration_does_not_bind_the_next(config, tmp_path):
    data, run = tmp_path / "train.jsonl", tmp_path / "run"
    data.write_text(Path(config.data.train).read_text())
    config = apply_overrides(config, {"data.train": str(data)})
    open_run(config, run, STAGE_TYPES)
    before = (run / "tokenizer.model").read_bytes()
    (run / ".lock").touch()
    (run / "config.json").unlink()  # it was killed just before
    data.write_text(data.read_text().replace("days", "weeks"))
    with lock_workdir(run):
        open_run(config, run, STAGE_TYPES)
    assert (run / "tokenizer.model").read_bytes() != before
    open_run(config, run, STAGE_TYPES)  # which now does


def test_a_grader_s_module_that_changed_since_the_run_began_is_named(config, tmp_path, monkeypatch):
    (module := tmp_path / "grader_of_this_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    config = apply_overrides(config, {"grader": "grader_of_this_test:short"})
    open_run(config, tmp_path / "run", STAGE_TYPES)
    module.write_text(MODULE.replace("9", "8"))
    with pytest.raises(InputError, match=r"grader_of_this_test\.py: has changed since the run"):
        open_run(config, tmp_path / "run", STAGE_TYPES)


@pytest.mark.slow
def test_a_run_that_is_made_longer_is_one_that_was_as_long_at_once(config, whole, tmp_path):
    shorter = apply_overrides(config, {"stages.rft.steps": "2", "name": "shorter"})
    train(shorter, tmp_path / "run")
    train(config, tmp_path / "run")
    assert_same(tmp_path / "run", whole)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["name"] == config.name


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_its_steps_only(config, whole, tmp_path, capsys):
    damaged = Path(shutil.copytree(whole, tmp_path / "damaged"))
    newest = damaged / "rft" / "checkpoints" / "4"
    file = next(p for p in sorted(newest.glob("params/**/*")) if p.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    assert entry.main(["eval", "--workdir", str(damaged)]) == 2
    capsys.readouterr()
    train(config, damaged)
    error = capsys.readouterr().err
    assert "going back to the checkpoint before" in error and "going on from step 3" in error
    assert_same(damaged, whole)


def test_updates_without_a_finite_gradient_are_skipped_and_end_the_run(config, tmp_path):
    more = {"learning_rate": "1e30", "warmup_steps": "0", "max_nonfinite_updates": "3"}
    config = apply_overrides(config, {f"stages.sft.optimizer.{k}": v for k, v in more.items()})
    with pytest.raises(RunFailed, match="not finite in 3 steps in a row, up to step 4"):
        train(config, tmp_path)
    rows = read_metrics(tmp_path / "sft" / "metrics.jsonl")
    assert [row["train_skipped_updates"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["train_grad_norm"] is None
    run, stage, step = open_model(tmp_path / "sft")
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(run.load_params(stage, step)))


def test_a_moved_work_directory_goes_on(config, whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    train(config, Path("moved"))
    assert entry.main(["eval", "--workdir", "moved"]) == 0


@pytest.mark.slow
def test_a_run_goes_on_over_another_mesh(config, whole, tmp_path, capsys):
    workdir = Path(shutil.copytree(whole, tmp_path / "run"))
    for step in (3, 4):
        shutil.rmtree(workdir / "rft" / "checkpoints" / str(step))
    train(apply_overrides(config, {"mesh.fsdp": "2", "mesh.tensor": "2"}), workdir)
    assert "rft: going on from step 2" in capsys.readouterr().err
    ours, theirs = contents(workdir)[2], contents(whole)[2]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), ours, theirs)


@pytest.mark.slow
def test_a_run_that_samples_ahead_goes_on_from_a_checkpoint_where_it_was(config, tmp_path, capsys):
    text, letter = "{{ sample.output_text }}", {"type": "string_check", "operation": "ilike"}
    config = dataclasses.replace(
        config, grader=letter | {"name": "e", "input": text, "reference": "e"}
    )
    more = {"async_rollout": "True", "policy_loss.importance": "tis", "checkpoint_interval": "3"}
    more |= {"steps": "6", "eval_interval": "0"}
    config = apply_overrides(config, {f"stages.rft.{k}": v for k, v in more.items()})
    with pytest.raises(InputError, match="the grader runs on the device"):
        train(config, tmp_path / "device")
    config = apply_overrides(config, {"placement": "host"})
    train(config, tmp_path / "ahead")
    rows = read_metrics(tmp_path / "ahead" / "rft" / "metrics.jsonl")
    assert all(row["train_grad_norm"] > 0 for row in rows)
    workdir = Path(shutil.copytree(tmp_path / "ahead", tmp_path / "again"))
    shutil.rmtree(workdir / "rft" / "checkpoints" / "6")
    train(config, workdir)
    assert "rft: going on from step 3" in capsys.readouterr().err
    assert_same(workdir, tmp_path / "ahead")


@pytest.mark.slow
def test_training_ends_early_without_progress(config, tmp_path):
    more = {
        "stages.rft.steps": "40",
        "stages.rft.early_stopping_patience": "1",
        "stages.rft.eval_interval": "1",
    }
    more |= {"stages.rft.optimizer.learning_rate": "1e-12"}  # nothing can get better
    config = apply_overrides(config, more)
    train(config, tmp_path)
    last = read_metrics(tmp_path / "rft" / "metrics.jsonl")[-1]["step"]
    assert last == 1
    train(config, tmp_path)  # and stays ended
    assert read_metrics(tmp_path / "rft" / "metrics.jsonl")[-1]["step"] == 1


def test_a_metrics_file_survives_a_line_cut_by_a_full_disk(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path, 0) as metrics:
        metrics.write({"step": 1})
        real, metrics._file = metrics._file, FullDisk(metrics._file)
        with pytest.raises(OSError, match="No space"):
            metrics.write({"step": 2, "loss": 1.0})
        metrics._file = real
        metrics.write({"step": 3})
    assert [row["step"] for row in read_metrics(path)] == [1, 3]
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 3}


class FullDisk:
    """A file that takes a few bytes more and then no others."""

    def __init__(self, file):
        self._file, self._room = file, 5

    def write(self, data):
        if not self._room:
            raise OSError(28, "No space left on device")
        count, self._room = self._room, 0
        return self._file.write(data[:count])
