"""The experiment without a model counts ranks by list and by cleaning."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from rft_jax.tasks.rare_disease import hpo

EXPERIMENT = Path(__file__).parents[3] / "experiments" / "annotations.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("annotations", EXPERIMENT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ties_count_against_a_gene_and_one_outside_of_the_list_has_no_rank(script):
    score = np.array([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    ranks = script.rank_of(["A", "B", "C"], score, ["B", "A", "X"])
    assert ranks.tolist() == [2, 1, 0]


def test_every_cleaning_has_both_lists(
    script, write_archive, make_packet, ontology, table, monkeypatch, capsys
):
    monkeypatch.setattr(hpo, "load_ontology", lambda: ontology)
    monkeypatch.setattr(hpo, "load_table", lambda ontology: table)
    terms = {"GENEA": ("HP:5", "a"), "GENEB": ("HP:10", "b"), "GENEX": ("HP:8", "c")}
    packets = [
        make_packet(f"case {n}", gene, f"PMID:{900 + n}", present=(terms[gene],), variant=f"{n}")
        for n, gene in enumerate(["GENEA", "GENEB", "GENEX"] * 9)
    ]
    arguments = ["annotations.py", "--archive", str(write_archive(packets)), "--valid-cases", "6"]
    monkeypatch.setattr("sys.argv", arguments)
    script.main()
    by_cleaning, by_publications = capsys.readouterr().out.split("\n\n")
    head, _, *rows = by_cleaning.splitlines()
    assert "unseen genes (6)" in head and len(rows) == 10
    lists = [row.split(" | ")[1] for row in rows]
    assert lists == ["open, 3", "closed, 2"] * 5  # GENEC has no case, GENEX no annotation
    _, _, of_all = by_publications.splitlines()
    assert of_all.startswith("| 6 to 10 | 27 | 3 | ")  # nine publications of each gene
