"""Where metrics go: JSON lines, TensorBoard's files, Weights & Biases."""

import json
import sys
import types

import numpy as np
import pytest

from rft_jax.logging.metrics import (
    MetricsFile,
    TensorBoardFile,
    WandbRun,
    Writers,
    import_wandb,
    read_metrics,
    scalars,
    to_numbers,
)
from rft_jax.utils.errors import InputError

ROW = {
    "stage": "rft",
    "step": 3,
    "train_reward_mean": np.float32(0.25),
    "train_loss": np.float32("nan"),
    "train_tokens": np.int32(7),
    "timing": {"full_iteration": 1.5},
}
SCALARS = {"train_reward_mean": 0.25, "train_tokens": 7, "timing/full_iteration": 1.5}


class Kept:
    """A writer that remembers, or fails as a full disk does."""

    def __init__(self, full=False):
        self.rows, self.closed, self.full = [], False, full

    def write(self, row):
        if self.full:
            raise OSError(28, "No space left on device")
        self.rows.append(row)

    def close(self):
        self.closed = True


def test_every_writer_gets_the_row_as_numbers(tmp_path):
    kept = Kept()
    with Writers([MetricsFile(tmp_path / "rft" / "metrics.jsonl", 0), kept]) as writers:
        writers.write(ROW)
    (row,) = kept.rows
    assert row == ROW | {"train_reward_mean": 0.25, "train_loss": None, "train_tokens": 7}
    assert read_metrics(tmp_path / "rft" / "metrics.jsonl") == [row]
    assert kept.closed and json.dumps(row)


def test_a_writer_that_fails_is_told_once_and_the_others_go_on(capsys):
    kept = Kept()
    with Writers([Kept(full=True), kept]) as writers:
        for _ in range(3):
            writers.write(ROW)
    assert len(kept.rows) == 3 and kept.closed
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line and line.startswith("warning: Kept")


def test_scalars_are_the_finite_numbers():
    assert scalars(to_numbers(ROW)) == SCALARS


def test_a_stage_has_a_tensorboard_file_a_start(tmp_path):
    for step in (0, 2):
        with Writers([TensorBoardFile(tmp_path / "tensorboard", step)]) as writers:
            writers.write(ROW)
    files = list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert len(files) == 2
    assert all(b"train_reward_mean" in file.read_bytes() for file in files)


@pytest.fixture
def wandb(monkeypatch):
    """Stands for the package, which is no dependency: what `init` was called with, and its runs."""
    calls = []

    def init(**settings):
        run = types.SimpleNamespace(settings=settings, logged=[], finished=False)
        run.log = lambda values, step: run.logged.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        calls.append(run)
        return run

    module = types.ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_a_resumed_stage_continues_its_wandb_run(wandb, tmp_path):
    for _ in range(2):
        with Writers([WandbRun("genes", tmp_path / "rft", "run 3", {"seed": 0})]) as writers:
            writers.write(ROW)
    first, second = wandb
    assert first.settings == second.settings and first.finished
    assert first.settings["project"] == "genes" and first.settings["config"] == {"seed": 0}
    assert first.settings["name"] == "run 3/rft" and first.settings["resume"] == "allow"
    assert first.logged == [(3, SCALARS)]
    other = WandbRun("genes", tmp_path / "sft", "run 3", {})
    other.close()
    assert wandb[2].settings["id"] != first.settings["id"]


def test_wandb_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="pip install wandb"):
        import_wandb()
