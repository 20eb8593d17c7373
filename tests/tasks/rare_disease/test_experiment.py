"""The experiment on real cases goes to its end, on made-up ones."""

import json
from pathlib import Path

import pytest

from rft_jax.config import SFTStage
from rft_jax.config.load import load_config
from rft_jax.config.overrides import apply_overrides
from rft_jax.tasks.rare_disease import explanations, hpo
from rft_jax.training import train
from rft_jax.utils.errors import InputError

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "rare_disease.py"
SIZES = {"num_layers": 1, "hidden_size": 16, "head_dim": 8, "intermediate_size": 16}
SUPERVISED = {"steps": 2, "batch_size": 8, "optimizer.warmup_steps": 0}
REINFORCED = {
    "steps": 1,
    "batch_size": 8,
    "eval_interval": 0,
    "optimizer.warmup_steps": 0,
    "rollout.group_size": 2,
    "rollout.prompt_buckets": 1,
    "rollout.max_prompt_tokens": 96,
    "rollout.max_completion_tokens": 16,
    "rollout.output_bytes": 64,
    "rollout.reasoning_effort": 2,
}
SMALL = {"data.patients_per_gene": 20, "data.valid_cases": 2, "tokenizer.vocab_size": 600}


def small(config):
    """Settings with which a configuration's models learn nothing, in little time."""
    settings = dict(SMALL)
    for model in config.models:
        settings |= {f"models.{model.name}.{name}": value for name, value in SIZES.items()}
    for stage in config.training_stages:
        changed = SUPERVISED if isinstance(stage, SFTStage) else REINFORCED
        settings |= {f"stages.{stage.name}.{name}": value for name, value in changed.items()}
    return settings


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", ":direct"])
def test_models_and_baselines_are_compared_on_all_held_out_cases(
    variant, tmp_path, write_archive, make_packet, ontology, load_annotations, monkeypatch
):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_annotations", load_annotations)
    genes = ["GENEA"] * 9 + ["GENEB"] * 9 + ["GENEC"] * 9
    packets = [
        make_packet(f"case {n}", gene, f"PMID:{900 + n}", variant=f"{n}")
        for n, gene in enumerate(genes)
    ]
    config = load_config(f"{EXPERIMENT}{variant}", {})
    settings = small(config) | {"data.archive": write_archive(packets)}
    # Models of one size share their programs, and the host's graders need none.
    settings |= {"placement": "host", "compilation_cache": tmp_path / "programs"}
    config = apply_overrides(config, {name: str(value) for name, value in settings.items()})
    train(config, tmp_path / "run")
    evaluations = json.loads((tmp_path / "run" / "results.json").read_text())["evaluations"]
    assert list(evaluations) == [stage.name for stage in config.eval_stages]
    assert len(evaluations) == 4
    for stage in config.eval_stages:
        found = evaluations[stage.name]
        assert list(found["models"]) == [*stage.models, "annotations", "naive_bayes"]
        for row in found["models"].values():
            assert {"top1", "mrr", "malformed_rate", "mean_list_length", "macro_top1"} <= set(row)
        cases = (tmp_path / "run" / stage.name / "cases.jsonl").read_text().splitlines()
        assert len(cases) == found["cases"] * (stage.samples * len(stage.models) + 2)
        judged = explanations.judge_cases(map(json.loads, cases), {})
        assert list(judged) == list(found["models"])


def test_another_variant_is_refused():
    with pytest.raises(InputError, match="expected reasoned or direct"):
        load_config(f"{EXPERIMENT}:quick", {})
