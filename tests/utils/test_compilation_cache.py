"""Compiled programs are found again, and nothing but time depends on it."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.logging.metrics import CompileCounter
from rft_jax.training import train
from rft_jax.utils.compilation_cache import default_directory, use_compilation_cache
from rft_jax.utils.metrics_file import read_metrics

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "jsonl.py")
SMALL = {
    "models.policy.num_layers": "1",
    "models.policy.hidden_size": "32",
    "tensorboard": "False",
    "stages.sft.steps": "2",
    "stages.sft.optimizer.warmup_steps": "1",
}
SWITCHES = {
    "jax_enable_compilation_cache": True,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_compilation_cache_dir": None,
}


@pytest.fixture
def enabled(monkeypatch, tmp_path):
    """The cache as a user has it, but for programs of any size and another home."""
    before = {name: getattr(jax.config, name) for name in SWITCHES}
    for name, value in SWITCHES.items():
        jax.config.update(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    jax.clear_caches()
    yield tmp_path / "caches" / "rft_jax" / "compilations"
    use_compilation_cache("")
    for name, value in before.items():
        jax.config.update(name, value)


def forget_and_compute():
    jax.clear_caches()
    with CompileCounter() as compiled:
        found = jax.jit(lambda x: jnp.tanh(x @ x).sum(axis=0))(np.eye(64, dtype=np.float32) / 3)
    return np.asarray(found), compiled


def test_the_default_is_the_users_own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_directory() == tmp_path / ".cache" / "rft_jax" / "compilations"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_directory() == Path("/caches/rft_jax/compilations")


def test_a_program_is_compiled_once_and_then_read(enabled):
    use_compilation_cache("")
    _, first = forget_and_compute()  # jax has looked for a folder by now
    use_compilation_cache(None)
    expected, second = forget_and_compute()
    found, third = forget_and_compute()
    assert (first.cached, second.cached, third.count) == (0, 0, 0)
    assert first.count == second.count == third.cached > 0
    assert 0 <= third.seconds < second.seconds
    np.testing.assert_array_equal(found, expected, strict=True)
    assert list(enabled.iterdir())


def test_a_folder_that_jax_was_given_stays(enabled, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    use_compilation_cache(None)
    forget_and_compute()
    assert list((tmp_path / "given").iterdir()) and not enabled.exists()


def test_an_empty_name_switches_it_off(enabled, tmp_path):
    use_compilation_cache(str(tmp_path / "mine"))
    use_compilation_cache("")
    forget_and_compute()
    assert not any((tmp_path / "mine").iterdir()) and not enabled.exists()


def test_a_folder_that_cannot_be_made_costs_only_time(enabled, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    use_compilation_cache(str(tmp_path / "file" / "cache"))
    assert (
        "cannot be kept there (Not a directory); set compilation_cache" in capsys.readouterr().err
    )
    found, compiled = forget_and_compute()
    assert compiled.count > 0 and np.isfinite(found).all()


def test_a_second_run_reads_its_programs_and_learns_the_same(enabled, tmp_path):
    config = apply_overrides(load_config(EXPERIMENT, {}), SMALL)
    config = dataclasses.replace(config, stages=config.stages[:1])
    runs = []
    for name in ("first", "second"):
        jax.clear_caches()
        train(config, tmp_path / name)
        runs.append(read_metrics(tmp_path / name / "sft" / "metrics.jsonl"))
    timings = [[row.pop("timing") for row in rows] for rows in runs]
    (cold, _), (warm, later) = timings
    assert runs[0] == runs[1] and len(runs[0]) == 2
    assert cold["compilations"] > 0 == warm["compilations"] < warm["compilations_cached"]
    assert warm["first_step_seconds"] > 0 and "first_step_seconds" not in later
