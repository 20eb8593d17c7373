"""The experiment on real cases goes to its end, on made-up ones."""

import json
from pathlib import Path

import pytest

from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.tasks.rare_disease import explanations, hpo
from rft_jax.training import train

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "rare_disease.py"
SIZES = {"num_layers": 1, "hidden_size": 16, "head_dim": 8, "intermediate_size": 16}
SMALL = {
    "data.patients_per_gene": 20,
    "data.valid_cases": 2,
    "tokenizer.vocab_size": 600,
    **{
        f"models.{model}.{setting}": value
        for model in ("small", "larger")
        for setting, value in SIZES.items()
    },
    **{
        f"stages.{stage}.{setting}": value
        for stage in ("small_base", "larger_base", "small_sft")
        for setting, value in {
            "steps": 2, "batch_size": 8, "optimizer.warmup_steps": 0
        }.items()
    },
    **{
        f"stages.small_rft.{setting}": value
        for setting, value in {
            "steps": 1, "batch_size": 8, "eval_interval": 0, "rollout.group_size": 2,
            "optimizer.warmup_steps": 0, "rollout.prompt_buckets": 1,
            "rollout.max_prompt_tokens": 64, "rollout.max_completion_tokens": 16,
            "rollout.output_bytes": 64,
        }.items()
    },
}  # fmt: skip


@pytest.mark.slow
def test_models_and_baselines_are_compared_on_all_held_out_cases(
    tmp_path, write_archive, make_packet, ontology, load_annotations, monkeypatch
):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_annotations", load_annotations)
    genes = ["GENEA"] * 9 + ["GENEB"] * 9 + ["GENEC"] * 9
    packets = [
        make_packet(f"case {n}", gene, f"PMID:{900 + n}", variant=f"{n}")
        for n, gene in enumerate(genes)
    ]
    settings = SMALL | {"data.archive": write_archive(packets)}
    settings = {name: str(value) for name, value in settings.items()}
    settings |= {"placement": "host", "compilation_cache": str(tmp_path / "programs")}
    config = apply_overrides(load_config(str(EXPERIMENT), {}), settings)
    train(config, tmp_path / "run")
    evaluations = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]
    stages = [stage for stage in config.stages if not hasattr(stage, "steps")]
    assert list(evaluations) == [stage.name for stage in stages] and len(stages) == 4
    for stage in stages:
        found = evaluations[stage.name]
        assert list(found["models"]) == [*stage.models, "annotations", "naive_bayes"]
        for row in found["models"].values():
            assert {"top1", "mrr", "malformed_rate", "mean_list_length", "macro_top1"} <= set(row)
        cases = (tmp_path / "run" / stage.name / "cases.jsonl").read_text().splitlines()
        assert len(cases) == found["cases"] * (stage.samples * len(stage.models) + 2)
        judged = explanations.judge_cases(map(json.loads, cases), {})
        assert list(judged) == list(found["models"])
