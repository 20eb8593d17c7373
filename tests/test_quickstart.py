"""The embedded demonstration, in small: every stage, the comparison and the report."""

import json

import pytest

from rft_jax.commands.entry import main
from rft_jax.config.validate import validate
from rft_jax.quickstart import MODELS, get_config

SMALL = {
    "data.patients_per_gene": 1,
    "data.train_cases": 1,
    "data.valid_cases": 1,
    "data.seen_cases": 1,
    **{f"stages.{name}.steps": 3 for name in MODELS},
    **{f"stages.{name}.optimizer.warmup_steps": 1 for name in MODELS},
}


def test_its_settings_are_sound():
    validate(get_config())


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path, capsys):
    arguments = [f"--config.{name}={value}" for name, value in SMALL.items()]
    assert main(["quickstart", "--workdir", str(tmp_path / "run"), *arguments]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["evaluations"]) == {"genes_unseen", "genes_seen"}
    for comparison in results["evaluations"].values():
        models = comparison["models"]
        assert list(models) == [*MODELS, "ceiling"]
        assert models["ceiling"]["top1"] > 0.5 and models["ceiling"]["malformed_rate"] == 0
        parameters = {name: models[name]["parameters"] for name in MODELS}
        assert parameters["larger_base"] > 3 * parameters["small_base"]
        top1 = [pair for pair in comparison["paired"] if pair["metric"] == "top1"]
        assert len(top1) == 15
    assert "genes_unseen" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
