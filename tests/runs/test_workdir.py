"""A work directory is a run's own, and a run can be made longer where that changes no result."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rft_jax.config import Config, OptimizerConfig, RLStage, SFTStage
from rft_jax.config.overrides import apply_overrides, to_json
from rft_jax.runs.workdir import check_same, lock_workdir
from rft_jax.utils.errors import InputError

CONSTANT = Config(
    stages=(
        SFTStage(name="sft", steps=20, optimizer=OptimizerConfig()),
        RLStage(name="rft", init="sft", steps=40),
    )
)


def lock(workdir):
    with lock_workdir(workdir):
        pass


def check(workdir, config, **changes):
    stored = workdir / "config.json"
    stored.write_text(json.dumps(to_json(config)))
    overrides = {name.replace("__", "."): str(value) for name, value in changes.items()}
    check_same(stored, apply_overrides(config, overrides))


def test_a_new_an_empty_and_a_run_s_directory_are_taken(tmp_path):
    lock(tmp_path / "new")
    lock(tmp_path / "new")  # a run that ended before it had written anything
    (tmp_path / "empty").mkdir()
    lock(tmp_path / "empty")
    (tmp_path / "new" / "config.json").write_text("{}")
    (tmp_path / "new" / "rft").mkdir()
    lock(tmp_path / "new")


@pytest.mark.parametrize("name", ["grader.json", "report.html", "tokenizer.model", "a.jsonl", ".x"])
def test_somebody_s_files_are_neither_overwritten_nor_added_to(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=rf"is not empty .* \(it has {name}\); use a new"):
        lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_what_a_refused_run_leaves_does_not_claim_the_directory(tmp_path):
    with pytest.raises(InputError), lock_workdir(tmp_path):
        raise InputError("bad settings")
    (tmp_path / "grader.json").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        lock(tmp_path)


def test_a_run_that_was_killed_before_it_had_a_configuration_goes_on(tmp_path):
    lock(tmp_path)
    for name in ("tokenizer.model", "grader.json", "inputs.json", "config.json.tmp"):
        (tmp_path / name).write_text("")
    lock(tmp_path)


def test_what_is_looked_at_and_kept_may_change(tmp_path):
    changes = {
        "stages__rft__eval_interval": 3,
        "stages__rft__checkpoint_interval": 7,
        "stages__sft__log_interval": 2,
    }
    check(tmp_path, CONSTANT, name="another", **changes)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_constant_schedule_can_get_more_steps_but_not_fewer(tmp_path_factory, before, after):
    workdir = tmp_path_factory.mktemp("run")
    stages = CONSTANT.stages[0], dataclasses.replace(CONSTANT.stages[1], steps=before)
    config = dataclasses.replace(CONSTANT, stages=stages)
    if after >= before:
        check(workdir, config, stages__rft__steps=after)
    else:
        with pytest.raises(InputError, match="longer but not shorter"):
            check(workdir, config, stages__rft__steps=after)


def test_a_schedule_that_decays_needs_a_stage_on_top(tmp_path):
    decaying = apply_overrides(CONSTANT, {"stages.rft.optimizer.schedule": "cosine"})
    with pytest.raises(InputError, match=rf"another work directory.*init='{tmp_path}/rft'"):
        check(tmp_path, decaying, stages__rft__steps=50)


def test_a_stage_that_another_has_begun_from_stays_as_it_is(tmp_path):
    check(tmp_path, CONSTANT, stages__sft__steps=30)
    (tmp_path / "rft" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="the stage 'rft' after it has begun"):
        check(tmp_path, CONSTANT, stages__sft__steps=30)


def test_more_steps_do_not_hide_another_change(tmp_path):
    with pytest.raises(InputError, match="stages.rft.batch_size: 8 -> 16"):
        check(tmp_path, CONSTANT, stages__rft__steps=50, stages__rft__batch_size=16)
