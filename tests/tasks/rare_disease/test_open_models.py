"""The rare-disease job of the open models, on made-up cases and a random checkpoint."""

import pytest

from rft_jax.tasks.rare_disease import hpo

from ..test_open_models import run_tiny


@pytest.mark.slow
def test_rare_disease_runs_to_its_end(
    tmp_path, write_archive, make_packet, ontology, load_annotations, monkeypatch
):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_annotations", load_annotations)
    packets = [
        make_packet(f"case {n}", gene, f"PMID:{900 + n}", variant=f"{n}")
        for n, gene in enumerate(["GENEA"] * 9 + ["GENEB"] * 9 + ["GENEC"] * 9)
    ]
    settings = {"data.archive": write_archive(packets), "data.valid_cases": 2}
    rows = run_tiny("rare_disease", tmp_path / "run", **settings)
    assert sum("valid_audit/reward_mean" in row for row in rows) >= 2
